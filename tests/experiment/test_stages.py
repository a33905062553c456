"""The whole pipeline on a tiny random model, by the commands that people type."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bitroute.cli.main import main
from bitroute.cost import CostModel
from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.labels import MIXTURE
from bitroute.routers.calibrated import load_calibration
from bitroute.store.traces import read_traces
from bitroute.training.calibration import realised_share

pytestmark = pytest.mark.slow  # all share one run of the whole method

SMALL = {
    "budgets": [0.3],
    "seeds": [0],
    "label_tasks": 8,
    "holdout_tasks": 6,
    "calibration_tasks": 6,
    "quantiles": [0.8],
    "splits": {"unseen": 5},
    "max_steps": 3,
    "supervised": {"epochs": 1},
    "branches": 12,
    "grpo": {"iterations": 1, "tasks": 2, "group": 2, "screen": 4},
    "backbone": None,
    "baselines": ["random", "first-k", "repetition", "verify", "signals", "oracle"],
    "beside": ["w3g64-rtn"],
    "ablations": [],
}
LEARNED = ("dmr-0", "dmr+probe-0", "kl-st-0", "kl-st+probe-0")
POLICIES = (
    "all-high",
    "all-low",
    "all-w3g64-rtn",
    "repetition",
    "repetition-1",
    "repetition-2",
    "repetition-4",
    "verify",
    "verify-1",
    "verify-3",
    "random@0.3",
    "first-k@0.3",
    "signals@0.3",
    "oracle@0.3",
    "dmr@0.3",
    "dmr+probe@0.3",
)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and evaluated; tests leave it as it was."""
    directory = tmp_path_factory.mktemp("experiment")
    config = directory / "my.json"
    config.write_text(json.dumps({"model": str(tiny_model), **SMALL}))
    path = directory / "run"
    assert main(["train", "router", "--config", str(config), "--out", str(path), "--cores", "1"]) == 0
    assert main(["evaluate", str(path), "--cores", "1"]) == 0
    return path


def contents(run: Path) -> dict[str, bytes]:
    """What the run found out: everything but the report's drawings."""
    files = (p for p in run.rglob("*") if p.is_file() and p.suffix not in (".png", ".html", ".lock"))
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


def test_every_stage_leaves_its_files(run: Path) -> None:
    for name in (
        "config.json",
        "provenance.json",
        "references-0.json",
        "tau-0.json",
        "signals-0.json",
        "routers/signals-0.json",
    ):
        assert json.loads((run / name).read_text()), name
    for name in LEARNED:
        # A model of random weights wins nothing, so no screened task is decided by precision, and stage 2 has nothing to learn.
        assert bool(json.loads((run / f"{name}.json").read_text())) == name.startswith("kl-st"), name
        assert (run / "routers" / name / "network.safetensors").stat().st_size > 1000
    effects = json.loads((run / "effects-0.json").read_text())
    assert effects | {"helped": 0, "hurt": 0, "effect": 0.0} == effects and effects["states"] == 12
    assert json.loads((run / "screened-0.json").read_text()) == {"deciding": [], "others": [16, 17, 18, 19]}
    for name in ("signals-0", "oracle-0", "dmr-0", "dmr+probe-0"):
        assert set(json.loads((run / "thresholds" / f"{name}@0.3.json").read_text())) == {"threshold", "share", "trials"}
    for router in ("signals-0.json", "dmr-0", "dmr+probe-0"):
        (row,) = load_calibration(run / "routers" / router)
        stored = json.loads((run / "thresholds" / f"{Path(router).stem}@0.3.json").read_text())
        assert (row.budget, row.threshold, row.share) == (0.3, stored["threshold"], stored["share"])
    for name in POLICIES:
        episodes = list(read_traces(run / "traces" / "unseen" / f"{name}-0.jsonl"))
        assert [e.task_id for e in episodes] == [f"unseen-{i}" for i in range(5)], name
        assert {e.policy for e in episodes} == {name}
    assert {p.name for p in (run / "figures").iterdir()} >= {"kl.png", "cost-0-0.png", "pooled-0-0.png", "episode-0.png"}
    assert not list(run.rglob("*.tmp"))
    assert {p.name for p in (run / "routers").iterdir()} == {
        *LEARNED,
        "round-1-0.8-0",
        "signals-0.json",
        "signals-0.calibration.json",
    }
    assert json.loads((run / "tasks.json").read_text()) == {"unseen": 5}


def test_labels_come_from_a_mixture_and_then_from_the_router_itself(run: Path) -> None:
    traces = run / "traces" / "seed-0"
    first = [list(read_traces(traces / f"labels-1-{i}.jsonl")) for i in range(len(MIXTURE))]
    assert [{e.policy for e in part} for part in first] == [{policy} for policy in MIXTURE]
    assert [e.task_id for part in first for e in part] == [f"router-train-{i}" for i in range(8)]
    second = list(read_traces(traces / "labels-2-0.jsonl"))
    assert [e.task_id for e in second] == [f"router-train-{8 + i}" for i in range(8)]
    assert {e.split for i in range(3) for e in read_traces(traces / f"labels-holdout-{i}.jsonl")} == {"validation"}
    assert all(s.sensitivity for part in (*first, second) for e in part for s in e.steps)


