"""From recorded traffic to a router: labels the steps of traces with both variants of a model, and trains stage 1 on them.

Nothing is played: episodes are read as they went, so labels are along the trajectories of whoever served them. The divergence
of a step is over the answer that the high variant gave; where low answered, over the one that high generates there, greedily.
Knows traces, an engine and an agent's prompt format, and no environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from bitroute.agents.agent import Agent
from bitroute.engines.engine import Engine, Sampling
from bitroute.engines.loading import HIGH, host, identity, quantize
from bitroute.engines.sensitivity import isolated, step_divergences
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.episode import Episode, Sensitivity
from bitroute.errors import ConfigError, DataError
from bitroute.nn.tokenizer import Tokenizer
from bitroute.quantization.scheme import Scheme
from bitroute.routers.calibrated import Calibrated, save_calibration
from bitroute.routers.encoder.dataset import Reader, Trajectory, read_episode
from bitroute.routers.encoder.network import EncoderNetwork, encoder_config
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.router import SavedRouter
from bitroute.routers.signals import Floats, SignalsRouter, features, fit
from bitroute.routers.views import views_of
from bitroute.store.runs import RunDirectory, digest
from bitroute.store.traces import TraceWriter, read_traces
from bitroute.training.supervised import LabelledTrajectory, SupervisedRecipe, predict, train_supervised

BUDGETS: Final = (0.1, 0.2, 0.3, 0.5)  # that thresholds are given for
BUDGET: Final = 0.3  # at which tau and the epoch are chosen
QUANTILES: Final = (0.7, 0.8, 0.9)  # candidates for tau
LONGEST: Final = 512  # tokens of an action that high generates itself
GROUP: Final = 16  # episodes that are labelled together
HELD: Final = 5  # one in so many groups of episodes is held out


def label(engine: Engine[Any], agent: Agent, episodes: Sequence[Episode], high: str) -> list[Episode]:
    """The episodes with a label on every step, in order. `high` is what the traces call the high variant.

    An episode ends before the step that the engine has no room for; what is empty then is left out.
    """
    ends = {index: len(episode.steps) for index, episode in enumerate(episodes)}
    labels: list[list[Sensitivity]] = [[] for _ in episodes]
    contexts = [engine.open() for _ in episodes]
    for number in range(max(ends.values(), default=0)):
        active = []
        for index in [i for i, end in ends.items() if end > number]:
            step, context = episodes[index].steps[number], contexts[index]
            prompt = agent.prompt(step.message, first=number == 0)
            if engine.length(context) + len(prompt) + max(LONGEST, len(agent.completion(step.action))) > engine.max_length:
                ends[index] = number
                continue
            engine.extend(context, prompt)
            active.append(index)
        chosen = [contexts[i] for i in active]
        actions = _actions(engine, agent, chosen, [episodes[i].steps[number] for i in active], high)
        rows = []
        for variant in (engine.ladder[-1], engine.ladder[0]):
            with isolated(engine, chosen) as used:
                rows.append(engine.score(used, actions, variant))
        for index, tokens, at_high, at_low in zip(active, actions, *rows, strict=True):
            parts = step_divergences(at_high, at_low, None)
            agrees = list(at_low.argmax(axis=-1)) == list(tokens)  # teacher-forced, low would have gone the same way
            total = sum(parts)
            labels[index].append(Sensitivity(total, total / len(parts), max(parts), total, agent.parse(tokens), agrees))
            engine.extend(contexts[index], agent.completion(episodes[index].steps[number].action))
    for context in contexts:
        engine.close(context)
    return [
        replace(e, steps=tuple(replace(s, sensitivity=found) for s, found in zip(e.steps, own, strict=False)))
        for e, own in zip(episodes, labels, strict=True)
        if own
    ]


def _actions(
    engine: Engine[Any], agent: Agent, contexts: Sequence[Any], steps: Sequence[Any], high: str
) -> list[Sequence[int]]:
    """High's action at each step: the recorded one where it is high's."""
    actions = {i: agent.completion(step.action) for i, step in enumerate(steps) if step.decision.variant == high}
    other = [i for i in range(len(steps)) if i not in actions]
    if other:
        with isolated(engine, [contexts[i] for i in other]) as used:
            names, free = [engine.ladder[-1]] * len(used), [None] * len(used)
            for i, generation in zip(other, engine.generate(used, names, free, Sampling(max_tokens=LONGEST)), strict=True):
                actions[i] = list(generation.tokens)
    return [actions[i] for i in range(len(steps))]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labelled episodes as training input, each step once: `rows` [n, features] and `divergences` [n] for the regression."""

    labelled: list[LabelledTrajectory]
    rows: Floats
    divergences: Floats


