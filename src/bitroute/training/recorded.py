"""From recorded traffic to a router: has the steps of traces labelled by both variants of a model, and trains stage 1 on them.

Texts become the model's tokens by its own chat template, and the router's by a tokenizer of its own: a vocabulary of 150,000
would make its embeddings sixty times as large as the rest of it. Knows traces and directories, and no environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bitroute.agents.chat import ChatAgent
from bitroute.agents.template import ChatTemplate
from bitroute.engines.registry import check_scheme, fingerprint_of, load_engine, make_variants
from bitroute.engines.spec import EngineSpec
from bitroute.episode import Episode
from bitroute.errors import ConfigError, DataError
from bitroute.nn.device import pick_device
from bitroute.nn.tokenizer import TurnTokenizer, train_tokenizer
from bitroute.routers.calibrated import Calibrated, save_calibration
from bitroute.routers.encoder.dataset import TextReader, Trajectory, read_episode
from bitroute.routers.encoder.network import EncoderNetwork, encoder_config
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.features import FEATURES, Floats
from bitroute.routers.router import SavedRouter
from bitroute.routers.signals import SignalsRouter, fit_signals
from bitroute.store.runs import RunDirectory, digest
from bitroute.store.traces import read_traces
from bitroute.training.labelling import label_all, spell
from bitroute.training.recipes import SupervisedRecipe
from bitroute.training.supervised import LabelledTrajectory, predict, train_supervised

BUDGETS: Final = (0.1, 0.2, 0.3, 0.5)  # that thresholds are given for
BUDGET: Final = 0.3  # at which tau and the epoch are chosen
QUANTILES: Final = (0.7, 0.8, 0.9)  # candidates for tau
VOCABULARY: Final = 2048  # tokens of a router's own tokenizer, and the most that it takes over from its model
HELD: Final = 5  # one in so many groups of episodes is held out


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labelled episodes as training input, each step once: `rows` [n, features] and `divergences` [n] for the regression."""

    labelled: list[LabelledTrajectory]
    rows: Floats
    divergences: Floats


def training_set(reader: TextReader, episodes: Sequence[Episode], high: str, room: int) -> TrainingSet:
    """Steps that were met before with the very same history (a branch's beginning, an opening played again) are read, not
    learned from again. Of an episode longer than the encoder's `room`, in its tokens, the beginning is learned.
    """
    seen: set[bytes] = set()
    found: list[LabelledTrajectory] = []
    rows: list[list[float]] = []
    for episode in episodes:
        chain, fresh = b"", []
        for step in episode.steps:
            chain = blake2b(chain + repr(step.message).encode(), digest_size=16).digest()
            fresh.append(chain not in seen)
            seen.add(chain)
            chain = blake2b(chain + repr(step.action).encode(), digest_size=16).digest()
        trajectory = read_episode(reader, episode, high)
        kept = [t for t, new in enumerate(fresh) if new and trajectory.decisions[t] < room]
        if kept:
            divergences = [s.sensitivity.kl_sum for s in episode.steps if s.sensitivity]
            found.append(LabelledTrajectory(_only(trajectory, kept, room), [divergences[t] for t in kept]))
            rows += [trajectory.features[t] for t in kept]
    return TrainingSet(found, np.array(rows), np.array([d for row in found for d in row.divergences]))


def _only(trajectory: Trajectory, steps: Sequence[int], room: int) -> Trajectory:
    """The same tokens, as far as there is room, with the decisions and actions of some steps."""
    ends = [*trajectory.decisions[1:], len(trajectory.tokens)]
    spans = [(trajectory.decisions[t], min(ends[t], room)) for t in steps]
    return Trajectory(
        trajectory.tokens[:room],
        [trajectory.decisions[t] for t in steps],
        [trajectory.signals[t] for t in steps],
        [trajectory.features[t] for t in steps],
        [at for at in trajectory.actions if any(first < at < end for first, end in spans)],
    )


def split_episodes(episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
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
    traces: Path,
    model: Path,
    low: str,
    high: str | None,
    out: Path,
    *,
    failures: Sequence[str] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    engine: str = "torch",
    device: str = "auto",
    dtype: str = "float32",
) -> dict[str, Any]:
    """Label the traces and train both learned routers into `out`; what was found, as numbers. `failures` are phrases by which
    the environment refuses an action.

    `tools` are the definitions that the recorded requests had, which traces lack. A run that was stopped goes on with the next
    episode. `engine` is the kind that hosts the model; it computes on `device` in `dtype`, and the encoder is trained there.
    Raises DataError for unreadable traces, too few of them, and a model without a usable chat template, ConfigError
    where it does not show which variant of the traces is the high one.
    """
    check_scheme(engine, low)
    place, agent = pick_device(device), ChatAgent(ChatTemplate.load(model, tools))
    spec = EngineSpec(kind=engine, model=model, schemes=(low,), variants=out / "variants", device=device, dtype=dtype)
    name = fingerprint_of(spec)
    episodes = [e for e in read_traces(traces) if e.steps]
    top = high_of(episodes, high, ("high", spec.high))
    settings = {"traces": digest(traces), "model": name, "low": low, "high": top, "template": agent.template.digest}
    settings |= {"engine": engine, "dtype": dtype}
    with RunDirectory(out, settings) as run:
        make_variants(spec, partial(calibration, agent, episodes))
        hosted = load_engine(replace(spec, fingerprint=name), agent.end)
        labelled = label_all(hosted, agent, episodes, top, out / "traces" / "labels.jsonl")
        tokenizer = router_tokenizer(model, episodes)
        return run.once(
            "metrics",
            lambda: train_on_labels(labelled, tokenizer, top, spec.ladder, name, out / "routers", failures, place=place),
        )


