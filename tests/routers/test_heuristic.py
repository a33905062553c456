"""The hand-set score: each sign of trouble raises it, and nothing needs a network or log-probabilities."""

from __future__ import annotations

import pytest

from bitroute.episode import View
from bitroute.routers.features import FEATURES, features
from bitroute.routers.heuristic import BIAS, WEIGHTS, Heuristic
from bitroute.routers.registry import build_router

LADDER = ("w4", "w8", "bf16")
OPENING = "You are in a room.\nYour task is to: find a pen.\nGoal: pen"


def view(*messages: str, actions: tuple[str, ...] | None = None) -> View:
    actions = tuple(f"do {i}" for i in range(len(messages) - 1)) if actions is None else actions
    return View(messages, actions, ("w4",) * len(actions), (None,) * len(actions))


def score(one: View) -> float:
    router = Heuristic(LADDER)
    (decision,) = router.decide([one], [router.begin(0)])
    assert decision.score is not None
    return decision.score


def test_the_score_is_the_weighed_features() -> None:
    assert set(WEIGHTS) <= set(FEATURES)
    seen = view(OPENING, "You cannot do that.\nGoal: pen")
    named = dict(zip(FEATURES, features(seen, "bf16").tolist(), strict=True))
    assert score(seen) == pytest.approx(BIAS + sum(weight * named[name] for name, weight in WEIGHTS.items()))


@pytest.mark.parametrize(
    ("trouble", "calm"),
    [
        (view(OPENING, "It failed to open."), view(OPENING, "You did open it.")),
        (view(OPENING, "a box", "a box"), view(OPENING, "a box", "a room")),
        (view(OPENING, "a box", "a room", actions=("go", "go")), view(OPENING, "a box", "a room", actions=("go", "look"))),
        (view(OPENING, "You see a pen 1.\nGoal: pen"), view(OPENING, "You see a cup 1.\nGoal: pen")),
        (view("plan this"), view("plan this", "plan this", "plan this in a room")),
    ],
)
def test_signs_of_trouble_raise_it(trouble: View, calm: View) -> None:
    assert score(trouble) > score(calm)


def test_the_registry_makes_it_with_or_without_a_threshold() -> None:
    assert build_router("heuristic", LADDER, "any model").name == "heuristic"
    router = build_router("heuristic:0.75", LADDER, "")
    assert isinstance(router, Heuristic) and router.thresholds == (0.75, 0.75) and router.variants == LADDER
    assert router.probes == frozenset()
