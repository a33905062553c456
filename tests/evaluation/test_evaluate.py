import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from bitroute.cost import CostModel, Rates
from bitroute.errors import DataError
from bitroute.evaluation.evaluate import evaluate
from bitroute.evaluation.results import Evaluation, Measure, PolicyRole, PolicyRun

LADDER = ("low", "high")


def run_all(runs: list[PolicyRun], **options: object) -> Evaluation:
    return evaluate(runs, environment="toy", ladder=LADDER, resamples=2000, **options)  # type: ignore[arg-type]


def test_one_small_table_by_hand(make_run) -> None:
    result = run_all(
        [
            make_run("all-high", "11110000", "hhhh", role=PolicyRole.FIXED),
            make_run("all-low", "10000001", "llll", role=PolicyRole.FIXED),
            make_run("dmr", "11100001", ["hlll", "hhll"] * 4, role=PolicyRole.LEARNED, budget=0.4),
        ]
    )
    assert result.splits() == ["unseen"]
    assert result.kinds("unseen") == ["heat", "place"]
    high, low, dmr = result.table("unseen")
    assert [row.success.value for row in (high, low, dmr)] == [0.5, 0.25, 0.5]
    assert [row.share.value for row in (high, low, dmr)] == [1.0, 0.0, 0.375]
    assert high.cost is not None and low.cost is not None and dmr.cost is not None
    assert [high.cost.value, low.cost.value, dmr.cost.value] == [1.0, 0.0, 0.375]
    assert dmr.cost.low < 0.375 < dmr.cost.high
    assert (dmr.n, dmr.steps, dmr.failures, dmr.seeds, dmr.success_sd) == (8, 4.0, 0, (0,), None)
    assert dmr.gap is not None and dmr.gap.estimate.value == 1.0
    against_high, against_low = dmr.against
    assert (against_high.reference, against_high.wins, against_high.losses, against_high.p) == ("all-high", 1, 1, 1.0)
    assert (against_low.reference, against_low.wins, against_low.losses, against_low.p) == ("all-low", 2, 0, 0.5)
    assert against_low.difference.value == 0.25
    assert [c.reference for c in high.against] == ["all-low"]
    assert dmr.within_budget(2) is True
    assert high.within_budget(2) is None
    [heat] = [row for row in result.table("unseen", "heat") if row.policy == "dmr"]
    assert (heat.n, heat.success.value, heat.share.value) == (4, 0.5, 0.25)


def test_share_is_the_mean_over_episodes_not_over_steps(make_run) -> None:
    result = run_all(
        [make_run("all-high", "11", ["h", "hhhhh"]), make_run("all-low", "01", "l"), make_run("x", "11", ["h", "lllll"])]
    )
    row = result.table("unseen")[2]
    assert row.share.value == 0.5
    assert row.cost is not None and row.cost.value == pytest.approx(1 / 6)  # the cost counts steps: 1 of 6


def test_the_pooled_share_counts_steps_of_all_episodes_together(make_run) -> None:
    result = run_all(
        [make_run("all-high", "11", ["h", "hhhhh"]), make_run("all-low", "01", "l"), make_run("x", "11", ["h", "hllll"])]
    )
    row = result.table("unseen")[2]
    assert (row.share.value, row.pooled.value) == (0.6, pytest.approx(2 / 6))
    assert row.pooled.low == pytest.approx(0.2) and row.pooled.high == pytest.approx(1.0)  # one task drawn twice


def test_a_budget_is_kept_within_two_hundredths(make_run) -> None:
    runs = [make_run("all-high", "1" * 50, "h"), make_run("all-low", "0" * 50, "l")]
    for highs, kept in ((16, True), (17, False)):
        steps = ["h"] * highs + ["l"] * (50 - highs)
        row = run_all([*runs, make_run("dmr", "1" * 50, steps, budget=0.3)]).table("unseen")[2]
        assert row.within_budget(2) is kept
        assert row.within_budget(3) is kept  # a longer ladder goes by cost, which is the same here


def test_everything_solved_has_an_interval_all_the_same(make_run) -> None:
    result = run_all([make_run("all-high", "1" * 20, "h"), make_run("all-low", "0" * 20, "l")])
    high, low = result.table("unseen")
    assert (high.success.low, high.success.high) == (pytest.approx(0.8389, abs=1e-4), 1.0)
    assert (low.success.low, low.success.high) == (0.0, pytest.approx(0.1611, abs=1e-4))


