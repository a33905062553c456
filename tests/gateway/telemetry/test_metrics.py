"""What Prometheus reads after requests of every kind: numbers, and a number of series that traffic does not raise."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from bitroute.cost import CostModel, Rates
from bitroute.episode import Decision
from bitroute.gateway.core.values import Attempt, Outcome, RoutingDecision, Tokens, Turn
from bitroute.gateway.telemetry.metrics import REASONS, Metrics

CHAT = "/v1/chat/completions"
LADDER = ("low", "high")
COST = CostModel(unit="euro", variants={"low": Rates(call=1, decode=0.1), "high": Rates(call=2, prefill=0.5, decode=1)})
ANSWER = Turn("assistant", "yes", b"0" * 16)


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample: (name without bitroute_, label values in the order of their names) -> value."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=")
    return {
        (sample.name.removeprefix("bitroute_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def answered(variant: str = "low", **more: object) -> Outcome:
    outcome = Outcome(200, ANSWER, Tokens(10, 20, 3), None, "complete", [Attempt(variant, "http://a", 200, 0.1)], variant)
    outcome.first_token, outcome.total, outcome.overhead = 0.2, 0.7, 0.0004
    for name, value in more.items():
        setattr(outcome, name, value)
    return outcome


def routing(variant: str = "low", reason: str = "router", intended: str | None = None) -> RoutingDecision:
    return RoutingDecision(Decision(variant, 0.1, reason), intended or variant, "p@1", seconds=0.0003)


def test_an_answered_request_in_numbers() -> None:
    metrics = Metrics(LADDER, COST)
    metrics.observe(CHAT, routing(), answered())
    metrics.observe(CHAT, routing("high"), answered("high"))
    found = values(metrics)
    assert found["requests_total", "/v1/chat/completions", "2xx", "low"] == 1
    assert found["ended_total", "complete"] == 2
    assert found["decisions_total", "router", "low"] == 1
    assert found["attempts_total", "2xx", "high"] == 1
    assert [found["tokens_total", kind, "low"] for kind in ("prefill", "cached", "decode")] == [10, 20, 3]
    assert found["cost_total", "low"] == 1.3
    assert found["cost_all_high_total", "low"] == found["cost_total", "high"] == 10
    assert found["router_seconds_bucket", "0.0005", "low"] == 1
    assert found["router_seconds_bucket", "0.00025", "low"] == 0
    assert found["overhead_seconds_bucket", "0.0005", "low"] == 1
    assert found["first_token_seconds_bucket", "0.25", "low"] == 1
    assert found["first_token_seconds_bucket", "0.1", "low"] == 0
    assert found["total_seconds_sum", "high"] == 0.7
    assert not any(name.startswith(("overruled", "fallbacks")) for name, *_ in found)


def test_an_answer_without_token_counts_costs_its_call() -> None:
    metrics = Metrics(LADDER, COST)
    metrics.observe(CHAT, routing(), answered(tokens=None))
    found = values(metrics)
    assert found["cost_total", "low"] == 1
    assert found["cost_all_high_total", "low"] == 2


def test_what_was_not_answered_costs_nothing() -> None:
    metrics = Metrics(LADDER, COST)
    metrics.observe(CHAT, routing(), answered(answer=None, status=502, ended="error"))
    found = values(metrics)
    assert found["requests_total", "/v1/chat/completions", "5xx", "low"] == 1
    assert not any(name in ("cost_total", "tokens_total") for name, *_ in found)


def test_a_request_that_ended_before_a_decision() -> None:
    metrics = Metrics(LADDER, COST)
    metrics.observe("/v1/messages", None, Outcome(status=429))
    assert values(metrics) == {("requests_total", "/v1/messages", "4xx", "none"): 1, ("ended_total", "error"): 1}


def test_a_client_that_left_before_anything_was_sent() -> None:
    metrics = Metrics(LADDER, COST)
    attempts = [Attempt("low", "http://a", None, 0.1, "refused")]
    metrics.observe(CHAT, routing(), Outcome(ended="cancelled", attempts=attempts))
    found = values(metrics)
    assert found["requests_total", "/v1/chat/completions", "none", "low"] == 1
    assert found["attempts_total", "none", "low"] == 1
    assert found["ended_total", "cancelled"] == 1
    assert ("overhead_seconds_count", "low") not in found


def test_fallbacks_and_overruled_decisions_are_counted() -> None:
    metrics = Metrics(LADDER, COST)
    metrics.observe(CHAT, routing("low", "shadow", intended="high"), answered("high"))
    found = values(metrics)
    assert found["fallbacks_total", "high"] == 1
    assert found["overruled_total", "shadow"] == 1
    assert found["requests_total", "/v1/chat/completions", "2xx", "high"] == 1
    assert found["decisions_total", "shadow", "low"] == 1


def test_traffic_does_not_add_series_without_end() -> None:
    metrics = Metrics(LADDER, COST)
    for i in range(10 * REASONS):
        metrics.observe(CHAT, routing(f"variant-{i}", f"reason {i}"), answered(f"variant-{i}", status=200 + i % 300))
    found = values(metrics)
    reasons = {labels[0] for name, *labels in found if name == "decisions_total"}
    assert len(reasons) == REASONS + 1
    assert "other" in reasons
    assert {labels[-1] for name, *labels in found if name == "requests_total"} == {"other"}
    assert found["decisions_total", "other", "other"] == 9 * REASONS


def test_gauges_are_read_when_asked_for() -> None:
    metrics = Metrics(LADDER, COST)
    level = [3.0]
    metrics.watch("in_flight", "Requests.", lambda: level[0])
    metrics.watch_all("replica_healthy", "Replicas.", ("variant", "replica"), lambda: [(("low", "http://a"), True)])
    assert values(metrics) == {("in_flight",): 3, ("replica_healthy", "http://a", "low"): 1}
    level[0] = 4
    assert values(metrics)["in_flight",] == 4


def test_two_registries_know_nothing_of_each_other() -> None:
    first, second = Metrics(LADDER, COST), Metrics(LADDER, COST)
    first.observe(CHAT, routing(), answered())
    assert values(second) == {}
