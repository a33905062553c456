"""Estimates against simulated traffic whose truth is known."""

import random
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pytest

from bitroute.cli.main import main
from bitroute.episode import Decision
from bitroute.errors import CapabilityError
from bitroute.evaluation.statistics import wilson
from bitroute.gateway.records.estimate import LoggedEpisode, LoggedStep, compare_arms, flip_effects, policy_value
from bitroute.gateway.routing.exploration import Exploration
from support.traffic import Play, recorder, routing

# Arms


def test_arms_are_compared_with_the_main_one() -> None:
    rng = random.Random(0)

    def arm(name: str, episodes: int, success: float, cost: float) -> list[LoggedEpisode]:
        choices = (LoggedStep(0, 1.0, 1.0), LoggedStep(1, 0.0, 0.0))
        return [LoggedEpisode(f"{name}@1", name, rng.random() < success, rng.gauss(cost, 1), choices) for _ in range(episodes)]

    played = [*arm("new", 1000, 0.8, 3.0), *arm("main", 2000, 0.7, 5.0), *arm("also", 10, 0.5, 5.0)]
    arms, differences = compare_arms(played, ["main", "new", "new"])
    assert [(a.name, a.policies, a.episodes, a.unknown) for a in arms] == [
        ("main", ("main@1",), 2000, 1),
        ("also", ("also@1",), 10, 0),
        ("new", ("new@1",), 1000, 2),
    ]
    assert arms[2].success == wilson(sum(p.success for p in played[:1000]), 1000)
    assert arms[2].cost.value == pytest.approx(3.0, abs=0.1)
    assert arms[2].share.value == 0.5
    also, new = differences
    assert (new.first, new.second) == ("new", "main")
    assert new.success.low < 0.1 < new.success.high
    assert new.success.low > 0.05
    assert (new.cost.value, new.cost.high - new.cost.low) == (pytest.approx(-2.0, abs=0.1), pytest.approx(0.15, abs=0.03))
    assert also.success.low < -0.3 < 0.1 < also.success.high  # ten episodes say little


# Flips: episodes of up to 8 steps, half of which a router without draws wants low


def intends(step: int) -> str:
    return ("low", "high", "low")[step % 3]


def effect(step: int, variant: str) -> float:
    """What serving `variant` instead of the intended one does to the chance of success."""
    if variant == intends(step):
        return 0.0
    return 0.4 - 0.1 * step if variant == "high" else -0.3


def length(seed: int) -> int:
    return 1 + seed % 8


def free(seed: int, step: int) -> bool:
    """Whether the router decided: it is late on the first steps of some episodes, and here and there."""
    return not ((seed // 8) % 5 == 0 and step < 2) and (seed // 8 + step) % 7 != 0


def explored(episodes: int, exploration: Exploration, ladder: Sequence[str] = ("low", "high")) -> list[LoggedEpisode]:
    rng, found = random.Random(4), []
    height = {name: rung / (len(ladder) - 1) for rung, name in enumerate(ladder)}
    for seed in range(episodes):
        chance, choices = 0.5 - 0.02 * length(seed), []
        for step in range(length(seed)):
            intended, decision, flipped = intends(step), Decision(intends(step)), False
            if free(seed, step):
                decision, flipped = exploration.apply(decision, ladder, seed, step)
            chance += effect(step, decision.variant)
            choices.append(
                LoggedStep(step, height[decision.variant], height[intended], decision.propensity, flipped, free(seed, step))
            )
        found.append(LoggedEpisode("p@1", "main", rng.random() < chance, 0.0, tuple(choices), len(ladder)))
    return found


def truth(variant: str, horizon: int, period: int = 8 * 5 * 7) -> float:
    """The mean over all steps that can be flipped to `variant`."""
    effects = [
        effect(step, variant)
        for seed in range(period)
        for step in range(min(length(seed), horizon))
        if free(seed, step) and intends(step) != variant
    ]
    return sum(effects) / len(effects)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "horizon"), [(0.9, 6), (0.5, 50)])
def test_the_effect_of_a_flip_is_found(rate: float, horizon: int) -> None:
    played = explored(12_000, Exploration(rate, horizon))
    up, down = flip_effects(played)
    for found, variant in ((up, "high"), (down, "low")):
        assert found.effect
        assert found.effect.low < truth(variant, horizon) < found.effect.high
        if rate == 0.9:
            assert found.effect.value == pytest.approx(truth(variant, horizon), abs=0.03)
            assert found.effect.high - found.effect.low < 0.1
    assert (up.flips + down.flips) == sum(c.flipped for p in played for c in p.steps)
    assert truth("high", 6) == pytest.approx(0.1941, abs=1e-4)


