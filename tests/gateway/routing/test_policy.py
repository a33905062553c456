"""What is served for which request, context and mode; what happens when a router fails, is late or is replaced."""

from __future__ import annotations

import asyncio
import math
import os
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bitroute.episode import Decision, Episode, View
from bitroute.errors import ConfigError, DataError
from bitroute.gateway.core.values import GatewayError, Outcome, RoutingDecision
from bitroute.gateway.routing.policy import Policy
from bitroute.gateway.routing.request import RouteRequest
from bitroute.rollout.player import Player, play
from bitroute.routers.calibrated import Calibrated, save_calibration
from bitroute.routers.encoder.router import EncoderRouter, load_encoder
from bitroute.routers.features import features
from bitroute.routers.heuristic import Heuristic
from bitroute.routers.router import Router
from bitroute.routers.rules import FirstK, Periodic, Random
from bitroute.routers.signals import load_signals
from bitroute.routers.threshold import ThresholdRouter
from bitroute.routers.views import views_of
from support.engine import FakeEngine
from support.routing import call, context, routing_config, save_encoder, save_signals
from support.toy import ToyAgent, ToyEnvironment, toy_task

PAIR, TRIO = ("low", "high"), ("w4", "w8", "bf16")
AUTO = RouteRequest(0.3, None, "auto")
OPENING = View(("You see a desk 1.\nGoal: pen",))


def later(step: int = 3) -> View:
    return View(tuple(f"m{i}" for i in range(step + 1)), tuple(f"a{i}" for i in range(step)), ("low",) * step, (None,) * step)


def free(variant: str) -> bool:
    return False


def using(test: Callable[[Policy], Awaitable[None]], ladder: Sequence[str] = PAIR, **fields: Any) -> None:
    """Run `test` with a started policy."""

    async def main() -> None:
        policy = Policy(routing_config(ladder, **fields))
        await policy.start()
        try:
            await test(policy)
        finally:
            await policy.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Random(PAIR, 0.5))
    return list(play(player, [(toy_task(i, steps=3 + i % 6), 0) for i in range(12)], "random"))


# What a request may ask for.


def test_models_and_what_their_names_ask_for(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "dmr", TRIO)
    save_calibration(path, [Calibrated(0.1, 2.0, 0.1), Calibrated(0.25, 1.0, 0.25)])

    async def test(policy: Policy) -> None:
        assert policy.models() == ["auto", "auto-0.1", "auto-0.25", "w4", "w8", "bf16"]
        assert policy.resolve("auto", None) == RouteRequest(0.3, None, "auto")
        for text, budget in (("0.2", 0.2), ("0", 0.0), ("1", 1.0), ("1.0", 1.0), (".5", 0.5), ("0.", 0.0)):
            assert policy.resolve(f"auto-{text}", None) == RouteRequest(budget, None, "budget")
        assert policy.resolve("w8", None) == RouteRequest(None, "w8", "bypass")
        assert policy.resolve("auto-0.2", "w4") == RouteRequest(None, "w4", "forced")

    using(test, TRIO, router=str(path))


@pytest.mark.parametrize(
    "model",
    [
        "",
        "gpt-4",
        "auto-",
        "auto-1.1",
        "auto--1",
        "auto-nan",
        "auto-1e-2",
        "auto-\u0660",
        "AUTO",
        "auto-0.2 ",
        "auto-0." + "1" * 19,
    ],
)
def test_a_model_that_there_is_not(model: str) -> None:
    policy = Policy(routing_config())
    with pytest.raises(GatewayError) as caught:
        policy.resolve(model, None)
    error = caught.value
    assert (error.status, error.code, error.param, error.kind) == (404, "model_not_found", "model", "invalid_request_error")


def test_a_forced_variant_that_there_is_not() -> None:
    with pytest.raises(GatewayError, match=r"'auto'.*low, high") as caught:
        Policy(routing_config()).resolve("auto", "auto")
    assert caught.value.status == 400


@pytest.mark.parametrize("reason", ["bypass", "forced"])
def test_a_variant_asked_for_is_served_whatever_the_router_and_floors_say(reason: str) -> None:
    async def test(policy: Policy) -> None:
        routing = await policy.decide(context(OPENING), call("pay"), RouteRequest(None, "low", reason), free)
        assert routing.decision == Decision("low", None, reason, 1.0) and routing.intended == "low"
        assert routing.budget is None and routing.features == tuple(features(OPENING, "high").tolist())
        policy.observe(context(OPENING), routing, Outcome())
        assert policy.status()["steps"] == 0

    using(test, router="always:high", floors={"pay": "high"})


