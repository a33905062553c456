"""Who decides, in which mode, within which budget: from a request's place in its episode to the variant that serves it.

It knows routers and budgets, and nothing of HTTP or upstreams; `request` says what is asked for, `arm` what is loaded. The
order of precedence: the kill switch; the decision for an earlier try of the same step; a variant asked for by name or forced;
then the router, whose choice may be replaced by shadow mode or flipped by explore mode, and is raised to the highest floor of
its tools. A key's floor raises both that and what is asked for; tools' floors do not bind what was asked for.

`decision.reason` is the router's own word where it was followed, else `shadow`, `flip`, `floor` (a floor holds for this step,
raised or not), `late` and `router-error` (it failed: high is served), `saturated` (it failed, and high has no room: low),
`bypass`, `forced` or `switch`. `exploration` says which of these a flip can hit.

A router decides in the event loop or, where its cost says so, in the thread of `scoring`. One that reads features is given the
step's, which are computed for the record in any case. Budgets are kept by `budget`, per arm and K.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from bitroute.episode import Decision, View
from bitroute.errors import BitrouteError, ConfigError
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.core.values import Call, GatewayError, Outcome, RoutingDecision, StepContext
from bitroute.gateway.routing.arm import Arm, LoadedPolicy
from bitroute.gateway.routing.budget import Control
from bitroute.gateway.routing.exploration import Exploration, uniform
from bitroute.gateway.routing.request import AUTO, RouteRequest, read_request
from bitroute.gateway.routing.scoring import Memory, ScoringThread
from bitroute.routers.features import FeatureState, features
from bitroute.routers.router import Reads, RouterCost
from bitroute.routers.threshold import settle

log = logging.getLogger(__name__)

MAIN: Final = "main"
FAILED: Final = frozenset({"late", "router-error", "saturated"})  # reasons: the router did not decide


class Policy:
    """The gateway's decisions. `start` reads the routers; `decide` and `observe` are called in one event loop."""

    def __init__(self, config: GatewayConfig) -> None:
        """Reads nothing. Raises ConfigError for splits that cannot be told apart."""
        routing = config.routing
        self.config, self.ladder, self.mode = config, config.ladder, routing.mode
        self._arms = [Arm(MAIN, routing.router, routing.budget, config)]
        self._shares = [0.0]  # of the episodes; the first arm has what the others leave
        if self.mode == "split":
            for split in routing.splits:
                budget = routing.budget if split.budget is None else split.budget
                self._arms.append(Arm(split.name, split.router, budget, config))
                self._shares.append(split.share)
        names = [arm.name for arm in self._arms]
        if len(set(names)) < len(names):
            raise ConfigError(f"routing.splits: two arms have one name in {', '.join(names)}")
        self._served = routing.serve or self.ladder[-1]
        self._floors = {tool: name for tool, name in routing.floors.items() if name != self.ladder[0]}
        self._unknown: set[str] = set()  # floors of keys that are no variants, which was logged
        self._explore = Exploration(routing.explore, routing.horizon)
        self._feature_states: Memory[FeatureState] = Memory(routing.cache // 4)
        self._thread = ScoringThread(routing.cache - routing.cache // 4)
        self._switched: str | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.counts = dict.fromkeys(("late", "router-error", "saturated", "high"), 0)

    async def start(self) -> None:
        """Read the routers, and look after their files from now on. Raises BitrouteError naming what is wrong with one."""
        for number, arm in enumerate(self._arms):
            try:
                await asyncio.to_thread(arm.load)
            except BitrouteError as error:
                error.of("routing", *(("splits", number - 1, "router") if number else ("router",)))
                raise
            if self.mode == "explore" and len(self.ladder) > 2 and arm.draws:
                raise ConfigError(f"routing.mode: explore cannot flip steps that {arm.spec} draws among more than two variants")
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking, and end the routers' thread."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        await self._thread.close()

    def models(self) -> list[str]:
        """What can be asked for: `auto`, `auto-K` for the budgets that calibration found thresholds for, each variant."""
        budgets = (row.budget for row in self._arms[0].loaded.router.calibration)
        return [AUTO, *(f"{AUTO}-{budget:g}" for budget in budgets), *self.ladder]

    def resolve(self, model: str, forced: str | None, floor: str | None = None) -> RouteRequest:
        """What `model` and a forced variant (a header's or a key's) ask for, above a key's floor.

        Raises GatewayError: 404 for a model that there is not, 400 for a forced variant that there is not. A floor that there
        is not (the ladder may be younger than the key) is logged and left out.
        """
        if floor is not None and floor not in self.ladder:
            if floor not in self._unknown:
                self._unknown.add(floor)
                log.warning("a key's floor %r is no variant and does not hold; there are %s", floor, ", ".join(self.ladder))
            floor = None
        return read_request(model, forced, floor, ladder=self.ladder, budget=self.config.routing.budget)

    async def decide(
        self, context: StepContext, call: Call, requested: RouteRequest, saturated: Callable[[str], bool]
    ) -> RoutingDecision:
        """The variant of this step. `saturated(variant)` says whether all of its replicas are full. Never fails."""
        if self._switched is not None:
            return self._fixed(context, self._switched, "switch")
        if context.retried is not None:
            return context.retried
        if requested.variant is not None:
            floor = max(requested.floor or requested.variant, requested.variant, key=self.ladder.index)
            return self._fixed(context, floor, requested.reason if floor == requested.variant else "floor")
        arm = self._arm(context.seed)
        budget = arm.budget if requested.budget is None or requested.reason == AUTO else requested.budget
        loaded = arm.loaded
        row = self._features(context, arm)
        started = time.perf_counter()
        threshold = None
        try:
            decision, threshold = await self._choose(loaded, loaded.control(budget), context, row)
        except TimeoutError:
            decision = self._fall("late", saturated)
        except Exception as error:  # a router's own defect must not fail the request
            if not loaded.failed:
                loaded.failed = True
                log.warning("%s failed, and steps fall to %s: %s", loaded.name, self.ladder[-1], error, exc_info=error)
            decision = self._fall("router-error", saturated)
        seconds = time.perf_counter() - started
        lowest = self._floor(call.tools, requested.floor)
        served, flipped = self._serve(decision, context, lowest)
        return RoutingDecision(
            served,
            decision.variant,
            self._named(loaded),
            arm.name,
            threshold,
            budget,
            flipped,
            seconds,
            row,
            lowest,
        )

    def observe(self, context: StepContext, routing: RoutingDecision, outcome: Outcome) -> None:
        """Count what a step spent, once, where the router decided; its thresholds may follow."""
        if context.retried is not None or routing.budget is None or routing.decision.reason in FAILED:
            return
        loaded = next((arm.loaded for arm in self._arms if arm.name == routing.arm), None)
        if loaded is None or self._named(loaded) != routing.policy:
            return  # decided by a policy that has been replaced
        control = loaded.control(routing.budget)
        before = control.alarm
        chosen = routing.intended if self.mode == "shadow" else routing.decision.variant
        control.observe(self.ladder.index(chosen) / max(1, len(self.ladder) - 1))
        if control.alarm != before:
            log.warning(
                "%s spends %.3f of its budget %g: %s",
                loaded.name,
                control.meter.mean,
                control.budget,
                "within limits again" if before else "alarm",
            )

    def switch(self, variant: str | None) -> None:
        """Send everything to one variant from now on, whatever is asked for; None: as configured.

        Raises GatewayError (400) for a variant that there is not.
        """
        if variant is not None and variant not in self.ladder:
            raise GatewayError(400, f"There is no variant {variant!r}", code="invalid_value", param="variant")
        if variant != self._switched:  # a worker among several is told again by itself
            self._switched = variant
            log.warning("kill switch: %s", f"everything goes to {variant}" if variant else "off, the router decides again")

    def status(self) -> dict[str, object]:
        """Figures for people: of the main arm at its budget, of every arm below `arms`, and counts since the start."""
        arms = [self._arm_status(arm) for arm in self._arms]
        return {
            **arms[0],
            "mode": self.mode,
            "switch": self._switched,
            "alarm": any(arm["alarm"] for arm in arms),
            "router_errors": self.counts["router-error"],
            "late": self.counts["late"],
            "saturated": self.counts["saturated"],
            "fell_to_high": self.counts["high"],
            "reloads": sum(arm.reloads for arm in self._arms),
            "reload_errors": sum(arm.reload_errors for arm in self._arms),
            "arms": arms,
        }

    def _arm_status(self, arm: Arm) -> dict[str, object]:
        control = arm.loaded.control(arm.budget)
        return {
            "name": arm.name,
            "policy": arm.loaded.name,
            "budget": arm.budget,
            "realised": control.meter.mean,
            "steps": len(control.meter),
            "alarm": control.alarm,
            "thresholds": control.latest,
            "calibrated": control.calibrated is not None,
        }

    async def _choose(
        self, loaded: LoadedPolicy, control: Control, context: StepContext, row: tuple[float, ...]
    ) -> tuple[Decision, float | None]:
        """The router's own decision and its threshold, if it has one."""
        router, view = loaded.router.at(control.budget), context.view
        if router.reads is Reads.FEATURES:
            view = View(view.messages, view.actions, view.variants, view.signals, features=row)  # `replace` takes 2 us more
        if router.cost is RouterCost.THREAD:
            parent = context.parent[0] if context.parent is not None else None
            async with asyncio.timeout(self.config.routing.timeout):
                decision = await self._thread.decide(router, loaded.router.version, context.episode, context.seed, view, parent)
        else:
            (decision,) = router.decide([view], [router.begin(context.seed)])
        if router.thresholds is None:
            return decision, None
        if decision.score is None:
            raise TypeError(f"router {router.name} has thresholds and gave no score")
        thresholds = control.thresholds(loaded.scores)
        loaded.see(decision.score)
        return settle(router, decision.score, thresholds, context.seed, len(view.actions)), thresholds[0]

    def _floor(self, tools: Sequence[str], lowest: str | None) -> str | None:
        """The highest of the tools' floors and the key's, None where that is the ladder's lowest."""
        floors = [self._floors[tool] for tool in tools if tool in self._floors]
        if lowest is not None and lowest != self.ladder[0]:
            floors.append(lowest)
        return max(floors, key=self.ladder.index, default=None)

    def _serve(self, decision: Decision, context: StepContext, floor: str | None) -> tuple[Decision, bool]:
        """What is served of the router's decision above `floor`, and whether that is a flip."""
        flipped, failed = False, decision.reason in FAILED
        if self.mode == "shadow":
            decision = Decision(self._served, decision.score, decision.reason if failed else "shadow")
        elif self.mode == "explore" and not failed and floor is None:
            decision, flipped = self._explore.apply(decision, self.ladder, context.seed, context.step)
        if floor is not None:
            variant = max(decision.variant, floor, key=self.ladder.index)
            # Only the lowest and the highest are ever drawn, so a floor between them leaves a draw's probability as it is.
            certain = floor == self.ladder[-1]
            propensity = 1.0 if certain else decision.propensity
            decision = Decision(variant, decision.score, decision.reason if failed else "floor", propensity)
        return decision, flipped

    def _named(self, loaded: LoadedPolicy) -> str:
        """What routing decisions call a policy: one that only watches must not be credited with what was served."""
        return f"shadow:{loaded.name}" if self.mode == "shadow" else loaded.name

    def _fall(self, reason: str, saturated: Callable[[str], bool]) -> Decision:
        """The router gave no answer: high, or low where high has no room."""
        self.counts[reason] += 1
        if saturated(self.ladder[-1]):
            self.counts["saturated"] += 1
            return Decision(self.ladder[0], reason="saturated")
        self.counts["high"] += 1
        return Decision(self.ladder[-1], reason=reason)

    def _fixed(self, context: StepContext, variant: str, reason: str) -> RoutingDecision:
        """A step that no router decides."""
        row = self._features(context, self._arm(context.seed))
        return RoutingDecision(Decision(variant, reason=reason), variant, f"{reason}:{variant}", features=row)

    def _features(self, context: StepContext, arm: Arm) -> tuple[float, ...]:
        """The step's features, by the words of the arm's router."""
        state = self._feature_states.take(context.episode) or FeatureState()
        row = features(context.view, self.ladder[-1], state, arm.loaded.failures)
        self._feature_states.put(context.episode, state)
        return tuple(row.tolist())

    def _arm(self, seed: int) -> Arm:
        """The episode's arm; a branch with its parent's seed stays with it."""
        if len(self._arms) == 1:
            return self._arms[0]
        drawn = uniform(seed, "arm")
        for arm, share in zip(self._arms[1:], self._shares[1:], strict=True):
            if drawn < share:
                return arm
            drawn -= share
        return self._arms[0]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.routing.reload)
            for arm in self._arms:
                await arm.look()