def test_costs_follow_the_model(make_run) -> None:
    model = CostModel(unit="seconds", variants={"low": Rates(decode=1), "high": Rates(decode=4)}, decisions={"dmr": 2.0})
    result = run_all(
        [make_run("all-high", "11", "hh"), make_run("all-low", "01", "ll"), make_run("dmr", "11", "hl")], cost=model
    )
    costs = [row.cost.value for row in result.table("unseen") if row.cost]
    assert costs == [1.0, 0.25, (16 + 4 + 2 * 2) / 32]
    assert result.cost_unit == "seconds"


def test_seeds_are_averaged_by_task_and_their_spread_is_told(make_run) -> None:
    result = run_all(
        [
            make_run("all-high", "1111", "hh"),
            make_run("all-low", "0000", "ll"),
            make_run("dmr", "1111", "hl", seed=0),
            make_run("dmr", "1110", "ll", seed=1),
            make_run("dmr", "1100", "hh", seed=2),
        ]
    )
    row = result.table("unseen")[2]
    assert (row.seeds, row.n) == ((0, 1, 2), 4)
    assert row.success.value == 0.75
    assert row.success_sd == pytest.approx(0.25)
    assert (row.share.value, row.share_sd) == (pytest.approx(0.5), pytest.approx(0.5))
    against_high, against_low = row.against
    assert (against_high.wins, against_high.losses) == (0, 2)
    assert (against_low.wins, against_low.losses) == (4, 0)
    # Differences in thirds, by task 0, 0, -1/3, -2/3 and by seed 0, -1/4, -1/2, what is shared after both means 5/18.
    by_tasks, by_seeds, shared = (11 / 108) / 4, (1 / 16) / 3, (5 / 6 / 6) / 12
    variance = by_tasks + by_seeds - shared
    freedom = 2 * (variance / by_seeds) ** 2
    assert against_high.p == pytest.approx(2 * t.sf(0.25 / math.sqrt(variance), freedom))
    assert row.success.low < 0.75 < row.success.high
    assert against_low.p < against_high.p


def test_holm_corrects_over_the_policies_of_a_table(make_run) -> None:
    runs = [make_run("all-high", "1" * 16, "h"), make_run("all-low", "0" * 16, "l")]
    runs += [make_run(f"p{k}", "1" * k + "0" * (16 - k), "l") for k in (6, 10)]
    rows = run_all(runs).table("unseen")
    low = {row.policy: c for row in rows for c in row.against if c.reference == "all-low"}
    assert {name: c.p for name, c in low.items()} == pytest.approx({"all-high": 2 / 2**16, "p6": 2 / 2**6, "p10": 2 / 2**10})
    assert {name: c.p_holm for name, c in low.items()} == pytest.approx(
        {"all-high": 6 / 2**16, "p6": 2 / 2**6, "p10": 4 / 2**10}
    )


def test_splits_do_not_mix(make_run) -> None:
    runs = []
    for policy, steps, seen, unseen in (("all-high", "h", "11", "10"), ("all-low", "l", "00", "00")):
        parts = [make_run(policy, seen, steps, split="seen"), make_run(policy, unseen, steps, split="unseen")]
        runs.append(replace(parts[0], episodes=[e for part in parts for e in part.episodes]))
    result = run_all(runs)
    assert result.splits() == ["seen", "unseen"]
    assert [result.table(split)[0].success.value for split in result.splits()] == [1.0, 0.5]


def test_a_broken_episode_is_not_solved_and_is_counted(make_run) -> None:
    run = make_run("all-high", "11", "hh")
    broken = replace(run.episodes[1], failure="engine", steps=())
    rows = run_all([replace(run, episodes=[run.episodes[0], broken]), make_run("all-low", "00", "ll")]).table("unseen")
    assert (rows[0].success.value, rows[0].failures, rows[0].share.value) == (0.5, 1, 0.5)


def test_spending_by_position_and_verb(make_run) -> None:
    result = run_all(
        [make_run("all-high", "1", "h" * 10), make_run("all-low", "0", "l" * 10), make_run("dmr", "1", "hhllllllhl")]
    )
    spending = result.spending[2]
    assert (spending.policy, spending.split) == ("dmr", "unseen")
    assert spending.deciles == (1, 1, 0, 0, 0, 0, 0, 0, 1, 0)
    assert {v.verb: (v.steps, v.share) for v in spending.verbs} == {
        "go": (2, 0.5),
        "open": (2, 0.5),
        "take": (2, 0.0),
        "clean": (2, 0.5),
        "move": (2, 0.0),
    }