# The gateway's decisions are the routers'.


@pytest.mark.parametrize("kind", ["signals", "encoder", "heuristic", "random:0.4", "periodic:0.4", "first-k:2"])
def test_decisions_are_those_of_the_offline_router_on_the_same_views(
    kind: str, episodes: list[Episode], tmp_path: Path
) -> None:
    def offline() -> Router:
        match kind:
            case "signals":
                weights = {"share of new words": 3.0, "last entropy": 1.0, "share at high": -1.0}
                path = save_signals(tmp_path / "signals.json", PAIR, weights, bias=-1.2)
                return load_signals(path, model="toy-model", variants=PAIR)
            case "encoder":
                return load_encoder(save_encoder(tmp_path / "encoder", PAIR), model="toy-model", variants=PAIR)
            case "heuristic":
                return Heuristic(PAIR)
            case _:
                rules: list[Router] = [Random(PAIR, 0.4), Periodic(PAIR, 0.4), FirstK(PAIR, 2)]
                return rules[["random:0.4", "periodic:0.4", "first-k:2"].index(kind)]

    router = offline()
    spec = {"signals": str(tmp_path / "signals.json"), "encoder": str(tmp_path / "encoder")}.get(kind, kind)
    if kind in ("signals", "encoder"):
        # A calibration holds the threshold where the offline router has it.
        views = [view for episode in episodes for view in views_of(episode)]
        middle = statistics.median(d.score for d in router.decide(views, [router.begin(0) for _ in views]))
        save_calibration(Path(spec), [Calibrated(0.0, middle, 0.0), Calibrated(1.0, middle, 1.0)])
        router = router.with_options(threshold=middle)
    played = episodes if kind != "heuristic" else episodes[:8]  # before the running quantile sets in

    async def test(policy: Policy) -> None:
        mine, theirs = [], []
        for number, episode in enumerate(played):
            state = router.begin(number)
            for view in views_of(episode):
                routing = await policy.decide(context(view, f"e{number}", number), call(), AUTO, free)
                mine.append(routing.decision)
                theirs += router.decide([view], [state])
                assert routing.features == tuple(features(view, "high").tolist())
                assert routing.intended == routing.decision.variant
        assert mine == theirs
        assert len({d.variant for d in mine}) == 2

    using(test, router=spec, timeout=30)


def test_an_encoders_decisions_stand_a_branch_and_an_edited_history(tmp_path: Path, episodes: list[Episode]) -> None:
    path = save_encoder(tmp_path / "dmr", PAIR)
    router = load_encoder(path, model="toy-model", variants=PAIR)
    views = views_of(episodes[5])
    edited = View(("another room", *views[2].messages[1:]), views[2].actions, views[2].variants, views[2].signals)

    async def test(policy: Policy) -> None:
        for view in (*views, views[2], edited, views[-1]):
            routing = await policy.decide(context(view), call(), AUTO, free)
            (expected,) = router.scores([view], [router.begin(0)])
            assert routing.decision.score == pytest.approx(expected, abs=1e-5)

    using(test, router=str(path), timeout=30)


# Budgets.


def test_random_draws_at_the_budget_in_force_and_tells_the_chance() -> None:
    async def test(policy: Policy) -> None:
        for budget in (0.2, 0.7):
            requested = policy.resolve(f"auto-{budget}", None)
            routings = [await policy.decide(context(OPENING, str(s), s), call(), requested, free) for s in range(2000)]
            high = [r for r in routings if r.decision.variant == "high"]
            assert len(high) / 2000 == pytest.approx(budget, abs=0.03)
            assert all(r.decision.propensity == (budget if r in high else pytest.approx(1 - budget)) for r in routings[:50])
            assert {(r.budget, r.threshold, r.policy.partition("@")[0]) for r in routings} == {(budget, None, "random")}

    using(test, router="random")


def test_without_calibration_the_running_quantile_spends_the_budget() -> None:
    chance = random.Random(0)
    words = [f"word{i}" for i in range(50)]

    async def test(policy: Policy) -> None:
        for number in range(1500):
            view = View(
                (" ".join(chance.choices(words, k=20)), " ".join(chance.choices(words, k=20))), ("x",), ("low",), (None,)
            )
            at = context(view, f"e{number}")
            routing = await policy.decide(at, call(), AUTO, free)
            policy.observe(at, routing, Outcome())
        status = policy.status()
        assert status["realised"] == pytest.approx(0.3, abs=0.04) and status["steps"] == 1000
        assert (status["alarm"], status["calibrated"], status["budget"]) == (False, False, 0.3)
        assert (await policy.decide(context(OPENING), call(), policy.resolve("auto-0", None), free)).threshold == math.inf
        assert (await policy.decide(context(OPENING), call(), policy.resolve("auto-1", None), free)).decision.variant == "high"

    using(test, router="heuristic", window=1000)