def lessons(reader: Reader, episodes: Sequence[Episode], high: str, failures: Sequence[str] = ()) -> TrainingSet:
    """Steps that were met before with the very same history (a branch's beginning, an opening played again) are read, not
    learned from again. `failures` are the environment's phrases that features count as a failure.
    """
    seen: set[bytes] = set()
    found: list[LabelledTrajectory] = []
    rows: list[Floats] = []
    for episode in episodes:
        chain, fresh = b"", []
        for step in episode.steps:
            chain = blake2b(chain + repr(step.message).encode(), digest_size=16).digest()
            fresh.append(chain not in seen)
            seen.add(chain)
            chain = blake2b(chain + repr(step.action).encode(), digest_size=16).digest()
        kept = [t for t, new in enumerate(fresh) if new]
        if kept:
            divergences = [s.sensitivity.kl_sum for s in episode.steps if s.sensitivity]
            found.append(LabelledTrajectory(_only(read_episode(reader, episode, high), kept), [divergences[t] for t in kept]))
            rows += [features(view, high, failures=failures) for t, view in enumerate(views_of(episode)) if fresh[t]]
    return TrainingSet(found, np.array(rows), np.array([d for row in found for d in row.divergences]))


def _only(trajectory: Trajectory, steps: Sequence[int]) -> Trajectory:
    """The same tokens with the decisions and actions of some steps."""
    ends = [*trajectory.decisions[1:], len(trajectory.tokens)]
    spans = [(trajectory.decisions[t], ends[t]) for t in steps]
    return Trajectory(
        trajectory.tokens,
        [trajectory.decisions[t] for t in steps],
        [trajectory.signals[t] for t in steps],
        [at for at in trajectory.actions if any(first < at < end for first, end in spans)],
    )