def test_tenths_without_a_step_are_empty(make_run) -> None:
    result = run_all([make_run("all-high", "1", "hh"), make_run("all-low", "0", "l")])
    assert result.spending[0].deciles == (None, None, 1, None, None, None, None, 1, None, None)
    assert result.spending[1].deciles[5] == 0


def test_equal_spending_compares_with_the_line_between_neighbours(make_run) -> None:
    tasks = 40
    result = run_all(
        [
            make_run("all-low", "1" * 20 + "0" * 20, "llll", role=PolicyRole.FIXED),
            make_run("all-high", "1" * 36 + "0" * 4, "hhhh", role=PolicyRole.FIXED),
            make_run("random 0.5", "1" * 26 + "0" * 14, "hhll", family="random"),
            make_run("oracle 0.25", "1" * 36 + "0" * 4, "hlll", family="oracle", role=PolicyRole.ORACLE),
            make_run("dmr", "1" * 33 + "0" * 7, "hlll", role=PolicyRole.LEARNED),
        ]
    )
    random, oracle = (e for e in result.equal if e.measure is Measure.SHARE)
    assert (random.policy, random.family, random.spent, random.oracle) == ("dmr", "random", 0.25, False)
    assert (random.between, random.curve_spent) == (("all-low", "random 0.5"), 0.25)
    assert random.curve == pytest.approx(23 / tasks)  # half way between all-low's 20 and random's 26
    assert random.difference.value == pytest.approx(10 / tasks)
    assert random.difference.low > 0.1
    d = np.array([0.0] * 20 + [0.5] * 6 + [1.0] * 7 + [0.0] * 7)
    z = d.mean() / (d.std(ddof=1) / math.sqrt(tasks))
    assert random.p == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert random.p_holm == pytest.approx(2 * random.p)
    assert (oracle.family, oracle.oracle, oracle.curve) == ("oracle", True, pytest.approx(0.9))
    assert oracle.difference.value == pytest.approx(-3 / tasks)
    # All episodes have four steps, and a call is what is paid for: the three measures say the same.
    for measure in (Measure.POOLED, Measure.COST):
        same = next(e for e in result.equal if e.measure is measure)
        assert (same.spent, same.curve, same.p) == (random.spent, pytest.approx(random.curve), pytest.approx(random.p))


def test_simulated_policies_come_out_as_they_were_made(simulated: list[PolicyRun]) -> None:
    result = evaluate(simulated, environment="toy", ladder=LADDER)
    rows = {row.policy: row for row in result.table("unseen")}
    assert rows["dmr 0.3"].share.low < 0.3 < rows["dmr 0.3"].share.high
    assert rows["dmr 0.3"].within_budget(2)
    assert rows["all-high"].success.low < 0.80 < rows["all-high"].success.high
    gap = rows["dmr 0.3"].gap
    assert gap is not None and gap.estimate.low < 0.92 < gap.estimate.high
    assert gap.inverted < 0.01
    against_random = [e for e in result.equal if e.family == "random"]
    assert [e.measure for e in against_random] == list(Measure)
    assert all(e.difference.low > 0 and e.p_holm < 0.01 for e in against_random)
    curves = result.curves("unseen")
    assert [row.policy for row in curves["random"]] == ["random 0.25", "random 0.5", "random 0.75"]
    assert result == evaluate(simulated, environment="toy", ladder=LADDER)


def test_episodes_are_read_once(make_run) -> None:
    runs = [make_run("all-high", "11", "hh"), make_run("all-low", "01", "ll")]
    lazy = [replace(run, episodes=iter(run.episodes)) for run in runs]
    assert run_all(lazy) == run_all(runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda make: [make("all-low", "01", "l")], "no run of policy 'all-high'"),
        (lambda make: [make("all-high", "01", "l")], "no run of policy 'all-low'"),
        (lambda make: [], "hold no episodes"),
        (lambda make: [make("all-high", "", "l"), make("all-low", "", "l")], "hold no episodes"),
        (
            lambda make: [make("all-high", "01", "h"), make("all-low", "0", "l")],
            "all-low, seed 0: played 1 tasks where all-high played 2; .* task task-1 of split unseen",
        ),
        (lambda make: [make("all-high", "01", "h"), make("all-high", "01", "h")], "two runs have seed 0"),
        (
            lambda make: [replace(make("all-high", "1", "h"), episodes=make("all-high", "1", "h").episodes * 2)],
            "task task-0 of split unseen was played twice",
        ),
    ],
)
def test_unequal_material_is_refused(make_run, change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_all(change(make_run))
