"""One run of an experiment: its configuration, its directory, and workers that play. The stages work on it.

A run that was stopped goes on: every result is a file, and what is there is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from bitroute.engines.engine import CacheMode
from bitroute.engines.registry import fingerprint_of, make_variants
from bitroute.engines.spec import EngineSpec
from bitroute.envs.models import find_model
from bitroute.envs.suite import Role, Suite, check_tasks, split_for
from bitroute.episode import Episode
from bitroute.errors import ConfigError
from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.ranges import TaskRanges, needed, task_ranges
from bitroute.nn.checkpoint import load_model
from bitroute.nn.device import pick_device
from bitroute.nn.tokenizer import Tokenizer, TurnTokenizer
from bitroute.rollout.host import calibration_batches, load_player
from bitroute.rollout.workers import Hosting, Job, Workers, workers
from bitroute.routers.encoder.dataset import TextReader
from bitroute.store.runs import RunDirectory

WHERE: Final = ("device",)  # what may differ when a run goes on: it says where things are computed, not what


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What the stages share. `ladder` is cheapest first, `model` the fingerprint of the language model, `reader` the router's
    eye for texts, `backbone` the directory of the network that encoders start from, if any. `hosts(scheme)` starts workers
    whose low variant is another one.
    """

    config: ExperimentConfig
    directory: RunDirectory
    pool: Workers
    suite: Suite
    ladder: tuple[str, ...]
    model: str
    reader: TextReader
    backbone: Path | None
    hosts: Callable[[str], AbstractContextManager[Workers]]

    @property
    def path(self) -> Path:
        """Where the run's files are."""
        return self.directory.path

    @property
    def device(self) -> torch.device:
        """Where routers are trained. Raises CapabilityError when it is not there."""
        return pick_device(self.config.device)

    def split(self, role: Role) -> str:
        """The suite's split for a role."""
        return split_for(self.suite, role)

    def tasks(self, seed: int) -> TaskRanges:
        """Which tasks the pipeline of a seed takes."""
        return task_ranges(self.config, seed)

    def job(self, split: str, count: int, router: str, policy: str = "", **options: Any) -> Job:
        """A job with the run's episode length and decoding; `policy` is what its episodes are called, the router's
        specification by default.
        """
        config = self.config
        return Job(split, count, router, policy or router, free=config.free, max_steps=config.max_steps, **options)

    def record(self, name: str, job: Job) -> list[Episode]:
        """Play into traces/`name`.jsonl, or read what stands there."""
        return self.pool.record(job, self.path / "traces" / f"{name}.jsonl", name)


def spec_of(config: ExperimentConfig, out: Path) -> EngineSpec:
    """The engine that the run in `out` plays with."""
    return EngineSpec(
        kind=config.engine,
        model=find_model(config.model, config.open_suite()),
        schemes=(config.low,),
        variants=out / "variants",
        cache_mode=CacheMode(config.cache_mode),
        device=config.device,
        dtype=config.dtype,
    )


def open_run(
    config: ExperimentConfig, directory: RunDirectory, pool: Workers, hosts: Callable[[str], AbstractContextManager[Workers]]
) -> Experiment:
    """The run in `directory`. Raises DataError when the model cannot be read."""
    suite = config.open_suite()
    spec = spec_of(config, directory.path)
    backbone = find_model(config.backbone, suite) if config.backbone else None
    return Experiment(
        config=config,
        directory=directory,
        pool=pool,
        suite=suite,
        ladder=spec.ladder,
        model=fingerprint_of(spec),
        reader=TextReader(router_tokenizer(spec.model, backbone, suite), failures=suite.failures),
        backbone=backbone,
        hosts=hosts,
    )


def router_tokenizer(model: Path, backbone: Path | None, suite: Suite) -> TurnTokenizer:
    """The tokenizer by which routers read: the model's own, where it has the markers of turns; of a pretrained model, which has
    not, the backbone's, or that of the suite's model.
    """
    own = Tokenizer.load(model)
    if isinstance(own, TurnTokenizer):
        return own
    return TurnTokenizer.load(backbone or find_model(suite.defaults.model, suite))


@contextmanager
def experiment(config: ExperimentConfig, out: Path, cores: int | None = None) -> Iterator[Experiment]:
    """Open or continue the run in `out`: makes the low variant, starts the workers. Bad input raises before anything is
    written.
    """
    if config.data is not None and not config.data.is_dir():
        raise ConfigError(f"data: {config.data}: no such directory; correct it in the configuration")
    suite, spec = config.open_suite(), spec_of(config, out)
    pick_device(spec.device)
    spec = replace(spec, fingerprint=fingerprint_of(spec))
    backbone = find_model(config.backbone, suite) if config.backbone else None
    words = router_tokenizer(spec.model, backbone, suite).vocab_size
    if backbone is not None and (held := load_model(backbone, torch.float32).config.vocab_size) < words:
        raise ConfigError(f"{backbone}: has {held} tokens, the tokenizer of {spec.model} {words}; want another backbone")
    for split in config.splits:
        check_tasks(suite, split, 1)
    for role, count in zip((Role.TRAIN, Role.VALIDATION), needed(config), strict=True):
        check_tasks(suite, split_for(suite, role), count)
    with RunDirectory(out, config.model_dump(mode="json"), free=WHERE) as directory:

        def hosts(low: str) -> AbstractContextManager[Workers]:
            hosted = replace(spec, schemes=(low,))
            make_variants(hosted, lambda: calibration_batches(suite, spec.model))
            return workers(load_player, Hosting(config.suite, config.data, hosted), cores)

        with hosts(config.low) as pool:
            yield open_run(config, directory, pool, hosts)