def test_a_calibrated_threshold_is_the_one_in_force(tmp_path: Path) -> None:
    path = save_signals(tmp_path / "signals.json", PAIR, {"step": 10.0})
    save_calibration(path, [Calibrated(0.2, 3.5, 0.2), Calibrated(0.4, 1.5, 0.4)])

    async def test(policy: Policy) -> None:
        for model, threshold, variant in (("auto", 2.5, "high"), ("auto-0.2", 3.5, "low"), ("auto-0.25", 3.0, "low")):
            routing = await policy.decide(context(later(3)), call(), policy.resolve(model, None), free)
            assert routing.threshold == pytest.approx(threshold) and routing.decision.variant == variant
            assert routing.decision.score == pytest.approx(3.0)

    using(test, router=str(path))


def test_the_realised_share_is_of_steps_that_the_router_decided_once_each() -> None:
    async def test(policy: Policy) -> None:
        routings = []
        for step in range(4):
            at = context(later(step))
            routings.append(await policy.decide(at, call(), AUTO, free))
            policy.observe(at, routings[-1], Outcome())
        again = context(later(3), retried=routings[3])
        policy.observe(again, await policy.decide(again, call(), AUTO, free), Outcome())
        status = policy.status()
        assert (status["realised"], status["steps"]) == (0.5, 4)

    using(test, router="first-k:2")


def test_the_alarm_is_of_routers_that_follow_a_budget(caplog: pytest.LogCaptureFixture) -> None:
    async def always(policy: Policy) -> None:
        for step in range(20):
            policy.observe(context(later(step)), await policy.decide(context(later(step)), call(), AUTO, free), Outcome())
        assert (policy.status()["realised"], policy.status()["alarm"]) == (1.0, False)

    async def drifting(policy: Policy) -> None:
        for step in range(20):
            policy.observe(context(later(step)), await policy.decide(context(later(step)), call(), AUTO, free), Outcome())
        assert (policy.status()["realised"], policy.status()["alarm"]) == (1.0, True)

    using(always, router="always:high", window=20)
    assert "alarm" not in caplog.text
    using(drifting, router="heuristic:-9", window=20)
    assert caplog.text.count("spends 1.000 of its budget 0.3: alarm") == 1


def test_budgets_that_clients_make_up_do_not_pile_up() -> None:
    async def test(policy: Policy) -> None:
        for number in range(300):
            await policy.decide(context(OPENING), call(), policy.resolve(f"auto-{number / 1000}", None), free)
        assert len(policy._arms[0].loaded._controls) <= 64

    using(test)


# Precedence: switch, retry, floors.


def test_the_switch_sends_everything_to_one_variant_at_once() -> None:
    async def test(policy: Policy) -> None:
        routed = await policy.decide(context(OPENING), call(), AUTO, free)
        policy.switch("high")
        assert policy.status()["switch"] == "high"
        for at, requested in (
            (context(OPENING), AUTO),
            (context(OPENING), RouteRequest(None, "low", "bypass")),
            (context(OPENING, retried=routed), AUTO),
        ):
            routing = await policy.decide(at, call(), requested, free)
            assert routing.decision == Decision("high", reason="switch") and routing.budget is None
        policy.switch(None)
        assert (await policy.decide(context(OPENING), call(), AUTO, free)).decision.variant == "low"
        with pytest.raises(GatewayError) as caught:
            policy.switch("medium")
        assert caught.value.status == 400

    using(test, router="always:low")


def test_a_retry_gets_its_ruling_again() -> None:
    async def test(policy: Policy) -> None:
        routing = RoutingDecision(Decision("high", 1.5, "earlier"), "high", "p@1", budget=0.3)
        assert await policy.decide(context(OPENING, retried=routing), call(), AUTO, free) is routing

    using(test, router="always:low")


