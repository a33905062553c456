"""The recipes of a router's training: what decides the result besides tasks, data and seeds. Numbers alone, so that a
configuration can be read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SupervisedRecipe:
    """Stage 1, KL-ST (training/supervised.py)."""

    epochs: int = 6
    batch: int = 16  # episodes
    rate: float = 2e-3
    weight_decay: float = 0.01
    auxiliary: float = 0.3  # weight of predicting the action's tokens
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GrpoRecipe:
    """Stage 2, GRPO (training/grpo.py). The paper's own form: `PAPER`."""

    iterations: int = 60
    tasks: int = 16  # per iteration
    group: int = 4  # G
    screen: int = 1200  # tasks played by low and, where it loses, by high, to find those that teach; 0: fresh ones, unseen
    credit: Literal["decision", "episode"] = "decision"  # who is credited: one decision, played both ways, or all alike
    target: float | None = 0.1  # share of high steps that is kept, at the price that it then has; None: the price stays
    price: float = 0.15  # lambda: what a whole all-high episode costs, in successes; without a target
    memory: float = 0.9  # of earlier iterations, in the price that is measured with a target
    rate: float = 5e-4
    clip: float = 0.2
    anchor: float = 0.02  # weight of KL(policy || stage-1 policy) per decision
    entropy_floor: float = 0.1  # nats per decision; below it, entropy is rewarded
    passes: int = 4  # updates from the episodes of an iteration
    normalise: bool = False  # divide advantages by the group's deviation (the paper's form)
    cost_on_success: bool = False  # charge cost only where the task succeeded
    outcome: Literal["success", "score"] = "success"  # what of an episode is rewarded: yes or no, or its graded score
    seed: int = 0


PAPER = GrpoRecipe(
    iterations=30,
    group=8,
    screen=0,
    credit="episode",
    target=None,
    passes=2,
    normalise=True,
)
