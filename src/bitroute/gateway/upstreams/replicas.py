"""Which replica of a variant gets a request: by health so far, load and session affinity. It counts; it sends nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container
from dataclasses import dataclass
from hashlib import blake2b

from bitroute.gateway.core.config import VariantConfig

STRIKES = 3  # failures in a row, short of a refused connection, after which a replica gets no more requests
BUSIER = 1.25  # a session leaves its replica when that has more than this times the mean load ...
SLACK = 4  # ... plus this many requests
RECENT = 10.0  # seconds after which a request counts 1/e in the retry budget
FREE = 10.0  # recent retries that are always allowed, or a quiet gateway could never retry


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica for metrics and admin pages. `failures` counts failed tries since the start."""

    variant: str
    url: str
    healthy: bool
    in_flight: int
    failures: int


class Replica:
    """One server of one variant. `url` ends before /v1; `key` is the bearer token that it wants, None for none."""

    __slots__ = ("_strikes", "_weight", "failures", "healthy", "in_flight", "key", "limit", "turn", "url", "variant")

    def __init__(self, config: VariantConfig, url: str, key: str | None) -> None:
        self.variant, self.key, self.limit = config, key, config.max_requests
        self.url = url.rstrip("/").removesuffix("/v1")
        self.healthy = True
        self.in_flight = self.failures = self.turn = 0
        self._strikes = 0
        self._weight = blake2b(self.url.encode(), digest_size=16).digest()

    @property
    def status(self) -> ReplicaStatus:
        """What to show of it."""
        return ReplicaStatus(self.variant.name, self.url, self.healthy, self.in_flight, self.failures)

    def weight(self, affinity: bytes) -> bytes:
        """Its place in the rendezvous order of `affinity` (at most 64 bytes): the same in every process."""
        return blake2b(self._weight, digest_size=8, key=affinity).digest()

    def succeeded(self) -> None:
        """An answer came."""
        self._strikes = 0
        self.healthy = True

    def failed(self, gone: bool) -> None:
        """A try failed; `gone`: nothing listens there, which is certain at once."""
        self.failures += 1
        self._strikes += 1
        if gone or self._strikes >= STRIKES:
            self.healthy = False

    def checked(self, good: bool) -> None:
        """A health check ended. One that brings a replica back leaves it on probation: its next failure counts at once."""
        if not good:
            self.healthy = False
        elif not self.healthy:
            self.healthy = True
            self._strikes = STRIKES - 1


class Pool:
    """The replicas of one variant. Raises ConfigError when its key is named but not set."""

    def __init__(self, config: VariantConfig) -> None:
        key = config.key
        self.config = config
        self.replicas = tuple(Replica(config, url, key) for url in config.urls)
        self._turns = itertools.count(1)

    @property
    def alive(self) -> bool:
        """Whether any replica answers."""
        return any(replica.healthy for replica in self.replicas)

    @property
    def saturated(self) -> bool:
        """Whether no replica takes a further request: of those that answer, or of all when none does."""
        alive = self.alive
        return all(replica.in_flight >= replica.limit for replica in self.replicas if replica.healthy is alive)

    def pick(self, affinity: str, tried: Container[Replica] = (), *, desperate: bool = False) -> Replica | None:
        """The replica for a new request, or None. Only healthy ones, unless `desperate`: then only the others.

        With an affinity the first in its rendezvous order that is not clearly busier than the mean; without, or when all
        are, the one with the fewest requests in flight, the longest unused among equals.
        """
        found = [r for r in self.replicas if r.healthy is not desperate and r.in_flight < r.limit and r not in tried]
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        if affinity:
            digest = blake2b(affinity.encode(), digest_size=16).digest()
            alive = [replica.in_flight for replica in self.replicas if replica.healthy]
            bound = math.floor(BUSIER * sum(alive) / max(len(alive), 1)) + SLACK
            for replica in sorted(found, key=lambda replica: replica.weight(digest), reverse=True):
                if replica.in_flight <= bound:
                    return replica
        chosen = min(found, key=lambda replica: (replica.in_flight, replica.turn))
        chosen.turn = next(self._turns)
        return chosen


class RetryBudget:
    """Retries may be at most `share` of recent requests (and `FREE` of them): a failing upstream is not hit twice as hard.

    Both are counted with exponential forgetting. With a share of 0 nothing is retried.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._requests = self._retries = self._last = 0.0

    def request(self, now: float) -> None:
        """Count a request at time `now` (seconds, of any monotonic clock)."""
        self._forget(now)
        self._requests += 1

    def retry(self, now: float) -> bool:
        """Whether one more try may be made now; counts it if so."""
        self._forget(now)
        if self._share == 0 or self._retries + 1 > FREE + self._share * self._requests:
            return False
        self._retries += 1
        return True

    def _forget(self, now: float) -> None:
        kept = math.exp((self._last - now) / RECENT)
        self._requests *= kept
        self._retries *= kept
        self._last = now