@pytest.mark.parametrize(
    ("tools", "served", "reason"),
    [
        ((), "w4", "always"),
        (("look",), "w4", "always"),
        (("write",), "w8", "floor"),
        (("pay",), "bf16", "floor"),
        (("any",), "w4", "always"),
        (("write", "look"), "w8", "floor"),
        (("any", "pay", "write"), "bf16", "floor"),
    ],
)
def test_a_floor_raises_a_tools_steps_the_highest_of_several(tools: tuple[str, ...], served: str, reason: str) -> None:
    async def test(policy: Policy) -> None:
        routing = await policy.decide(context(OPENING), call(*tools), AUTO, free)
        assert (routing.decision.variant, routing.decision.reason, routing.intended) == (served, reason, "w4")
        assert routing.decision.propensity == 1.0

    using(test, TRIO, router="always:low", floors={"look": "w4", "write": "w8", "pay": "bf16"})


@pytest.mark.parametrize(
    ("model", "forced", "floor", "tools", "served", "reason"),
    [
        ("auto", None, "w4", (), "w4", "always"),
        ("auto", None, "w8", (), "w8", "floor"),
        ("auto-0.1", None, "bf16", (), "bf16", "floor"),
        ("auto", None, "w8", ("pay",), "bf16", "floor"),
        ("auto", None, "bf16", ("write",), "bf16", "floor"),
        ("w4", None, "w8", (), "w8", "floor"),
        ("w8", None, "w8", (), "w8", "bypass"),
        ("bf16", None, "w8", (), "bf16", "bypass"),
        ("auto", "w4", "bf16", (), "bf16", "floor"),
        ("auto", "bf16", "w8", (), "bf16", "forced"),
        ("auto", None, "gone", (), "w4", "always"),
        ("w4", None, "gone", (), "w4", "bypass"),
    ],
)
def test_a_keys_floor_raises_whatever_is_asked_for(
    model: str, forced: str | None, floor: str, tools: tuple[str, ...], served: str, reason: str
) -> None:
    async def test(policy: Policy) -> None:
        routing = await policy.decide(context(OPENING), call(*tools), policy.resolve(model, forced, floor), free)
        assert (routing.decision.variant, routing.decision.reason) == (served, reason)
        assert (routing.budget is None) == (model in TRIO or forced is not None)
        policy.switch("w4")
        switched = await policy.decide(context(OPENING), call(*tools), policy.resolve(model, forced, floor), free)
        assert switched.decision == Decision("w4", reason="switch")

    using(test, TRIO, router="always:low", floors={"write": "w8", "pay": "bf16"})


def test_a_floor_that_is_no_variant_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(routing_config())
    for floor in ("gone", "gone", "other", "high"):
        policy.resolve("auto", None, floor)
    said = [record.message for record in caplog.records]
    assert len(said) == 2 and "'gone'" in said[0] and "low, high" in said[0] and "'other'" in said[1]


def test_a_floor_and_a_drawn_decision() -> None:
    async def test(policy: Policy) -> None:
        for seed in range(40):
            paid = await policy.decide(context(OPENING, seed=seed), call("pay"), AUTO, free)
            assert (paid.decision.variant, paid.decision.propensity) == ("bf16", 1.0)
            written = (await policy.decide(context(OPENING, seed=seed), call("write"), AUTO, free)).decision
            assert (written.variant, written.propensity) in {("w8", 0.7), ("bf16", 0.3)}

    using(test, TRIO, router="random:0.3", floors={"write": "w8", "pay": "bf16"})


# Modes.


def test_shadow_serves_one_variant_and_tells_what_it_would_have_been() -> None:
    async def test(policy: Policy) -> None:
        for step in range(4):
            at = context(later(step))
            routing = await policy.decide(at, call(), AUTO, free)
            assert routing.decision == Decision("high", None, "shadow", 1.0)
            assert routing.intended == ("high" if step < 1 else "low")
            policy.observe(at, routing, Outcome())
        assert policy.status()["realised"] == 0.25

    using(test, router="first-k:1", mode="shadow")


def test_shadow_may_serve_another_variant() -> None:
    async def test(policy: Policy) -> None:
        routing = await policy.decide(context(OPENING), call(), AUTO, free)
        assert (routing.decision.variant, routing.intended) == ("w8", "bf16")

    using(test, TRIO, router="always:high", mode="shadow", serve="w8")


