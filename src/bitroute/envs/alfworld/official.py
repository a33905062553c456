"""The official ALFWorld engine behind the same interface as the native one. Needs the extra: pip install 'bitroute[alfworld]'.

It plays the task's game file, with that file's own domain and grammar, through textworld; a generated task is first exported
with the rules of the installed package. It is the oracle of the differential test, thousands of times slower than
`AlfworldEnvironment`, and not thread-safe (textworld's parser is one global object): use processes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from bitroute.envs.alfworld.simulator.export import export_game, find_rules
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.episode import Observation, Transition
from bitroute.errors import CapabilityError


class OfficialAlfworldEnvironment:
    """One game in the official engine. Raises CapabilityError when the extra is not installed."""

    def __init__(self) -> None:
        try:
            with _guarded():
                import textworld  # noqa: PLC0415
                from alfworld.agents.environment.alfred_tw_env import AlfredDemangler  # noqa: PLC0415
                from textworld.envs import PddlEnv  # noqa: PLC0415
        except ImportError as error:
            raise CapabilityError(
                f"the official ALFWorld engine is not installed ({error}): pip install 'bitroute[alfworld]'"
            ) from error
        self._engine: Any = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
        self._task: AlfworldTask | None = None
        self._history: list[str] = []
        self._done = False

    def reset(self, task: AlfworldTask) -> Observation:
        """Load the task's game file (about a second) and start it."""
        with _guarded():
            if task != self._task:
                self._load(task)
            state = self._engine.reset()
        self._task, self._history, self._done = task, [], False
        return Observation(state.feedback, tuple(state["admissible_commands"]))

    def step(self, action: str) -> Transition:
        """Play one command (about 0.1 s). The reward is 1.0 on the winning step only; `done` stays true from then on."""
        with _guarded():
            state, _, won = self._engine.step(action)
        self._history.append(action)
        success = bool(won) and not self._done
        self._done = self._done or bool(won)
        return Transition(Observation(state.feedback, tuple(state["admissible_commands"])), float(success), self._done, success)

    def _load(self, task: AlfworldTask) -> None:
        if task.source is not None:
            self._engine.load(task.source)
            return
        with tempfile.TemporaryDirectory() as directory:
            self._engine.load(str(export_game(task.game, directory, find_rules())))

    def copy(self) -> Self:
        """A new engine brought to the same state by playing the same commands: seconds, not microseconds."""
        twin = type(self)()
        if self._task is not None:
            twin.reset(self._task)
            for action in self._history:
                twin.step(action)
        return twin


@contextmanager
def _guarded() -> Iterator[None]:
    """Undo what the translator does to the process: it overwrites `sys.argv`."""
    arguments = sys.argv
    try:
        yield
    finally:
        sys.argv = arguments
