"""Which tasks a seed's pipeline takes: no two seeds share a task to label, to reinforce, to hold out or to calibrate on.

Knows the numbers of a configuration and where they lie in the training and the validation split; no suite and no files.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitroute.experiment.config import ExperimentConfig
from bitroute.training.recipes import PAPER, GrpoRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRanges:
    """Task indices of one seed. Of the training split: `first` and `second` are the two rounds of labels, `reinforced` is what
    stage 2 plays. Of the validation split: `holdout` chooses tau, targets and the epoch, `calibration` the thresholds.
    """

    first: range
    second: range
    reinforced: range
    holdout: range
    calibration: range


def task_ranges(config: ExperimentConfig, seed: int) -> TaskRanges:
    """The ranges of `seed`. They follow from its number alone: a run with other seeds besides takes the same tasks for it."""
    labels = config.label_tasks
    played = max(map(reinforced, (config.grpo, PAPER) if "paper" in config.ablations else (config.grpo,)))
    train = seed * (2 * labels + played)
    held = seed * (config.holdout_tasks + config.calibration_tasks)
    return TaskRanges(
        first=range(train, train + labels),
        second=range(train + labels, train + 2 * labels),
        reinforced=range(train + 2 * labels, train + 2 * labels + played),
        holdout=range(held, held + config.holdout_tasks),
        calibration=range(held + config.holdout_tasks, held + config.holdout_tasks + config.calibration_tasks),
    )


def reinforced(recipe: GrpoRecipe) -> int:
    """How many tasks a training of stage 2 plays: those that are screened, or fresh ones in each iteration."""
    return recipe.screen if recipe.screen and recipe.iterations else recipe.iterations * recipe.tasks


def needed(config: ExperimentConfig) -> tuple[int, int]:
    """How many tasks the training and the validation split must have for all seeds."""
    last = task_ranges(config, max(config.seeds))
    return last.reinforced.stop, last.calibration.stop