def test_split_gives_each_episode_one_arm_with_its_router_and_budget() -> None:
    splits = [
        {"name": "draw", "share": 0.25, "router": "random", "budget": 0.9},
        {"name": "low", "share": 0.25, "router": "always:low"},
    ]

    async def test(policy: Policy) -> None:
        arms: dict[str, list[int]] = {}
        for seed in range(2000):
            first = await policy.decide(context(OPENING, seed=seed), call(), AUTO, free)
            second = await policy.decide(context(later(), seed=seed), call(), AUTO, free)
            assert first.arm == second.arm
            arms.setdefault(first.arm, []).append(seed)
            expected = {"main": ("always(high)", 0.3), "draw": ("random", 0.9), "low": ("always(low)", 0.3)}[first.arm]
            assert (first.policy.partition("@")[0], first.budget) == expected
        assert {name: len(seeds) / 2000 for name, seeds in arms.items()} == {
            "main": pytest.approx(0.5, abs=0.03),
            "draw": pytest.approx(0.25, abs=0.03),
            "low": pytest.approx(0.25, abs=0.03),
        }
        at = context(OPENING, seed=arms["draw"][0])
        asked = await policy.decide(at, call(), policy.resolve("auto-0.5", None), free)
        assert (asked.arm, asked.budget) == ("draw", 0.5)
        policy.observe(at, asked, Outcome())
        status: Any = policy.status()
        assert [(arm["name"], arm["budget"], arm["steps"]) for arm in status["arms"]] == [
            ("main", 0.3, 0),
            ("draw", 0.9, 0),
            ("low", 0.3, 0),
        ]

    using(test, router="always:high", mode="split", splits=splits)


def test_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"routing\.splits: two arms have one name in main, main"):
        Policy(routing_config(mode="split", splits=[{"name": "main", "share": 0.1, "router": "random"}]))


def test_explore_flips_one_step_of_an_episode_and_spares_floors() -> None:
    async def test(policy: Policy) -> None:
        for seed in range(40):
            routings = [await policy.decide(context(later(step), seed=seed), call(), AUTO, free) for step in range(8)]
            flips = [step for step, routing in enumerate(routings) if routing.flipped]
            assert len(flips) == 1
            for step, routing in enumerate(routings):
                flipped = step in flips
                assert (routing.decision.variant, routing.intended) == ("high" if flipped else "low", "low")
                assert routing.decision.reason == ("flip" if flipped else "always")
                assert (routing.decision.propensity < 1) == (step <= flips[0] and step < 7)
            held = await policy.decide(context(later(flips[0]), seed=seed), call("write"), AUTO, free)
            assert (held.flipped, held.decision) == (False, Decision("high", reason="floor"))

    using(test, router="always:low", mode="explore", explore=1.0, horizon=8, floors={"write": "high"})


def test_explore_over_draws_among_three_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"explore cannot flip steps that random:.* draws among"):
        using(never, TRIO, router="random:0.5", mode="explore")


async def never(policy: Policy) -> None:
    raise AssertionError("it started")


# Failures.


class Broken(ThresholdRouter):
    name = "broken"

    def scores(self, views: Sequence[View], states: Sequence[Any]) -> list[float]:
        if view_fails(views[0]):
            raise RuntimeError("boom")
        return [math.nan if view.messages[-1] == "nan" else 1.0 for view in views]


def view_fails(view: View) -> bool:
    return view.messages[-1] == "fail"


def broken(policy: Policy) -> None:
    loaded = policy._arms[0].loaded
    loaded.router = type(loaded.router)("broken", "1", lambda _: Broken(PAIR), follows=True)


