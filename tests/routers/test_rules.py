"""Rules that need no training."""

from __future__ import annotations

import pytest

from bitroute.episode import Decision, View
from bitroute.errors import CapabilityError, ConfigError
from bitroute.routers.router import Reads, Router, draw
from bitroute.routers.rules import Always, FirstK, Periodic, Random, Repetition

PAIR = ("low", "high")


def view(step: int) -> View:
    return View(("m",) * (step + 1), ("a",) * step, ("low",) * step, (None,) * step)


def decide(router: Router, seed: int, steps: int) -> list[Decision]:
    """The decisions of one episode."""
    state = router.begin(seed)
    return [router.decide([view(t)], [state])[0] for t in range(steps)]


def high(decisions: list[Decision]) -> list[bool]:
    return [d.variant == "high" for d in decisions]


@pytest.mark.parametrize("variant", ["w2", "w4", "bf16"])
def test_always_takes_its_variant(variant: str) -> None:
    router = Always(("w2", "w4", "bf16"), variant)
    assert [d.variant for d in decide(router, 0, 5)] == [variant] * 5
    assert router.name == f"always({variant})"
    assert router.probes == frozenset()


def test_always_refuses_an_unknown_variant() -> None:
    with pytest.raises(CapabilityError, match="unknown variant 'w8'; there are low, high"):
        Always(PAIR, "w8")


def test_random_spends_its_share_and_says_with_which_probability() -> None:
    decisions = [d for seed in range(200) for d in decide(Random(PAIR, 0.3), seed, 50)]
    share = sum(high(decisions)) / len(decisions)
    assert share == pytest.approx(0.3, abs=0.014)  # three standard errors of 10,000 draws
    assert {(d.variant, d.propensity) for d in decisions} == {("high", 0.3), ("low", 0.7)}


def test_random_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    router = Random(PAIR, 0.5)
    first, again, other = (high(decide(router, seed, 64)) for seed in (1, 1, 2))
    assert first == again
    assert 16 < sum(a != b for a, b in zip(first, other, strict=True)) < 48


def test_random_decides_a_step_alike_with_a_fresh_state() -> None:
    router = Random(PAIR, 0.5)
    played = decide(router, 9, 30)
    resumed = [router.decide([view(t)], [router.begin(9)])[0] for t in range(30)]
    assert played == resumed


def test_draws_are_uniform_and_differ_by_step() -> None:
    draws = [draw(seed, step) for seed in range(40) for step in range(50)]
    assert len(set(draws)) == 2000
    assert sum(draws) / 2000 == pytest.approx(0.5, abs=0.02)
    assert sum(d < 0.1 for d in draws) / 2000 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.77, 1.0])
def test_periodic_spends_exactly_its_share(share: float) -> None:
    router = Periodic(PAIR, share)
    for seed in range(5):
        flags = high(decide(router, seed, 300))
        for length in range(1, 301):
            assert abs(sum(flags[:length]) - share * length) < 1 + 1e-9 + length * 0.0005  # shares are kept to 1/1000
        assert sum(flags) == pytest.approx(300 * share, abs=0.2)


def test_periodic_starts_at_a_phase_of_the_seed() -> None:
    firsts = [high(decide(Periodic(PAIR, 0.25), seed, 4)).index(True) for seed in range(40)]
    assert set(firsts) == {0, 1, 2, 3}


def test_first_k() -> None:
    assert high(decide(FirstK(PAIR, 3), 0, 6)) == [True] * 3 + [False] * 3
    assert high(decide(FirstK(PAIR, 0), 0, 2)) == [False, False]


def test_first_k_takes_a_part_of_a_step_in_a_part_of_the_episodes() -> None:
    router = FirstK(PAIR, 2.25)
    flags = [high(decide(router, seed, 5)) for seed in range(4000)]
    assert all(f[:2] == [True, True] and f[3:] == [False, False] for f in flags)
    assert sum(f[2] for f in flags) / 4000 == pytest.approx(0.25, abs=0.02)
    assert (router.draws, router.name, FirstK(PAIR, 2.0).draws) == (True, "first-k(2.25)", False)
    third = [decide(router, seed, 5)[2] for seed in range(50)]
    assert {(d.variant, d.propensity) for d in third} == {("high", 0.25), ("low", 0.75)}


@pytest.mark.parametrize("make", [lambda p: Random(PAIR, p), lambda p: Periodic(PAIR, p)])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(make: type[Random], share: float) -> None:
    with pytest.raises(ConfigError, match=r"share .* is outside 0\.\.1"):
        make(share)


def test_first_k_refuses_a_negative_number() -> None:
    with pytest.raises(ConfigError, match="k -1 is negative"):
        FirstK(PAIR, -1)
    for k in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="is no number of steps"):
            FirstK(PAIR, k)


def repeated(messages: str, dwell: int = 0) -> str:
    """The decisions of an episode whose messages are letters: H for high, . for low."""
    router = Repetition(PAIR, dwell)
    state = router.begin(0)
    views = [View(tuple(messages[: t + 1]), ("a",) * t, ("low",) * t, (None,) * t) for t in range(len(messages))]
    decisions = [router.decide([view], [state])[0] for view in views]
    assert decisions == router.decide(views, [router.begin(1)] * len(views))  # nothing but the texts counts
    return "".join("H" if d.variant == "high" else "." for d in decisions)


@pytest.mark.parametrize(
    ("messages", "dwell", "expected"),
    [
        ("abcdef", 0, "......"),
        ("abacab", 0, "..H.HH"),
        ("aaaa", 0, ".HHH"),
        ("abacdefg", 1, "..HH...."),
        ("abacdefg", 3, "..HHHH.."),
        ("aabcdaef", 2, ".HHH.HHH"),
        ("abcda", 9, "....H"),
        ("a", 5, "."),
    ],
)
def test_repetition_is_high_in_a_circle_and_for_a_while_after(messages: str, dwell: int, expected: str) -> None:
    assert repeated(messages, dwell) == expected


def test_repetition_refuses_a_negative_dwell_and_reads_text() -> None:
    with pytest.raises(ConfigError, match="dwell -1 is negative"):
        Repetition(PAIR, -1)
    assert Repetition(PAIR).reads is Reads.TEXT and not Repetition(PAIR).draws
    assert (Repetition(PAIR).name, Repetition(PAIR, 3).name) == ("repetition", "repetition(3)")


def test_rules_of_the_step_read_nothing_and_random_draws() -> None:
    rules = (Always(PAIR, "high"), Random(PAIR, 0.5), Periodic(PAIR, 0.5), FirstK(PAIR, 1))
    assert [rule.reads for rule in rules] == [Reads.NOTHING] * 4
    assert [rule.draws for rule in rules] == [False, True, False, False]
    assert [rule.thresholds for rule in rules] == [None] * 4
