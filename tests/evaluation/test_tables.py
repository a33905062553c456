import pytest

from bitroute.evaluation.evaluate import evaluate
from bitroute.evaluation.results import Evaluation, PolicyRole, PolicyRun
from bitroute.evaluation.statistics import Estimate
from bitroute.evaluation.tables import (
    align,
    conclusions,
    markdown_report,
    p_value,
    percent,
    percent_interval,
    summary_table,
    text_table,
)


@pytest.fixture(scope="module")
def result(simulated: list[PolicyRun]) -> Evaluation:
    return evaluate(simulated, environment="toy", ladder=("low", "high"), resamples=2000)


def test_numbers() -> None:
    assert (percent(0.5), percent(1.234, 0), percent(-0.001, 0), percent(float("nan"))) == ("50.0", "123", "0", "-")
    assert percent_interval(Estimate(0.5, 0.25, 0.75), 0) == "50 [25, 75]"
    assert percent_interval(None) == "-"
    assert (p_value(0.04), p_value(0.0009), p_value(None)) == ("0.040", "<.001", "-")


def test_columns_line_up() -> None:
    assert (
        align(("a", "n"), [("long name", "1"), ("b", "100")])
        == "a            n\n---------  ---\nlong name    1\nb          100"
    )


def test_the_table_has_a_line_for_every_policy(result: Evaluation) -> None:
    lines = text_table(result, "unseen").splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split("  ")[0] for line in lines[2:]] == [row.policy for row in result.table("unseen")]
    assert "gap recovered %" in lines[0]
    assert len(text_table(result, "unseen", "heat").splitlines()) == len(lines)


def test_markdown_holds_notes_tables_and_sentences(result: Evaluation) -> None:
    lines = markdown_report([result], ["Nobody saw these tasks before."]).splitlines()
    assert lines[:4] == ["- Nobody saw these tasks before.", "", "## toy, unseen", ""]
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert [line.split(" | ")[0].lstrip("| ") for line in table[2:]] == [row.policy for row in result.table("unseen")]
    assert lines[-5:] == [f"- {sentence}" for sentence in conclusions(result, "unseen")]
    assert markdown_report([result], []).startswith("## toy")


def test_the_sentences_say_what_was_found(result: Evaluation) -> None:
    gap, achieved, *compared = conclusions(result, "unseen")
    assert gap.startswith("Of 300 tasks all-high solved 80.3 %, all-low 54.3 %: a gap of 26.0 points.")
    assert "mean of 3 seeds" in achieved and "within its budget of 30 %" in achieved and "of the gap." in achieved
    assert len(compared) == 3
    for sentence, measure in zip(compared, ("K (", "pooled share (", "cost ("), strict=True):
        assert sentence.startswith(f"At equal {measure}")
        assert "beats random (+" in sentence and "cannot be told from kl oracle (" in sentence
    assert summary_table(result).count("\n- ") == 5


def test_an_oracle_is_called_one(make_run) -> None:
    runs = [make_run("all-high", "1", "h"), make_run("all-low", "0", "l"), make_run("peek", "1", "l", role=PolicyRole.ORACLE)]
    assert "peek (oracle)" in text_table(evaluate(runs, environment="toy", ladder=("low", "high")), "unseen")


def test_the_sentences_admit_what_was_not_found(make_run) -> None:
    runs = [
        make_run("all-high", "1110", "h", role=PolicyRole.FIXED),
        make_run("all-low", "1101", "l", role=PolicyRole.FIXED),
        make_run("dmr", "1111", "h", role=PolicyRole.LEARNED, budget=0.3),
    ]
    gap, achieved = conclusions(evaluate(runs, environment="toy", ladder=("low", "high")), "unseen")
    assert gap.endswith("no gap that these tasks can tell from chance.")
    assert "ABOVE its budget of 30 %" in achieved
    assert "recovered" not in achieved


def test_a_coarse_gap_is_called_coarse(make_run) -> None:
    runs = [
        make_run("all-high", "1111111000", "h", role=PolicyRole.FIXED),
        make_run("all-low", "1110000000", "l", role=PolicyRole.FIXED),
        make_run("dmr", "1111100001", "l", role=PolicyRole.LEARNED),
    ]
    achieved = conclusions(evaluate(runs, environment="toy", ladder=("low", "high")), "unseen")[1]
    assert achieved.endswith("which 10 tasks measure too coarsely to build on.")
