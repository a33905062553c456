"""What the page reads from the records, against rows whose sums are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bitroute.cost import CostModel, Rates
from bitroute.errors import DataError
from bitroute.evaluation.statistics import wilson
from bitroute.gateway.records.history import POINTS, History
from support.recorded import LADDER, NOW, fill, opening, row, write

COST = CostModel(unit="euro", variants={"low": Rates(call=1), "high": Rates(call=2, prefill=0.5, cached=0.01, decode=1)})


class Records:
    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'records.db'}"
        self.readers: list[History] = []

    def write(self, *rows: dict[str, Any]) -> None:
        """Rows of episodes have an id; the others are steps."""
        write(self.url, [r for r in rows if "id" in r], [r for r in rows if "id" not in r])

    def read(self, ladder: tuple[str, ...] = LADDER, cost: CostModel = COST) -> History:
        self.readers.append(History(self.url, ladder, cost))
        return self.readers[-1]


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(tmp_path)
    yield made
    for reader in made.readers:
        reader.close()


def test_steps_come_newest_last_and_go_on_after_an_id(records: Records) -> None:
    records.write(*(row("e", i, NOW + i, "low") for i in range(5)))
    history = records.read()
    newest = history.steps(None, 3)
    assert [step["step"] for step in newest] == [2, 3, 4]
    assert history.steps(newest[-1]["id"], 3) == []
    records.write(row("e", 5, NOW + 5, "high"))
    assert [step["step"] for step in history.steps(newest[-1]["id"], 3)] == [5]
    assert "message" not in newest[0]


def test_an_episode_sums_its_answered_steps(records: Records) -> None:
    records.write(
        opening("e", NOW, success=True, reward=0.5, parent="d", parent_step=2),
        row("e", 0, NOW, "low", prefill=10, cached=100, decode=3, cost=1.0),
        row("e", 1, NOW + 1, "high", prefill=4, cached=110, decode=2, cost=7.1),
        row("e", 2, NOW + 2, None, answer=None, cost=0.0, status=502, ended="error"),
        row("other", 0, NOW, "high", cost=99.0),
    )
    (found,) = records.read().episodes(None, 10)
    assert (found["steps"], found["answered"], found["share"]) == (3, 2, 0.5)
    assert found["cost"] == pytest.approx(8.1)
    assert found["all_high"] == pytest.approx(2 + 5 + 1 + 3 + 2 + 2 + 1.1 + 2)
    assert (found["success"], found["reward"], found["parent"], found["parent_step"]) == (True, 0.5, "d", 2)


def test_answers_without_token_counts_are_calls(records: Records) -> None:
    records.write(opening("e", NOW), row("e", 0, NOW, "low", prefill=None, cached=None, decode=None))
    assert records.read().episodes(None, 1)[0]["all_high"] == 2


def test_episodes_are_paged_from_the_newest(records: Records) -> None:
    records.write(*(opening(f"e{i}", NOW + i) for i in range(5)))
    history = records.read()
    first = history.episodes(None, 2)
    assert [episode["id"] for episode in first] == ["e4", "e3"]
    assert [episode["id"] for episode in history.episodes(first[-1]["started"], 10)] == ["e2", "e1", "e0"]
    assert first[0]["share"] is None
    assert first[0]["steps"] == 0


def test_equal_ids_of_two_keys_are_two_episodes(records: Records) -> None:
    records.write(
        opening("e", NOW, scope="one"),
        opening("e", NOW + 1, scope="two"),
        row("e", 0, NOW, "low", scope="one"),
        row("e", 0, NOW, "high", scope="two"),
        row("e", 1, NOW, "high", scope="two"),
    )
    history = records.read()
    assert [(e["scope"], e["steps"], e["share"]) for e in history.episodes(None, 9)] == [("two", 2, 1.0), ("one", 1, 0.0)]
    one = history.episode("one", "e")
    assert one is not None
    assert [step["variant"] for step in one["played"]] == ["low"]
    assert history.episode("", "e") is None


def test_one_episode_step_by_step(records: Records) -> None:
    told = {"message": "you see a <b>shelf</b>", "action": "go"}
    records.write(
        opening("e", NOW), row("e", 1, NOW + 2, "high", **told), row("e", 0, NOW + 1, "low", score=0.25, threshold=0.5)
    )
    found = records.read().episode("", "e")
    assert found is not None
    first, second = found["played"]
    assert (first["step"], first["score"], first["threshold"], first["height"], first["message"]) == (0, 0.25, 0.5, 0.0, None)
    assert (second["step"], second["height"], second["message"], second["action"]) == (1, 1.0, "you see a <b>shelf</b>", "go")
    assert second["attempts"][0]["status"] == 200


def test_the_course_of_an_hour_in_parts(records: Records) -> None:
    now = 1000 * 3600.0 + 30.0  # half a minute into a part of one minute
    minute = now - 30.0
    records.write(
        *(row("e", i, minute - 120 + i, "high" if i < 4 else "low", total=i + 1.0, cost=1.0) for i in range(20)),
        row("e", 0, minute - 59, "low", budget=None, decision=None, total=0.5, cost=3.0),
        row("e", 1, minute - 58, "low", budget=0.2, total=0.5, cost=3.0),
        row("e", 2, minute + 1, "high", total=9.0),
        row("e", 3, minute - 120, "high", answer=None, total=99.0),
        row("e", 4, minute - 3600, "high"),
    )
    course = records.read().course(3600.0, now)
    assert (course["start"], course["end"], course["parts"]) == (minute + 60 - 3600, minute + 60, POINTS)
    early, late, running = course["points"]
    assert (early["at"], early["seconds"], early["n"], early["routed"]) == (minute - 120, 60, 20, 20)
    assert early["share"] == pytest.approx(0.2)
    assert early["budget"] == pytest.approx(0.3)
    assert (early["p50"], early["p95"], early["cost"]) == (10.0, 19.0, 20.0)
    assert (late["n"], late["routed"], late["share"], late["budget"], late["cost"]) == (2, 1, 0.0, 0.2, 6.0)
    assert (running["at"], running["seconds"], running["p95"]) == (minute, 30.0, 9.0)


def test_an_empty_course(records: Records) -> None:
    records.write()
    assert records.read().course(900.0, NOW)["points"] == []


def test_shares_on_a_longer_ladder_are_mean_heights(records: Records) -> None:
    ladder = ("w2", "w4", "high")
    records.write(opening("e", NOW), *(row("e", i, NOW, name) for i, name in enumerate(("w2", "w4", "w4", "gone"))))
    (found,) = records.read(ladder, CostModel.steps(ladder)).episodes(None, 1)
    assert found["share"] == pytest.approx(1 / 3)  # a variant that is no more on the ladder has no height
    assert found["all_high"] == 4


def test_policies_are_compared_by_arm(records: Records) -> None:
    outcomes = [True, True, False, None]
    for i, outcome in enumerate(outcomes):
        records.write(opening(f"m{i}", NOW + i, success=outcome), row(f"m{i}", 0, NOW, "low"), row(f"m{i}", 1, NOW, "high"))
        records.write(opening(f"t{i}", NOW + i, "trial"), row(f"t{i}", 0, NOW, "high"))
    records.write(opening("unanswered", NOW), row("unanswered", 0, NOW, None, answer=None))
    main, trial = records.read(cost=CostModel.steps(LADDER)).policies()
    assert (main["policy"], main["arm"], main["episodes"], main["steps"], main["reported"]) == ("signals@1", "main", 4, 8, 3)
    assert main["success"] == wilson(2, 3)
    assert (main["share"].value, main["share"].low, main["share"].high) == (0.5, 0.5, 0.5)
    assert (main["cost"].value, main["all_high"].value) == (1.0, 2.0)
    assert (main["saved"].value, main["saved"].low, main["saved"].high) == (0.5, 0.5, 0.5)
    assert (trial["arm"], trial["success"], trial["saved"].value) == ("trial", None, 0.0)


def test_intervals_hold_their_means(records: Records) -> None:
    fill(records.url, 60)
    for policy in records.read().policies():
        for name in ("success", "share", "cost", "saved"):
            assert policy[name].low < policy[name].value < policy[name].high


def test_the_reader_cannot_write(records: Records) -> None:
    records.write(opening("e", NOW))
    history = records.read()
    history.episodes(None, 1)
    assert history._engine is not None
    with history._engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        connection.execute(sa.text("DELETE FROM episodes"))


def test_a_database_that_fails_is_a_line_without_its_words(records: Records) -> None:
    records.write(opening("e", NOW))
    history = records.read()
    history.episodes(None, 1)
    engine = sa.create_engine(records.url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE steps"))
    engine.dispose()
    with pytest.raises(DataError, match=r"^cannot read the records \(OperationalError\)$"):
        history.steps(None, 1)


def test_no_database_is_an_error_and_makes_none(tmp_path: Path) -> None:
    history = History(f"sqlite:///{tmp_path / 'nothing.db'}", LADDER, COST)
    with pytest.raises(DataError):
        history.steps(None, 1)
    assert not (tmp_path / "nothing.db").exists()
