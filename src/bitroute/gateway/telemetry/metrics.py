"""What is counted for Prometheus. It sees decisions and outcomes, never a client's words: each label is of a closed set.

Labels are variants of the ladder, endpoints, status classes, reasons (the first few dozen that routers give, then `other`) and
the configured replicas, so the number of series does not grow with traffic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from bitroute.cost import CostModel, Rates
from bitroute.gateway.core.values import Outcome, RoutingDecision, Tokens

REASONS: Final = 32  # distinct reasons that get a series of their own
OTHER: Final = "other"
_FINE: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)  # seconds: our own work
_COARSE: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)  # seconds: an answer

GaugeReading = Callable[[], float]
Readings = Callable[[], Iterable[tuple[Sequence[str], float]]]


class Metrics:
    """Counters, histograms and gauges in a registry of their own. `ladder` is cheapest first, as everywhere."""

    def __init__(self, ladder: Sequence[str], cost: CostModel) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._top, self._rates = ladder[-1], {name: cost.variants[name] for name in ladder}
        self._reasons: set[str] = set()
        counter, histogram = self._counter, self._histogram
        self._requests = counter("requests", "Requests by the status sent.", "endpoint", "variant", "status")
        self._ended = counter("ended", "How requests ended: complete, error, cancelled, dropped.", "ended")
        self._decisions = counter("decisions", "Decisions by what was served and why.", "variant", "reason")
        self._overruled = counter("overruled", "Decisions served otherwise than the router intended.", "reason")
        self._attempts = counter("attempts", "Tries at replicas.", "variant", "status")
        self._fallbacks = counter("fallbacks", "Answers of another variant than the one decided on.", "variant")
        self._tokens = counter("tokens", "Tokens processed.", "variant", "kind")
        self._spent = counter("cost", "Cost of answers, in the cost model's unit.", "variant")
        self._all_high = counter("cost_all_high", "What the same tokens would have cost at the highest variant.", "variant")
        self._router = histogram("router_seconds", "The router's time for one decision.", _FINE)
        self._overhead = histogram("overhead_seconds", "The gateway's own work before the request went upstream.", _FINE)
        self._first = histogram("first_token_seconds", "From the request's arrival to the answer's first byte.", _COARSE)
        self._total = histogram("total_seconds", "From the request's arrival to the answer's end.", _COARSE)

    def watch(self, name: str, help_: str, read: GaugeReading) -> None:
        """A gauge whose value is read when it is asked for."""
        self.watch_all(name, help_, (), lambda: [((), read())])

    def watch_all(self, name: str, help_: str, labels: Sequence[str], read: Readings) -> None:
        """A gauge with labels: `read` gives (label values, value) pairs. Their set must be bounded."""
        self.registry.register(_Watched(f"bitroute_{name}", help_, labels, read))

    def observe(self, endpoint: str, routing: RoutingDecision | None, outcome: Outcome) -> None:
        """Count one request at its end. `routing` is None where it ended before one was made."""
        decided = routing.decision.variant if routing else None
        variant = self._variant(outcome.variant or decided)
        self._requests(endpoint, variant, _status(outcome.status)).inc()
        self._ended(outcome.ended).inc()
        for attempt in outcome.attempts:
            self._attempts(self._variant(attempt.variant), _status(attempt.status)).inc()
        if routing is None:
            return
        reason = self._reason(routing.decision.reason)
        served = self._variant(decided)
        self._decisions(served, reason).inc()
        if routing.intended != decided:
            self._overruled(reason).inc()
        self._router(served).observe(routing.seconds)
        if outcome.overhead > 0:
            self._overhead(served).observe(outcome.overhead)
        if outcome.variant is None:
            return
        if outcome.variant != decided:
            self._fallbacks(variant).inc()
        if outcome.first_token is not None:
            self._first(variant).observe(outcome.first_token)
        self._total(variant).observe(outcome.total)
        if outcome.answer is not None and outcome.variant in self._rates:
            tokens = outcome.tokens or Tokens()
            for kind, count in (("prefill", tokens.prefill), ("cached", tokens.cached), ("decode", tokens.decode)):
                self._tokens(variant, kind).inc(count)
            self._spent(variant).inc(_price(self._rates[variant], tokens))
            self._all_high(variant).inc(_price(self._rates[self._top], tokens))

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _variant(self, name: str | None) -> str:
        return "none" if name is None else name if name in self._rates else OTHER

    def _reason(self, reason: str) -> str:
        """The reason, or `other` once there are too many: a router may write a number into it."""
        if reason not in self._reasons:
            if len(self._reasons) >= REASONS:
                return OTHER
            self._reasons.add(reason)
        return reason

    def _counter(self, name: str, help_: str, *labels: str) -> Callable[..., Counter]:
        # `labels` checks and locks at each call; the series are few, so each is looked up once.
        return functools.cache(Counter(f"bitroute_{name}", help_, labels, registry=self.registry).labels)

    def _histogram(self, name: str, help_: str, buckets: Sequence[float]) -> Callable[..., Histogram]:
        return functools.cache(
            Histogram(f"bitroute_{name}", help_, ("variant",), registry=self.registry, buckets=buckets).labels
        )


class _Watched(Collector):
    """Gauges that are read at the scrape."""

    def __init__(self, name: str, help_: str, labels: Sequence[str], read: Readings) -> None:
        self._name, self._help, self._labels, self._read = name, help_, tuple(labels), read

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(self._name, self._help, labels=self._labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._help, labels=self._labels)
        for values, value in self._read():
            family.add_metric(values, value)
        yield family


def _price(rates: Rates, tokens: Tokens) -> float:
    return rates.call + rates.prefill * tokens.prefill + rates.cached * tokens.cached + rates.decode * tokens.decode


def _status(status: int | None) -> str:
    """The class of a status: 2xx, 4xx ...; none where no response began."""
    return f"{status // 100}xx" if status else "none"
