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
    """Stage 2, GRPO (training/grpo.py)."""

    iterations: int = 30
    tasks: int = 16  # per iteration
    group: int = 8  # G
    price: float = 0.15  # lambda: what a whole all-high episode costs, in successes
    rate: float = 5e-4
    clip: float = 0.2
    anchor: float = 0.02  # weight of KL(policy || stage-1 policy) per decision
    entropy_floor: float = 0.1  # nats per decision; below it, entropy is rewarded
    passes: int = 2  # over the episodes of an iteration
    normalise: bool = False  # divide advantages by the group's deviation (the paper's form)
    cost_on_success: bool = False  # charge cost only where the task succeeded
    outcome: Literal["success", "score"] = "success"  # what of an episode is rewarded: yes or no, or its graded score
    seed: int = 0
