"""Records as files: traces where there is text, else features."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from bitroute.cli.main import main
from bitroute.episode import Decision, Episode, Signals, Step, Usage
from bitroute.errors import DataError
from bitroute.gateway.core.values import Caller
from bitroute.gateway.records.export import export_records
from bitroute.gateway.records.reading import Filter
from bitroute.gateway.records.recorder import Recorder
from bitroute.gateway.records.tables import episodes, steps
from bitroute.gateway.sessions.sessions import Sessions
from bitroute.gateway.sessions.store import MemoryStore
from bitroute.routers.views import views_of
from bitroute.store.features import FeatureRow, read_features
from bitroute.store.traces import read_traces
from support.traffic import COST, Play, call, outcome, recorder, routing, turn, until

SIGNALS = Signals((-0.5,), (-0.25,), (0.7,), (0.1,))


@pytest.fixture
def kept(tmp_path: Path) -> Recorder:
    return recorder(tmp_path / "r.db", store_content=True)


def exported(kept: Recorder, path: Path, **wanted: object) -> list[Episode]:
    until(lambda: kept.pending == 0)
    done = export_records(kept.engine, path, Filter(**wanted))  # type: ignore[arg-type]
    found = list(read_traces(path))
    assert (done.form, done.episodes) == ("traces", len(found))
    return found


def test_a_recorded_episode_becomes_the_trace_that_training_reads(kept: Recorder, tmp_path: Path) -> None:
    played = Play(kept, caller=Caller("key", "s", "x-session-id", explicit=True))
    played.step("look", "go north", routing("high", score=1.5, propensity=0.25), signals=SIGNALS)
    played.step("a door", None)  # failed, and asked again
    played.step("a door", "open it", routing("low", score=-2.0), variant="high")  # low was to answer
    kept.outcome("key", "e", success=True, reward=0.5)
    (episode,) = exported(kept, tmp_path / "t.jsonl")
    assert episode == Episode(
        task_id="key/e",
        kind="unknown",
        split="gateway",
        policy="signals@1",
        seed=7,
        steps=(
            Step("look", "go north", Decision("high", 1.5, "signals", 0.25), SIGNALS, Usage("high", 10, 20, 5)),
            Step("a door", "open it", Decision("high", -2.0, "fallback"), None, Usage("high", 10, 20, 5), reward=0.5),
        ),
        success=True,
    )
    assert COST.episode(episode) == 2 * (4 + 1 + 10)
    last = views_of(episode)[1]
    assert (last.messages, last.actions, last.variants, last.signals) == (
        ("look", "a door"),
        ("go north",),
        ("high",),
        (SIGNALS,),
    )
    kept.close()


def test_steps_that_were_counted_from_one_are_exported(kept: Recorder, tmp_path: Path) -> None:
    async def play() -> None:
        sessions = Sessions(MemoryStore(10, 60.0))
        for step in (1, 2):
            caller, request = Caller("", "s", "x-session-id", explicit=True, step=step), call([turn("user", f"seen {step}")])
            context = await sessions.enter(caller, request)
            done = outcome(f"did {step}")
            await sessions.leave(context, routing(), done)
            kept.step(caller, request, context, routing(), done)

    asyncio.run(play())
    (episode,) = exported(kept, tmp_path / "t.jsonl")
    assert [(step.message, step.action) for step in episode.steps] == [("seen 1", "did 1"), ("seen 2", "did 2")]
    kept.close()


def test_without_an_outcome_success_is_unknown_and_says_so(kept: Recorder, tmp_path: Path) -> None:
    Play(kept, "open").step("a")
    Play(kept, "lost").step("a")
    kept.outcome("", "lost", success=False, reward=None)
    both = {e.task_id: (e.success, e.failure) for e in exported(kept, tmp_path / "t.jsonl")}
    assert both == {"open": (False, "outcome: success was not reported"), "lost": (False, None)}
    assert [e.task_id for e in exported(kept, tmp_path / "t.jsonl", closed=True)] == ["lost"]
    kept.close()


def test_a_branch_reads_as_a_whole_and_marks_what_is_its_parents(kept: Recorder, tmp_path: Path) -> None:
    trunk = Play(kept, "trunk")
    for number in range(3):
        trunk.step(f"m{number}", f"a{number}", routing("high"), signals=SIGNALS)
    branch = Play(kept, "branch", parent=("trunk", 2), messages=["m0", "m1"], actions=["a0", "a1"], variants=["high", "high"])
    branch.step("other", "b2")
    twig = Play(
        kept,
        "twig",
        parent=("branch", 3),
        messages=["m0", "m1", "other"],
        actions=["a0", "a1", "b2"],
        variants=[*("high",) * 2, "low"],
    )
    twig.step("more", "c3")
    alone = Play(kept, "alone", parent=("forgotten", 1), messages=["x"], actions=["y"], variants=["high"])
    alone.step("z", "w")
    found = {
        e.task_id: [(s.message, s.action, s.decision.reason, s.signals is not None) for s in e.steps]
        for e in exported(kept, tmp_path / "t.jsonl")
    }
    shared = [("m0", "a0", "shared", True), ("m1", "a1", "shared", True)]
    assert found == {
        "trunk": [(f"m{n}", f"a{n}", "signals", True) for n in range(3)],
        "branch": [*shared, ("other", "b2", "signals", False)],
        "twig": [*shared, ("other", "b2", "shared", False), ("more", "c3", "signals", False)],
        "alone": [("x", "y", "history", False), ("z", "w", "signals", False)],
    }
    kept.close()


def test_an_episode_ends_where_a_row_is_missing_and_a_late_try_counts(kept: Recorder, tmp_path: Path) -> None:
    played = Play(kept)
    played.step("a", "cut off", ended="dropped")
    played.actions.clear()
    played.messages.clear()
    played.variants.clear()
    played.step("a", "whole", retried=routing())
    played.actions.append("never recorded")
    played.messages.append("never recorded")
    played.variants.append("low")
    played.step("c")
    (episode,) = exported(kept, tmp_path / "t.jsonl")
    assert [s.action for s in episode.steps] == ["whole"]
    kept.close()


def test_filters_choose_episodes(kept: Recorder, tmp_path: Path) -> None:
    for number, (policy, scope) in enumerate([("dmr@1", "k1"), ("dmr@2", "k1"), ("dm_@1", "k2")]):
        Play(kept, str(number), caller=Caller(scope, "s", "", explicit=True)).step("a", ruled=routing(policy=policy))

    def chosen(**wanted: object) -> list[str]:
        return [e.task_id for e in exported(kept, tmp_path / "t.jsonl", **wanted)]

    assert chosen(policy="dmr") == ["k1/0", "k1/1"]
    assert chosen(policy="dmr@2") == ["k1/1"]
    assert chosen(policy="dm_") == ["k2/2"]  # an underscore means itself
    assert chosen(scope="k1", policy="dmr@1") == ["k1/0"]
    with pytest.raises(DataError, match="no answered step"):
        chosen(since=9e9)
    assert len(list(read_traces(tmp_path / "t.jsonl"))) == 1  # what was there before stays
    assert sorted(p.name for p in tmp_path.glob("*t.jsonl*")) == ["t.jsonl"]
    kept.close()


def test_without_text_there_is_a_table_of_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = recorder(tmp_path / "r.db")
    played = Play(kept)
    played.step(
        "a", ruled=routing("high", features=(1.0, 2.5), propensity=0.5, flipped=True, intended="low", arm="b"), variant="low"
    )
    played.step("b", ruled=routing("low", features=(3.0, 4.0)))
    kept.outcome("", "e", success=False, reward=None)
    kept.close()
    assert main(["export", "--records", f"sqlite:///{tmp_path / 'r.db'}", "--out", str(tmp_path / "f.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"features: {tmp_path / 'f.jsonl'}; 1 episodes, 1 with an outcome, 2 steps",
        "no text was stored (serve --store-content): only signals routers can be trained from features",
    ]
    lines = list(read_features(tmp_path / "f.jsonl"))
    assert lines[0] == FeatureRow(
        episode="e",
        step=0,
        policy="signals@1",
        arm="b",
        ladder=("low", "high"),
        features=(1.0, 2.5),
        variant="high",
        answered="low",
        intended="low",
        propensity=0.5,
        flipped=True,
        score=0.25,
        cost=1 + 0.5 * 5,
        success=False,
        reward=None,
    )
    assert [line.features for line in lines] == [(1.0, 2.5), (3.0, 4.0)]
    with pytest.raises(DataError, match="line 1: not a stored episode"):
        list(read_traces(tmp_path / "f.jsonl"))


def test_episodes_whose_text_was_not_stored_are_left_out_and_counted(tmp_path: Path) -> None:
    for content in (True, False):
        kept = recorder(tmp_path / "r.db", store_content=content)
        Play(kept, str(content)).step("a")
        kept.close()
    kept = recorder(tmp_path / "r.db")
    done = export_records(kept.engine, tmp_path / "t.jsonl", Filter())
    assert (done.episodes, done.skipped) == (1, Counter({"their text was not stored": 1}))
    kept.close()


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder(tmp_path / "r.db").close()
    records = f"sqlite:///{tmp_path / 'r.db'}"
    (tmp_path / "file").touch()
    for arguments, code, message in [
        (["--records", records], 3, "the wanted episodes have no answered step"),
        (["--records", f"sqlite:///{tmp_path / 'none.db'}"], 3, "no such database"),
        (["--records", "oracle://x"], 2, "oracle"),
        (["--records", records, "--since", "yesterday"], 2, "yesterday"),
        (["--records", records, "--out", str(tmp_path / "file" / "t.jsonl")], 3, "cannot write"),
    ]:
        assert main(["export", *arguments]) == code
        assert message in capsys.readouterr().err


def test_all_that_is_recorded_is_a_line_a_request_with_the_columns_by_name(tmp_path: Path) -> None:
    kept = recorder(tmp_path / "r.db")
    played = Play(kept, caller=Caller("key", "s", "", explicit=True))
    played.step("a", None)
    played.step("a", "b", routing("high", features=(1.0, 2.5)), signals=SIGNALS)
    kept.outcome("key", "e", True, None)
    until(lambda: kept.pending == 0)
    done = export_records(kept.engine, tmp_path / "r.jsonl", Filter(), "records")
    assert (done.form, done.episodes, done.steps, done.closed) == ("records", 1, 2, 1)
    failed, answered = (json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines())
    assert list(answered["step"]) == [column.name for column in steps.columns]
    assert list(answered["episode"]) == [column.name for column in episodes.columns]
    assert (failed["step"]["status"], failed["step"]["variant"], answered["step"]["variant"]) == (502, None, "high")
    assert answered["step"]["features"] == [1.0, 2.5] and answered["step"]["signals"]["entropy"] == list(SIGNALS.entropy)
    assert answered["step"]["digest"] == failed["step"]["digest"] == call([turn("user", "a")]).digest.hex()
    assert answered["step"]["attempts"][0]["replica"] == "http://replica" and answered["episode"]["success"] is True
    kept.close()


def test_a_form_that_is_asked_for_is_written_or_refused(kept: Recorder, tmp_path: Path) -> None:
    Play(kept).step("a", "b", routing("high", features=(1.0, 2.5)))
    Play(kept, "by name").step("c")
    until(lambda: kept.pending == 0)
    assert export_records(kept.engine, tmp_path / "f", Filter(), "features").form == "features"
    assert len(list(read_features(tmp_path / "f"))) == 1
    with pytest.raises(DataError, match="no answered step with text; it is stored from"):
        export_records(kept.engine, tmp_path / "t", Filter(scope="nobody"), "traces")
    assert sorted(path.name for path in tmp_path.glob("[ft]")) == ["f"]
