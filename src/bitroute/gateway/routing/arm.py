"""An arm: the policy that some of the episodes are assigned to, read from files and read again when they change.

It knows routers' files and the thresholds of what was read, and decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from cachetools import LRUCache

from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.routing.budget import Control, Scores, gaps
from bitroute.gateway.routing.loading import LoadedRouter, load_router
from bitroute.routers.registry import Signature, signature

log = logging.getLogger(__name__)

BUDGETS: Final = 64  # per arm; of further ones the least recently used begins anew


class LoadedPolicy:
    """One version of an arm's router in use, with the scores it gave and its thresholds by budget."""

    def __init__(self, router: LoadedRouter, config: GatewayConfig) -> None:
        self.router, self.name = router, router.policy
        self._routing = config.routing
        configured = router.at(config.routing.budget)
        self._own = configured.thresholds or ()
        self.failures = configured.failures
        self._gaps = gaps(self._own)
        self.scores = Scores()
        self.failed = False  # at least once, which was logged
        self._controls: LRUCache[float, Control] = LRUCache(BUDGETS)

    def control(self, budget: float) -> Control:
        """The thresholds for a budget; made at its first use."""
        control = self._controls.get(budget)
        if control is None:
            control = self._controls[budget] = Control(
                budget,
                self._own,
                self.router.calibration,
                window=self._routing.window,
                alarm=self._routing.alarm if self.router.follows else 1.0,
                feedback=self._routing.feedback,
            )
        return control

    def see(self, score: float) -> None:
        """Count a score among the recent ones."""
        for gap in self._gaps:
            self.scores.add(score - gap)


class Arm:
    """A policy that episodes are assigned to: its router's files, its budget, and the policy in use."""

    def __init__(self, name: str, spec: str, budget: float, config: GatewayConfig) -> None:
        self.name, self.spec, self.budget, self._config = name, spec, budget, config
        self.loaded: LoadedPolicy
        self.reloads = self.reload_errors = 0
        self._signature: Signature = ()

    def load(self) -> None:
        """Read the router. Raises BitrouteError."""
        self._signature = signature(self.spec)
        self.loaded = LoadedPolicy(load_router(self.spec, self._config.ladder), self._config)

    @property
    def draws(self) -> bool:
        """Whether the router's decisions are random."""
        return self.loaded.router.at(self.budget).draws

    async def look(self) -> None:
        """Read the router again if its files changed; what cannot be read leaves the present version in use."""
        try:
            seen = await asyncio.to_thread(signature, self.spec)
            if not seen or seen == self._signature:
                return
            self._signature = seen
            router = await asyncio.to_thread(load_router, self.spec, self._config.ladder)
        except Exception as error:  # whatever a file that is being written, or is no router, makes its reader raise
            self.reload_errors += 1
            log.warning("arm %s keeps %s: %s", self.name, self.loaded.name, error)
            return
        if router.version != self.loaded.router.version:
            log.info("arm %s: %s replaces %s", self.name, router.policy, self.loaded.name)
            self.loaded = LoadedPolicy(router, self._config)
            self.reloads += 1