def test_on_a_longer_ladder_a_flip_may_go_further() -> None:
    """Only low to middle or top, each with half the chance: both count as up."""
    played = explored(12_000, Exploration(0.9, 6), ("low", "middle", "high"))
    up, down = flip_effects(played)
    assert up.effect
    # To the top the effect is as before; to the middle, the truth of `effect` says -0.3.
    assert up.effect.value == pytest.approx((truth("high", 6) - 0.3) / 2, abs=0.04)
    assert down.effect
    assert down.effect.value == pytest.approx(-0.3, abs=0.04)


def test_few_flips_have_no_effect_and_a_drawing_router_is_refused() -> None:
    up, down = flip_effects(explored(60, Exploration(0.5, 50)))
    assert (up.effect, down.effect) == (None, None)
    assert up.flips < 30
    with pytest.raises(CapabilityError, match="explore = 1"):
        flip_effects(explored(600, Exploration(1.0, 6)))
    drawn = [LoggedEpisode("random@1", "main", True, 0.0, (LoggedStep(0, 0.0, 0.0, 0.7), LoggedStep(1, 1.0, 1.0, 0.3)))]
    with pytest.raises(CapabilityError, match="random@1 draws at random"):
        flip_effects(drawn)
    assert [e.flips for e in flip_effects([LoggedEpisode("p", "main", True, 0.0, (LoggedStep(0, 0.0, 0.0),))])] == [0, 0]


# Values: three steps, high with probability 0.4 at each


def success(actions: Sequence[int]) -> float:
    return 0.2 + 0.2 * actions[0] + 0.1 * sum(actions) + 0.1 * actions[1] * actions[2]


def behaved(episodes: int) -> list[LoggedEpisode]:
    rng, found = random.Random(2), []
    for _ in range(episodes):
        actions = [int(rng.random() < 0.4) for _ in range(3)]
        choices = tuple(LoggedStep(t, float(a), float(a), 0.4 if a else 0.6) for t, a in enumerate(actions))
        found.append(LoggedEpisode("random@1", "main", rng.random() < success(actions), 1.0 + 3 * sum(actions), choices))
    return found


Target = Callable[[int], float]  # probability of high at a step


def likelihoods(played: Sequence[LoggedEpisode], target: Target) -> list[list[float]]:
    return [[target(c.step) if c.served else 1 - target(c.step) for c in p.steps] for p in played]


@pytest.mark.parametrize(
    ("target", "effective"),
    [
        (lambda step: 1.0 if step == 0 else 0.0, 4000 * 0.4 * 0.6 * 0.6),  # first-k:1
        (lambda step: 0.7, 4000 / (0.49 / 0.4 + 0.09 / 0.6) ** 3),
        (lambda step: 0.4, 4000),
    ],
)
def test_the_value_of_another_policy_is_found(target: Target, effective: float) -> None:
    played = behaved(4000)
    value = policy_value(played, likelihoods(played, target))
    expected = {"success": 0.0, "cost": 0.0, "share": 0.0}
    for actions in product((0, 1), repeat=3):
        chance = 1.0
        for step, action in enumerate(actions):
            chance *= target(step) if action else 1 - target(step)
        expected["success"] += chance * success(actions)
        expected["cost"] += chance * (1 + 3 * sum(actions))
        expected["share"] += chance * sum(actions) / 3
    assert value.episodes == 4000
    assert value.effective == pytest.approx(effective, rel=0.06)
    assert value.success.low < expected["success"] < value.success.high
    assert value.success.value == pytest.approx(expected["success"], abs=0.035)
    assert value.cost.value == pytest.approx(expected["cost"], abs=0.25)
    assert value.share.value == pytest.approx(expected["share"], abs=0.03)


def test_thin_overlap_is_refused() -> None:
    played = behaved(100)
    with pytest.raises(CapabilityError, match=r"100 episodes are worth \d+\.\d of the target's own, at least 30"):
        policy_value(played, likelihoods(played, lambda step: 1.0))
    with pytest.raises(CapabilityError, match=r"worth 0\.0"):
        policy_value(played, [[0.0] * 3 for _ in played])


