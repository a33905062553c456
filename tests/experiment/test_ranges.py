"""Which tasks a seed takes: ranges that never meet."""

from itertools import combinations

from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.ranges import TaskRanges, needed, task_ranges
from bitroute.training.recipes import GrpoRecipe

CONFIG = ExperimentConfig(
    label_tasks=5, holdout_tasks=4, calibration_tasks=3, seeds=(0, 1, 4), grpo=GrpoRecipe(iterations=2, tasks=3, screen=0)
)


def training(tasks: TaskRanges) -> tuple[range, range, range]:
    return tasks.first, tasks.second, tasks.reinforced


def test_no_two_seeds_and_no_two_uses_share_a_task() -> None:
    found = [task_ranges(CONFIG, seed) for seed in range(5)]
    for parts in ([r for t in found for r in training(t)], [r for t in found for r in (t.holdout, t.calibration)]):
        assert all(not set(a) & set(b) for a, b in combinations(parts, 2))
    assert [len(r) for r in training(found[3])] == [5, 5, 6]
    assert (len(found[3].holdout), len(found[3].calibration)) == (4, 3)


def test_a_seeds_tasks_follow_from_its_number_alone() -> None:
    other = CONFIG.model_copy(update={"seeds": (4,)})
    assert task_ranges(other, 4) == task_ranges(CONFIG, 4)
    assert needed(other) == needed(CONFIG) == (5 * 16, 5 * 7)


def test_stage_2_takes_what_its_recipes_play() -> None:
    screened = CONFIG.model_copy(update={"grpo": GrpoRecipe(screen=50)})
    assert len(task_ranges(screened, 1).reinforced) == 50
    assert (
        len(task_ranges(screened.model_copy(update={"ablations": ("paper",)}), 1).reinforced) == 480
    )  # 30 iterations of 16 fresh tasks
    assert not task_ranges(CONFIG.model_copy(update={"grpo": GrpoRecipe(iterations=0)}), 1).reinforced