def calibration(agent: ChatAgent, episodes: Sequence[Episode]) -> tuple[list[torch.Tensor], str]:
    """Token batches [1, t] for GPTQ: recorded episodes as the model read them."""
    batches = []
    for episode in episodes[:64]:
        tokens: list[int] = []
        for step in spell(agent, episode):
            tokens = [*tokens[: step.kept], *step.prompt, *step.completion]
        batches.append(torch.tensor([tokens[:1024]]))
    return batches, f"{len(batches)} recorded episodes"


def router_tokenizer(model: Path, episodes: Sequence[Episode]) -> TurnTokenizer:
    """The tokenizer of the router: the model's, where that is one of this package and small, else one for the traces' texts."""
    try:
        own = TurnTokenizer.load(model)
    except DataError:  # it lacks our special tokens, or is no tokenizers file
        own = None
    if own is not None and own.vocab_size <= VOCABULARY:
        return own
    return train_tokenizer({text for e in episodes for s in e.steps for text in (s.message, s.action)}, VOCABULARY)


def high_of(episodes: Sequence[Episode], given: str | None, usual: Sequence[str] = ("high",)) -> str:
    """What the traces call the high variant: the `given` name, or one of the `usual` ones. Raises ConfigError where that does
    not show, and for a given name that the traces do not hold.
    """
    names = {step.decision.variant for e in episodes for step in e.steps}
    held = ", ".join(sorted(names)) or "none"
    if given is not None:
        if given not in names:
            raise ConfigError(f"--high {given}: no step of the traces was answered by it; they hold the variants {held}")
        return given
    for name in usual:
        if name in names:
            return name
    raise ConfigError(f"the traces hold the variants {held}: say which is the high one by --high")


def train_on_labels(
    episodes: Sequence[Episode],
    tokenizer: TurnTokenizer,
    high: str,
    ladder: Sequence[str],
    model: str,
    out: Path,
    failures: Sequence[str] = (),
    quantiles: Sequence[float] = QUANTILES,
    place: torch.device | None = None,
) -> dict[str, Any]:
    """Both routers from labelled episodes: out/kl-st (the encoder) and out/signals.json, each with a calibration.

    tau and the epoch are those that capture most of the divergence of held-out episodes at `BUDGET`. Thresholds are quantiles
    of held-out scores: nothing was played at them, so the gateway's own budget control has the last word. `place` is the device
    that the encoder is trained on, the processor by default.
    """
    reader, config = TextReader(tokenizer, failures=failures), encoder_config(tokenizer.vocab_size)
    room = config.max_position_embeddings
    data, held = (training_set(reader, part, high, room) for part in split_episodes(episodes))
    if not data.labelled or not held.labelled:
        raise DataError(f"no message fits into the {room} tokens that the router reads")
    has_signals = all(step.signals is not None for e in episodes for step in e.steps)
    best: tuple[float, float, EncoderNetwork] | None = None
    candidates = {float(np.quantile(data.divergences, q)) for q in quantiles}
    for tau in sorted(t for t in candidates if 0 < (data.divergences >= t).mean() < 1):
        torch.manual_seed(0)
        network = EncoderNetwork(config, use_signals=has_signals, features=FEATURES).to(place)
        curve = train_supervised(network, data.labelled, held.labelled, tau, SupervisedRecipe(), BUDGET)
        captured = max(row["captured"] for row in curve)
        if best is None or captured > best[0]:
            best = captured, tau, network
    if best is None:
        raise DataError(f"{len(data.divergences)} steps: both variants do about the same on all of them; record other traffic")
    captured, tau, network = best
    scores = predict(network, held.labelled)
    threshold = float(np.quantile(scores, 1 - BUDGET))
    encoder = EncoderRouter(network, tokenizer, ladder, threshold, model=model, failures=failures)
    _keep(encoder, out / "kl-st", scores)
    regression = SignalsRouter(fit_signals(data.rows, data.divergences >= tau, ladder, model, failures=failures))
    logits = np.array([regression.score(row) for row in held.rows])
    _keep(regression.with_options(threshold=float(np.quantile(logits, 1 - BUDGET))), out / "signals.json", logits)
    steps = len(data.divergences) + len(held.divergences)
    return {"episodes": len(episodes), "steps": steps, "tau": tau, "captured": captured, "signals": has_signals}


def _keep(router: SavedRouter, path: Path, scores: Floats) -> None:
    """Save a router with the thresholds that spend each budget on the scores of held-out steps."""
    router.save(path)
    rows = []
    for budget in BUDGETS:
        threshold = float(np.quantile(scores, 1 - budget))
        rows.append(Calibrated(budget, threshold, float((scores > threshold).mean())))
    save_calibration(path, rows)
