"""What an environment is: it is reset to a task and takes actions as text. It knows no LLM."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar, runtime_checkable

from bitroute.episode import Observation, Task, Transition

TaskT_contra = TypeVar("TaskT_contra", bound=Task, contravariant=True)


class Environment(Protocol[TaskT_contra]):
    """One running task. Deterministic: the same task and actions give the same observations."""

    def reset(self, task: TaskT_contra) -> Observation:
        """Start `task` and return the opening observation (it contains the goal)."""
        ...

    def step(self, action: str) -> Transition:
        """Play one action. Text that is no admissible command is answered as the environment answers it, never raised."""
        ...


@runtime_checkable
class Branchable(Protocol):
    """An environment whose running task can be copied: what counterfactual branches need."""

    def copy(self) -> Self:
        """An independent copy of the running task; cheap enough to branch at every step."""
        ...
