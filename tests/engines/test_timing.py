"""Calls are made where they were planned, and counted so; the clock is the test's own."""

from itertools import count

import torch

from bitroute.cost import CostModel, TimedCall
from bitroute.engines.timing import PLAN, PlannedCall, time_calls, time_engine
from bitroute.engines.torch import TorchEngine
from bitroute.episode import Usage
from bitroute.nn.decoder import Decoder, DecoderConfig


def tiny_engine(positions: int = 2048) -> TorchEngine:
    torch.manual_seed(0)
    config = DecoderConfig(20, 16, 32, 1, 1, 1, 16, max_position_embeddings=positions)
    return TorchEngine({name: Decoder(config).eval() for name in ("low", "high")}, end_token=3, fingerprint="tiny")


def test_every_variant_is_timed_at_every_planned_place() -> None:
    plan = (PlannedCall(0, 1, 0), PlannedCall(0, 5, 2), PlannedCall(12, 3, 4), PlannedCall(12, 1, 0))
    ticks = count()
    found = list(time_engine(tiny_engine(), plan, repeats=2, clock=lambda: float(next(ticks))))
    wanted = [Usage(name, p.prefill, p.cached, p.decode) for name in ("low", "high") for p in plan]
    assert [timed.usage for timed in found] == wanted
    assert {timed.seconds for timed in found} == {1.0}


def test_calls_that_the_model_cannot_hold_are_left_out() -> None:
    found = list(time_engine(tiny_engine(positions=300), repeats=1, clock=iter(range(10**6)).__next__))
    assert {timed.usage.cached for timed in found} == {0, 256}
    assert len(found) < 2 * len(PLAN)


def test_of_several_times_the_shortest_counts_and_the_first_call_not_at_all() -> None:
    seconds = iter([0.5, 3.0, 1.0, 2.0])
    found = list(time_calls(lambda p: TimedCall(Usage("x", p.prefill), next(seconds)), [PlannedCall(0, 7, 0)], repeats=3))
    assert found == [TimedCall(Usage("x", 7), 1.0)]


def test_the_plan_tells_all_rates_apart() -> None:
    usages = [Usage("x", p.prefill, p.cached, p.decode) for p in PLAN]
    model = CostModel.fit(TimedCall(u, 1e-3 + 1e-4 * u.prefill + 1e-3 * u.decode + 1e-6 * u.cached) for u in usages)
    assert model.residuals["x"].worst < 1e-6