def split(episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """Training and held-out episodes: those that begin with the same message stay together, where there are enough others."""
    openings = {e.steps[0].message for e in episodes}
    alike = len(openings) < 2 * HELD

    def held(episode: Episode) -> bool:
        name = episode.task_id if alike else episode.steps[0].message
        return blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()[0] % HELD == 0

    parts: tuple[list[Episode], list[Episode]] = ([], [])
    for episode in episodes:
        parts[held(episode)].append(episode)
    if not all(parts):
        raise DataError(f"{len(episodes)} episodes are too few to hold some out; record more")
    return parts


def train_recorded(
    traces: Path, model: Path, low: str, high: str | None, out: Path, failures: Sequence[str] = ()
) -> dict[str, Any]:
    """Label the traces and train both learned routers into `out`; what was found, as numbers. `failures` are phrases by which
    the environment refuses an action.

    A run that was stopped goes on with the next episode. Raises DataError for unreadable traces or too few of them, ConfigError
    where it does not show which variant of the traces is the high one.
    """
    scheme, tokenizer, name = Scheme.parse(low), Tokenizer.load(model), identity(model)
    episodes = [e for e in read_traces(traces) if e.steps]
    top = high_of(episodes, high)
    agent = AlfworldAgent(tokenizer)
    settings = {"traces": digest(traces), "model": name, "low": str(scheme), "high": top}
    with RunDirectory(out, settings) as run:

        def calibration() -> tuple[list[torch.Tensor], str]:
            reader = Reader(tokenizer)
            tokens = [read_episode(reader, e, top).tokens[:1024] for e in episodes[:64]]
            return [torch.tensor([row]) for row in tokens], f"{len(tokens)} recorded episodes"

        quantize(model, low, out / "variants", calibration)
        engine = host(model, (low,), out / "variants", end_token=tokenizer.end)
        labelled = label_all(engine, agent, episodes, top, out / "traces" / "labels.jsonl")
        return run.once("metrics", lambda: train(labelled, tokenizer, top, (low, HIGH), name, out / "routers", failures))


def high_of(episodes: Sequence[Episode], given: str | None) -> str:
    """What the traces call the high variant. Raises ConfigError where that does not show."""
    names = {step.decision.variant for e in episodes for step in e.steps}
    if given is not None:
        return given
    for name in ("high", HIGH):
        if name in names:
            return name
    raise ConfigError(f"the traces hold the variants {', '.join(sorted(names)) or 'none'}: say which is the high one by --high")


def label_all(engine: Engine[Any], agent: Agent, episodes: Sequence[Episode], high: str, path: Path) -> list[Episode]:
    """Label into a trace file, group by group; what it holds already is not done again."""
    done = list(read_traces(path)) if path.exists() else []
    known = {episode.task_id for episode in done}
    with TraceWriter(path) as writer, tqdm(total=len(episodes), desc="labels", unit="episode") as bar:
        for group in _groups(episodes):
            for episode in label(engine, agent, [e for e in group if e.task_id not in known], high):
                writer.write(episode)
            bar.update(len(group))
    return list(read_traces(path))


def _groups(episodes: Sequence[Episode]) -> Iterator[list[Episode]]:
    """Episodes of about equal length together."""
    order = sorted(episodes, key=lambda e: (len(e.steps), e.task_id))
    for first in range(0, len(order), GROUP):
        yield order[first : first + GROUP]


def train(
    episodes: Sequence[Episode],
    tokenizer: Tokenizer,
    high: str,
    ladder: Sequence[str],
    model: str,
    out: Path,
    failures: Sequence[str] = (),
    quantiles: Sequence[float] = QUANTILES,
) -> dict[str, Any]:
    """Both routers from labelled episodes: out/kl-st (the encoder) and out/signals.json, each with a calibration.

    tau and the epoch are those that capture most of the divergence of held-out episodes at `BUDGET`. Thresholds are quantiles
    of held-out scores: nothing was played at them, so the gateway's own budget control has the last word.
    """
    reader = Reader(tokenizer)
    first, second = split(episodes)
    data, held = (lessons(reader, part, high, failures) for part in (first, second))
    told = all(step.signals is not None for e in episodes for step in e.steps)
    best: tuple[float, float, EncoderNetwork] | None = None
    candidates = {float(np.quantile(data.divergences, q)) for q in quantiles}
    for tau in sorted(t for t in candidates if 0 < (data.divergences >= t).mean() < 1):
        torch.manual_seed(0)
        network = EncoderNetwork(encoder_config(tokenizer.vocab_size), use_signals=told)
        curve = train_supervised(network, data.labelled, held.labelled, tau, SupervisedRecipe(), BUDGET)
        captured = max(row["captured"] for row in curve)
        if best is None or captured > best[0]:
            best = captured, tau, network
    if best is None:
        raise DataError(f"{len(data.divergences)} steps: both variants do about the same on all of them; record other traffic")
    captured, tau, network = best
    scores = predict(network, held.labelled)
    encoder = EncoderRouter(network, tokenizer, ladder, float(np.quantile(scores, 1 - BUDGET)), model=model)
    _keep(encoder, out / "kl-st", scores)
    regression = SignalsRouter(fit(data.rows, data.divergences >= tau, ladder, model, failures=failures))
    logits = np.array([regression.score(row) for row in held.rows])
    _keep(regression.with_options(threshold=float(np.quantile(logits, 1 - BUDGET))), out / "signals.json", logits)
    steps = len(data.divergences) + len(held.divergences)
    return {"episodes": len(episodes), "steps": steps, "tau": tau, "captured": captured, "signals": told}


def _keep(router: SavedRouter, path: Path, scores: Floats) -> None:
    """Save a router with the thresholds that spend each budget on the scores of held-out steps."""
    router.save(path)
    rows = []
    for budget in BUDGETS:
        threshold = float(np.quantile(scores, 1 - budget))
        rows.append(Calibrated(budget, threshold, float((scores > threshold).mean())))
    save_calibration(path, rows)