@pytest.mark.parametrize("text", ["fail", "nan"])
def test_a_router_that_fails_counts_and_falls_to_high_unless_that_is_full(text: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(policy: Policy) -> None:
        broken(policy)
        at = context(View((text,)))
        routing = await policy.decide(at, call(), AUTO, free)
        assert routing.decision == Decision("high", reason="router-error") and routing.intended == "high"
        assert routing.budget == 0.3 and routing.features is not None
        full = await policy.decide(at, call(), AUTO, lambda variant: variant == "high")
        assert full.decision == Decision("low", reason="saturated")
        policy.observe(at, routing, Outcome())
        status = policy.status()
        counts = [status[name] for name in ("router_errors", "fell_to_high", "saturated", "late", "steps")]
        assert counts == [2, 1, 1, 0, 0]
        assert (await policy.decide(context(View(("fine",))), call(), AUTO, free)).decision.reason == "broken"

    using(test)
    assert caplog.text.count("failed, and steps fall to high") == 1


def test_a_failure_in_shadow_is_told_and_served_as_shadow() -> None:
    async def test(policy: Policy) -> None:
        broken(policy)
        routing = await policy.decide(context(View(("fail",))), call(), AUTO, free)
        assert (routing.decision, routing.intended) == (Decision("low", reason="router-error"), "high")

    using(test, mode="shadow", serve="low")


def test_a_late_network_falls_to_high_and_serves_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = threading.Event(), threading.Event()
    scores = EncoderRouter.scores

    def gated(self: EncoderRouter, views: Sequence[View], states: Sequence[Any]) -> list[float]:
        begun.set()
        assert gate.wait(30)
        return scores(self, views, states)

    monkeypatch.setattr(EncoderRouter, "scores", gated)

    async def test(policy: Policy) -> None:
        routing = await policy.decide(context(OPENING), call(), AUTO, free)
        assert routing.decision == Decision("high", reason="late") and routing.seconds >= 0.01
        assert (policy.status()["late"], policy.status()["fell_to_high"]) == (1, 1)
        assert await asyncio.to_thread(begun.wait, 30)
        gate.set()
        await until(lambda: len(policy._thread.memory) == 1)

    using(test, router=str(save_encoder(tmp_path / "dmr", PAIR)), timeout=0.01)


# Files that change.


def touch(path: Path, seconds: float) -> None:
    """Another modification time, whatever the clock's grain."""
    stamp = time.time() + seconds
    os.utime(path, (stamp, stamp))


def test_a_new_router_is_taken_up_and_a_damaged_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_signals(tmp_path / "signals.json", PAIR, {}, bias=1.0)

    async def test(policy: Policy) -> None:
        old = await policy.decide(context(OPENING), call(), AUTO, free)
        policy.observe(context(OPENING), old, Outcome())
        save_signals(path, PAIR, {}, bias=-1.0)
        touch(path, 10)
        await until(lambda: policy.status()["reloads"] == 1)
        new = await policy.decide(context(OPENING), call(), AUTO, free)
        assert (old.decision.variant, new.decision.variant) == ("high", "low") and old.policy != new.policy
        policy.observe(context(OPENING), old, Outcome())  # was in flight when its version went
        assert policy.status()["steps"] == 0
        path.write_bytes(path.read_bytes()[:-20])
        touch(path, 20)
        await until(lambda: policy.status()["reload_errors"] == 1)
        path.unlink()
        assert (await policy.decide(context(OPENING), call(), AUTO, free)).policy == new.policy
        save_signals(path, PAIR, {}, bias=2.0)
        touch(path, 30)
        await until(lambda: policy.status()["reloads"] == 2)
        assert (await policy.decide(context(OPENING), call(), AUTO, free)).decision.score == 2.0

    using(test, router=str(path), reload=0.01)
    assert "signals.json: not a trained router" in caplog.text


def test_a_decision_in_flight_finishes_on_the_version_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_encoder(tmp_path / "dmr", PAIR, seed=1)
    gate, begun = threading.Event(), threading.Event()
    scores = EncoderRouter.scores
    expected = load_encoder(path, model="toy-model", variants=PAIR)
    (wanted,) = expected.scores([OPENING], [expected.begin(0)])

    def gated(self: EncoderRouter, views: Sequence[View], states: Sequence[Any]) -> list[float]:
        begun.set()
        assert gate.wait(30)
        return scores(self, views, states)

    monkeypatch.setattr(EncoderRouter, "scores", gated)

    async def test(policy: Policy) -> None:
        before: Any = policy.status()["policy"]
        waiting = asyncio.ensure_future(policy.decide(context(OPENING), call(), AUTO, free))
        assert await asyncio.to_thread(begun.wait, 30)
        save_encoder(path, PAIR, seed=2)
        touch(path / "router.json", 10)
        await until(lambda: policy.status()["policy"] != before)
        gate.set()
        old, new = await waiting, await policy.decide(context(OPENING), call(), AUTO, free)
        assert old.policy == before != new.policy
        assert old.decision.score == pytest.approx(wanted, abs=1e-5)
        assert new.decision.score != pytest.approx(wanted, abs=1e-3)

    using(test, router=str(path), reload=0.01, timeout=30)


def test_a_router_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        using(never, router=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="at least two variants"):
        using(never, ["only"], router="heuristic")


def test_one_variant_can_be_recorded() -> None:
    async def test(policy: Policy) -> None:
        routing = await policy.decide(context(OPENING), call(), AUTO, free)
        policy.observe(context(OPENING), routing, Outcome())
        assert routing.decision.variant == "only" and policy.status()["steps"] == 1

    using(test, ["only"], router="always:high")