def test_what_was_never_tried_is_refused_unless_it_was_out_of_reach() -> None:
    certain = [
        LoggedEpisode("p@1", "main", True, 1.0, (LoggedStep(0, 0.0, 0.0, 0.5), LoggedStep(1, 0.0, 0.0, 1.0))) for _ in range(40)
    ]
    with pytest.raises(CapabilityError, match="in 40 of 40 episodes the target would do what was never tried"):
        policy_value(certain, [[1.0, 0.5] for _ in certain])
    # Here the target would not have come to the second step of half of the episodes.
    assert policy_value(certain * 2, [*[[1.0, 1.0]] * 40, *[[0.0, 0.5]] * 40]).effective == 40
    # What overruled the router would overrule the target.
    forced = [LoggedEpisode("p@1", "main", True, 1.0, (LoggedStep(0, 0.0, 0.0, 1.0, free=False),)) for _ in range(40)]
    assert policy_value(forced, [[0.0] for _ in forced]).effective == 40


# The command, from records


@pytest.fixture
def records(tmp_path: Path) -> str:
    """Episodes of a router that draws, on two arms; on the second it is high more often. Text is not stored."""
    kept, rng = recorder(tmp_path / "r.db"), random.Random(3)
    for number in range(400):
        arm, p = ("main", 0.5) if number % 2 else ("brave", 0.7)
        played, high = Play(kept, str(number)), 0
        for step in range(2):
            chosen = rng.random() < p
            high += chosen
            drawn = routing(
                "high" if chosen else "low", propensity=p if chosen else 1 - p, arm=arm, features=(float(step),) * 16
            )
            played.step(f"m{step}", ruled=drawn)
        if number < 390:
            kept.outcome("", str(number), success=rng.random() < 0.3 + 0.3 * high, reward=None)
    kept.close()
    return f"sqlite:///{tmp_path / 'r.db'}"


def test_the_command_prints_arms_and_a_targets_value(records: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--records", records, "--target", "first-k:1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "main (signals@1): 195 episodes, 5 more without an outcome"
    assert lines[4] == "brave (signals@1): 195 episodes, 5 more without an outcome"
    assert lines[8].startswith("brave minus main: success +")
    assert lines[9].startswith("first-k:1 would have reached (worth ")
    assert lines[12] == "  share at high 0.5 (0.5 to 0.5)"
    value = float(lines[10].removeprefix("  success ").partition("%")[0])
    assert value == pytest.approx(60, abs=12)


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("always:high", 0, ""),
        ("random:0.9", 0, ""),
        ("heuristic", 0, ""),
        ("uncertainty:past-entropy", 4, "reads text"),
        ("nonsense", 2, "unknown router"),
        ("oracle", 2, "cannot afford"),
    ],
)
def test_targets_without_text(records: str, capsys: pytest.CaptureFixture[str], target: str, code: int, message: str) -> None:
    assert main(["estimate", "--records", records, "--target", target]) == code
    assert message in capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_tell(records: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = recorder(tmp_path / "sure.db", store_content=True)
    for number in range(40):
        Play(kept, str(number)).step("a", ruled=routing("high"))
        kept.outcome("", str(number), success=True, reward=None)
    Play(kept, "late", messages=["a"], actions=["b"], variants=["high"]).step("c")
    kept.outcome("", "late", success=True, reward=None)
    Play(kept, "forced").step("a", ruled=routing("low", reason="forced"))
    kept.outcome("", "forced", success=False, reward=None)
    kept.close()
    sure = f"sqlite:///{tmp_path / 'sure.db'}"
    assert main(["estimate", "--records", sure, "--target", "always:low"]) == 4
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("main (signals@1): 40 episodes")
    assert out.splitlines()[-1] == "2 episodes left out: recorded from a later step on, or not routed"
    assert err.startswith("bitroute: no overlap: in 40 of 40 episodes")
    for arguments, code, message in [
        (["--records", records, "--budget", "0.3"], 2, "give --target"),
        (["--records", records, "--target", "heuristic", "--budget", "0.3"], 2, "has no calibration"),
        (["--records", records, "--policy", "other"], 3, "no wanted episode"),
    ]:
        assert main(["estimate", *arguments]) == code
        assert message in capsys.readouterr().err
