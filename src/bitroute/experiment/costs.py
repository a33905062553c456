"""What the policies of a run cost: rates of the variants from a profile, and the time of each router's decisions.

A profile comes with the model, is given by the configuration, or is made here of the run's own engine. Knows which rates stand
for which variant; how calls are timed is engines/timing.py's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from bitroute.cost import CostModel, Rates, TimedCall
from bitroute.engines.registry import load_engine
from bitroute.engines.spec import EngineSpec
from bitroute.engines.timing import PLAN, REPEATS, time_engine
from bitroute.envs.models import bundled_models, find_model
from bitroute.episode import Episode
from bitroute.errors import CapabilityError, ConfigError
from bitroute.experiment.experiment import Experiment, spec_of
from bitroute.experiment.policies import PolicyRow
from bitroute.nn.device import pick_device
from bitroute.nn.tokenizer import Tokenizer, TurnTokenizer
from bitroute.quantization.stand_ins import TOP, stand_ins
from bitroute.routers.registry import build_router
from bitroute.routers.router import Probe
from bitroute.routers.views import views_of
from bitroute.store.runs import provenance
from bitroute.store.traces import read_traces

LLAMA: Final = "llama.cpp"
TIMED: Final = 8  # labelled episodes on which decisions are timed


def cost_model(run: Experiment, rows: Sequence[PolicyRow]) -> CostModel:
    """The costs of a run, in seconds: what cost.json says, made if it is not there.

    Raises DataError for a profile that cannot be read, CapabilityError where it has no rates for a variant.
    """
    stored = run.directory.stored("cost")
    if stored is None:
        profile = chosen_profile(run)
        names = (*run.config.beside, *run.ladder)
        costs = CostModel(
            unit=profile.unit,
            variants={name: rates_for(profile, name, run.ladder[-1]) for name in names},
            decisions={row.family: decision_seconds(run, row) for row in {row.family: row for row in rows}.values()},
            engine=profile.engine,
            residuals=profile.residuals,
            measured=profile.measured,
        )
        stored = run.directory.keep("cost", costs.model_dump(mode="json"))
    return CostModel.model_validate(stored)


def chosen_profile(run: Experiment) -> CostModel:
    """The profile that the configuration asks for: a file's, the one that comes with the model, or the run's own engine's."""
    wanted, name = run.config.cost, run.config.model
    folder = bundled_models(run.suite).get(str(name)) or find_model(
        name, run.suite
    )  # of an adapter its own, not the merged one
    own = folder / profile_name(LLAMA)
    if wanted == "auto":
        wanted = str(own) if own.exists() else "engine"
    return CostModel.load(Path(wanted)) if wanted != "engine" else profile_engine(spec_of(run.config, run.path))


def profile_name(engine: str) -> str:
    """The file in a model's directory that holds its profile on an engine."""
    return f"cost-{engine}.json"


def profile_engine(spec: EngineSpec, repeats: int = REPEATS) -> CostModel:
    """Time an engine, one context at a time on one thread: processor time on a CPU, which other work does not lengthen."""
    device = pick_device(spec.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        words = Tokenizer.load(spec.model)
        end = words.end if isinstance(words, TurnTokenizer) else words.vocab_size - 1  # any token may end what is timed
        engine = load_engine(spec, end)
        timed = time_engine(engine, repeats=repeats, clock=time.process_time if device.type == "cpu" else time.perf_counter)
        fitted = CostModel.fit(_shown(timed, len(PLAN) * len(engine.ladder)))
    finally:
        torch.set_num_threads(threads)
    return fitted.model_copy(update={"engine": spec.kind, "measured": _measured(spec.model)})


def profile_llama(model: Path, schemes: Sequence[str], folder: Path, repeats: int = REPEATS) -> CostModel:
    """Time llama.cpp's types of a checkpoint, the float16 one besides; their files are written into `folder`."""
    from bitroute.engines.llama_timing import time_llama  # noqa: PLC0415  (its packages are an extra)
    from bitroute.quantization.gguf import export_gguf  # noqa: PLC0415

    words, names = Tokenizer.load(model).vocab_size, [*schemes, TOP]
    timed = (call for name in names for call in time_llama(export_gguf(model, name, folder), name, words, repeats=repeats))
    fitted = CostModel.fit(_shown(timed, len(PLAN) * len(names)))
    return fitted.model_copy(update={"engine": LLAMA, "measured": _measured(model)})


def _shown(timed: Iterable[TimedCall], count: int) -> Iterable[TimedCall]:
    return tqdm(timed, total=count, desc="profile", unit="call")


def _measured(model: Path) -> dict[str, Any]:
    return provenance() | {"model": model.name, "date": datetime.now(UTC).date().isoformat()}


def rates_for(profile: CostModel, variant: str, top: str) -> Rates:
    """The rates of a variant; `top` is the name of the checkpoint as it is stored.

    What the profile does not name is stood for: on llama.cpp by the types nearest in width, elsewhere, where variants are held
    as dense weights and differ in nothing that takes time, by the first one timed. Raises CapabilityError where nothing does.
    """
    if variant in profile.variants:
        return profile.variants[variant]
    if profile.engine != LLAMA:
        return next(iter(profile.variants.values()))
    try:
        parts = {TOP: 1.0} if variant == top else stand_ins(variant)
        rates, *others = (profile.variants[name] for name in parts)
    except (ConfigError, KeyError) as error:
        known = ", ".join(profile.variants)
        raise CapabilityError(
            f"cost: the profile has no rates for {variant} (it knows {known}); bitroute profile makes one"
        ) from error
    return rates.mixed(others[0], list(parts.values())[1]) if others else rates


def decision_seconds(run: Experiment, row: PolicyRow) -> float:
    """The mean time of a decision of a row's router, one episode at a time; 0 for what compares what others measured."""
    router = build_router(row.router, row_ladder(run, row), run.model).to(str(run.device))
    if router.probes & {Probe.SENSITIVITY, Probe.VERIFICATION}:
        return 0.0
    seconds, steps = 0.0, 0
    for episode in labelled_episodes(run):
        state = router.begin(0)
        for view in views_of(episode):
            start = time.process_time()
            router.decide([view], [state])
            seconds += time.process_time() - start
            steps += 1
    return seconds / max(1, steps)


def row_ladder(run: Experiment, row: PolicyRow) -> tuple[str, ...]:
    """The ladder that a row is played with."""
    return run.ladder if row.scheme is None else (row.scheme, run.ladder[-1])


def labelled_episodes(run: Experiment) -> Iterable[Episode]:
    """Some of the episodes that the run labelled."""
    path = min((run.path / "traces").glob("seed-*/labels-1-*.jsonl"))
    return [episode for _, episode in zip(range(TIMED), read_traces(path), strict=False)]
