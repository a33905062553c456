"""Labels recorded steps with both variants of a model: KL(high || low) over the answer, teacher-forced as its format writes it.

Nothing is played: episodes are read as they went, so labels are along the trajectories of whoever served them. The divergence
of a step is over the answer that the high variant gave; where low answered, over the one that high generates there, greedily.
Knows traces, an engine and a format of texts as tokens; no router.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from tqdm import tqdm

from bitroute.agents.template import StepTokens
from bitroute.engines.engine import Engine, Sampling
from bitroute.engines.sensitivity import isolated, step_divergences
from bitroute.episode import Episode, Sensitivity
from bitroute.errors import DataError
from bitroute.store.traces import TraceWriter, read_traces

LONGEST: Final = 512  # tokens of an answer that high generates itself
GROUP: Final = 16  # episodes that are labelled together
SCORED: Final = 1 << 26  # log-probabilities in memory at a time: tokens times vocabulary

log = logging.getLogger(__name__)


class Format(Protocol):
    """How recorded texts read as the model's tokens. `agents/chat.py` is one."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def steps(self, messages: Sequence[str], actions: Sequence[str]) -> Iterable[StepTokens]:
        """The tokens of each step of an episode. Raises DataError, when it comes to it, for a step that cannot be written."""
        ...

    def parse(self, tokens: Sequence[int]) -> str:
        """The text of a generated answer."""
        ...


def label(engine: Engine[Any], form: Format, episodes: Sequence[Episode], high: str) -> list[Episode]:
    """The episodes with a label on every step, in order. `high` is what the traces call the high variant.

    An episode ends before the step that the engine has no room for or the format cannot write (the log says which); what is
    empty then is left out.
    """
    spelled = [spell(form, episode) for episode in episodes]
    ends = {index: len(steps) for index, steps in enumerate(spelled)}
    labels: list[list[Sensitivity]] = [[] for _ in episodes]
    contexts = [engine.open() for _ in episodes]
    for number in range(max(ends.values(), default=0)):
        active = []
        for index in [i for i, end in ends.items() if end > number]:
            step = spelled[index][number]
            if step.kept + len(step.prompt) + max(LONGEST, len(step.completion)) > engine.max_length:
                ends[index] = number
                continue
            if step.kept < engine.length(contexts[index]):
                engine.rollback(contexts[index], step.kept)
            engine.extend(contexts[index], step.prompt)
            active.append(index)
        recorded = {i: spelled[i][number].completion for i in active if episodes[i].steps[number].decision.variant == high}
        answers = recorded | _generate(engine, {i: contexts[i] for i in active if i not in recorded})
        for batch in _batches(active, answers, SCORED // form.vocab_size):
            rows = []
            for variant in (engine.ladder[-1], engine.ladder[0]):
                with isolated(engine, [contexts[i] for i in batch]) as used:
                    rows.append(engine.score(used, [answers[i] for i in batch], variant))
            for index, at_high, at_low in zip(batch, *rows, strict=True):
                tokens, parts = answers[index], step_divergences(at_high, at_low, None)
                agrees = list(at_low.argmax(axis=-1)) == list(tokens)  # teacher-forced, low would have gone the same way
                text = episodes[index].steps[number].action if index in recorded else form.parse(tokens)
                total = sum(parts)
                labels[index].append(Sensitivity(total, total / len(parts), max(parts), total, text, agrees))
        for index in active:
            engine.extend(contexts[index], spelled[index][number].completion)
    for context in contexts:
        engine.close(context)
    return [
        replace(e, steps=tuple(replace(s, sensitivity=found) for s, found in zip(e.steps, own, strict=False)))
        for e, own in zip(episodes, labels, strict=True)
        if own
    ]


def label_all(engine: Engine[Any], form: Format, episodes: Sequence[Episode], high: str, path: Path) -> list[Episode]:
    """Label into a trace file, group by group; what it holds already is not done again."""
    done = list(read_traces(path)) if path.exists() else []
    known = {episode.task_id for episode in done}
    with TraceWriter(path) as writer, tqdm(total=len(episodes), desc="labels", unit="episode") as bar:
        for group in _groups(episodes):
            for episode in label(engine, form, [e for e in group if e.task_id not in known], high):
                writer.write(episode)
            bar.update(len(group))
    return list(read_traces(path))


def spell(form: Format, episode: Episode) -> list[StepTokens]:
    """The tokens of an episode's steps, up to the first that the format cannot write; the log names it."""
    steps: list[StepTokens] = []
    try:
        steps.extend(form.steps([s.message for s in episode.steps], [s.action for s in episode.steps]))
    except DataError as error:
        log.warning("episode %s ends before step %d: %s", episode.task_id, len(steps), error)
    return steps


def _generate(engine: Engine[Any], contexts: dict[int, Any]) -> dict[int, list[int]]:
    """What high answers, by the same keys. The contexts stay as they were."""
    if not contexts:
        return {}
    with isolated(engine, list(contexts.values())) as used:
        names, free = [engine.ladder[-1]] * len(used), [None] * len(used)
        generated = engine.generate(used, names, free, Sampling(max_tokens=LONGEST))
        return {index: list(generation.tokens) for index, generation in zip(contexts, generated, strict=True)}


def _batches(indices: Sequence[int], answers: dict[int, list[int]], room: int) -> Iterator[list[int]]:
    """The indices in batches whose answers have `room` tokens at most (a longer answer is a batch of its own)."""
    batch: list[int] = []
    size = 0
    for index in indices:
        if batch and size + len(answers[index]) > room:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += len(answers[index])
    if batch:
        yield batch


def _groups(episodes: Sequence[Episode]) -> Iterator[list[Episode]]:
    """Episodes of about equal length together."""
    order = sorted(episodes, key=lambda e: (len(e.steps), e.task_id))
    for first in range(0, len(order), GROUP):
        yield order[first : first + GROUP]
