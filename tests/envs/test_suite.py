"""What everything asks of any suite, and how suites are found."""

import sys
from pathlib import Path

import pytest

from bitroute.envs import models
from bitroute.envs.alfworld.suite import AlfworldSuite
from bitroute.envs.models import find_model
from bitroute.envs.registry import DEFAULT, load_suite, suite_names
from bitroute.envs.suite import Role, check_tasks, demonstrating, split_for
from bitroute.episode import first_word
from bitroute.errors import CapabilityError, ConfigError
from support.toy_suite import SilentToySuite, ToySuite


def test_the_default_suite_is_found_by_its_name() -> None:
    assert DEFAULT in suite_names()
    assert isinstance(load_suite(DEFAULT), AlfworldSuite)


def test_a_suite_of_ones_own_is_found_by_module_and_attribute() -> None:
    assert isinstance(load_suite("support.toy_suite:ToySuite"), ToySuite)


def test_a_suite_may_lie_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lying_here.py").write_text("from support.toy_suite import ToySuite as Suite\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert isinstance(load_suite("lying_here:Suite"), ToySuite)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", r"cannot be imported \(SyntaxError: "),
        ("Suite = nonsense\n", r"cannot be imported \(NameError: "),
        ("from support.toy_suite import ToySuite\n", r"cannot be imported \(AttributeError: "),
        ("class Suite:\n    name = 'x'\n    def __init__(self, data): ...\n", "lacks action_kind, agent, check, defaults, "),
    ],
)
def test_a_suite_that_is_half_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "half_written.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_written", raising=False)
    with pytest.raises(ConfigError, match=f"suite 'half_written:Suite' {message}") as caught:
        load_suite("half_written:Suite")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [":Suite", "..nowhere:Suite"])
def test_a_name_of_no_module_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_suite(name)


def test_a_broken_suite_of_another_package_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "suite_names", lambda: ("broken", DEFAULT, "support.toy_suite:ToySuite"))
    monkeypatch.setattr(ToySuite, "models", Path("/nowhere/at/all"))
    assert find_model("alfworld-agent").is_dir()


def test_a_suite_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'support\.toy_suite:ToySuite' cannot be made \(AssertionError: the toy has"):
        load_suite("support.toy_suite:ToySuite", tmp_path)


@pytest.mark.parametrize("suite", [AlfworldSuite(), ToySuite()], ids=lambda suite: suite.name)
def test_each_role_has_a_split_and_each_task_is_the_same_forever(suite: AlfworldSuite | ToySuite) -> None:
    for role in (Role.LM, Role.TRAIN, Role.VALIDATION, Role.TEST):
        split = split_for(suite, role)
        suite.check(split)
        assert suite.size(split) is None
        assert suite.task(split, 3) == type(suite)().task(split, 3)
        assert (suite.task(split, 3).id, suite.task(split, 3).split) == (f"{split}-3", split)
    assert len({suite.task(split, i).id for split in suite.splits for i in range(3)}) == 3 * len(suite.splits)


@pytest.mark.parametrize("suite", [AlfworldSuite(), ToySuite()], ids=lambda suite: suite.name)
def test_an_unknown_split_is_refused_with_the_known_ones(suite: AlfworldSuite | ToySuite) -> None:
    for refuse in (suite.check, suite.size, lambda split: suite.task(split, 0)):
        with pytest.raises(ConfigError, match=rf"unknown split 'nowhere'.*{split_for(suite, Role.TEST)}"):
            refuse("nowhere")


def test_a_split_that_ends_has_no_more_tasks_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToySuite, "size", lambda self, split: 5)
    check_tasks(ToySuite(), "practice", 5)
    with pytest.raises(ConfigError, match="split practice has 5 tasks, fewer than the 6 asked for"):
        check_tasks(ToySuite(), "practice", 6)


def test_what_a_suite_lacks_is_said() -> None:
    with pytest.raises(CapabilityError, match="suite toy has no split for the role extra"):
        split_for(ToySuite(), Role.EXTRA)
    assert demonstrating(ToySuite())
    with pytest.raises(CapabilityError, match="suite toy has no demonstrations"):
        demonstrating(SilentToySuite())


def test_an_environment_says_when_a_task_is_solved_and_what_each_step_is_worth() -> None:
    suite = AlfworldSuite()
    task = suite.task("validation", 0)
    environment = suite.environment()
    environment.reset(task)
    outcomes = [environment.step(command) for command in task.game.walkthrough]
    assert [o.success for o in outcomes] == [o.reward == 1.0 for o in outcomes] == [*[False] * (len(outcomes) - 1), True]


@pytest.mark.parametrize(("action", "word"), [("go to desk 1", "go"), ("look", "look"), ("  take x", "take"), (" ", "(empty)")])
def test_actions_are_grouped_by_their_first_word(action: str, word: str) -> None:
    assert first_word(action) == word