def test_the_report_is_complete(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    (evaluation,) = report["evaluations"]
    rows = {row["policy"]: row for row in evaluation["policies"] if row["kind"] == "all"}
    assert set(rows) == set(POLICIES)
    assert {row["n"] for row in rows.values()} == {5}
    assert (rows["all-high"]["realised_share"], rows["all-low"]["realised_share"]) == (1, 0)
    stored = list(read_traces(run / "traces" / "unseen" / "dmr@0.3-0.jsonl"))
    assert rows["dmr@0.3"]["realised_share"] == pytest.approx(realised_share(stored, (ExperimentConfig().low, "bf16")))
    assert report["meta"]["version"] and report["meta"]["low"] == ExperimentConfig().low
    assert report["sensitivity"]["steps"] == 16 * 3
    assert "dmr@0.3" in (run / "report.html").read_text()


def test_costs_are_those_of_a_profile(run: Path) -> None:
    cost = CostModel.load(run / "cost.json")
    low, other = ExperimentConfig().low, SMALL["beside"][0]
    assert (set(cost.variants), cost.unit, cost.engine) == ({low, "bf16", other}, "seconds", "torch")
    assert cost.measured["processor"] and cost.residuals["bf16"].calls > 10
    assert set(cost.decisions) == {name.partition("@")[0].rstrip("-124") for name in POLICIES if name != "verify-3"}
    assert all(seconds > 0 for name, seconds in cost.decisions.items() if name not in ("verify", "oracle"))
    report = json.loads((run / "report.json").read_text())
    rows = {row["policy"]: row for row in report["evaluations"][0]["policies"] if row["kind"] == "all"}
    assert rows["all-high"]["relative_cost"] == 1
    assert rows["verify"]["relative_cost"] > rows["all-low"]["relative_cost"]
    assert rows["verify"]["success"] == rows["all-high"]["success"]
    assert any("router-train" in note and "validation" in note for note in report["notes"])


def test_first_k_is_calibrated_to_the_budget(run: Path) -> None:
    stored = json.loads((run / "thresholds" / "first-k-0@0.3.json").read_text())
    assert stored["share"] <= 0.3
    assert max(share for _, share in stored["trials"] if share <= 0.3) == stored["share"]
    episodes = list(read_traces(run / "traces" / "unseen" / "first-k@0.3-0.jsonl"))
    for episode in episodes:
        flags = [step.decision.variant == "bf16" for step in episode.steps]
        assert flags == sorted(flags, reverse=True)
        assert abs(sum(flags) + stored["threshold"]) < 1


def test_what_is_done_is_not_done_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    assert main(["evaluate", str(run)]) == 0
    out, err = capsys.readouterr()
    assert contents(run) == before
    assert "episode" not in err
    assert "dmr@0.3" in out and out.endswith(f"report: {run / 'report.html'}\n")


def test_report_writes_the_report_from_traces_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    for name in ("report.json", "report.html"):
        (run / name).unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr() == (f"report: {run / 'report.html'}\n", "")
    assert contents(run) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "traces" / "unseen" / "dmr@0.3-0.jsonl").unlink(),
        lambda run: (run / "thresholds" / "oracle-0@0.3.json").unlink(),
        lambda run: cut(run / "traces" / "unseen" / "all-low-0.jsonl", 700),
    ],
    ids=["traces gone", "threshold gone", "traces cut off"],
)
def test_what_is_missing_is_named_by_report_and_made_by_evaluate(
    run: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    before = contents(run)
    damage(run)
    assert main(["report", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"bitroute: {run}: is not evaluated to the end; run bitroute evaluate {run}"
    assert main(["evaluate", str(run), "--cores", "1"]) == 0
    assert rounded(contents(run)) == rounded(before)


def rounded(files: dict[str, bytes]) -> dict[str, object]:
    """The files, thresholds to five digits: a new process measures which products are fastest, and the last ones differ."""
    return {
        name: json.loads(text, parse_float=lambda digits: f"{float(digits):.5g}") if name.startswith("thresholds/") else text
        for name, text in files.items()
    }


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:-size])


def test_training_goes_on_with_the_stored_configuration_and_no_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert main(["train", "router", "--out", str(run)]) == 0
    capsys.readouterr()
    config = json.loads((run / "config.json").read_text()) | {"low": "w3g64-rtn", "seeds": [7]}
    (tmp_path / "other.json").write_text(json.dumps(config))
    assert main(["train", "router", "--config", str(tmp_path / "other.json"), "--out", str(run)]) == 2
    assert capsys.readouterr().err == f"bitroute: {run}: holds a run with another low, seeds; choose another --out\n"
    assert contents(run) == before


def test_a_damaged_result_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "tau-0.json"
    before = path.read_bytes()
    path.write_bytes(before[:20])
    try:
        assert main(["evaluate", str(run)]) == 3
        assert capsys.readouterr().err.startswith(f"bitroute: {path}: damaged (")
    finally:
        path.write_bytes(before)
