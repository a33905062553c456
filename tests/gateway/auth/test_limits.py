"""Buckets, budgets and the times they tell, on clocks that the test turns."""

from __future__ import annotations

import pytest

from bitroute.gateway.auth.limits import DAY, Bucket, SpendingWindow, duration, until_midnight


def test_bucket_is_full_at_first_and_refills_by_its_limit_a_minute() -> None:
    bucket = Bucket(120, now=0.0)
    for _ in range(120):
        bucket.take(1, now=0.0)
    assert bucket.level(0.0) == 0
    assert bucket.wait(1, 0.0) == 0.5
    assert bucket.level(30.0) == 60
    assert bucket.level(1e6) == 120


def test_bucket_goes_below_zero_and_waits_until_it_is_paid_back() -> None:
    bucket = Bucket(600, now=0.0)
    bucket.take(1200, now=0.0)
    assert bucket.level(0.0) == -600
    assert bucket.wait(1, 0.0) == pytest.approx(60.1)
    assert bucket.wait(1, 60.1) == pytest.approx(0, abs=1e-9)


def test_bucket_waits_for_no_more_than_it_can_hold() -> None:
    bucket = Bucket(10, now=0.0)
    assert bucket.wait(500, 0.0) == 0


def test_bucket_gains_nothing_while_the_clock_steps_back() -> None:
    bucket = Bucket(60, now=100.0)
    bucket.take(60, now=100.0)
    assert bucket.level(40.0) == 0
    assert bucket.level(41.0) == 1


def test_spending_counts_what_is_stored_and_what_is_not() -> None:
    spending = SpendingWindow()
    noon = 5.5 * DAY
    spending.charged += 2.0
    assert (spending.unstored(), spending.total(noon)) == (2.0, 2.0)
    spending.learn(5, spent=7.0, added=2.0)  # 5 of them another process's
    spending.charged += 1.5
    assert (spending.unstored(), spending.total(noon)) == (1.5, 8.5)


def test_spending_of_yesterday_is_forgotten() -> None:
    spending = SpendingWindow()
    spending.charged += 3.0
    spending.learn(5, spent=3.0, added=3.0)
    assert spending.total(5.99 * DAY) == 3.0
    assert spending.total(6.01 * DAY) == 0.0


def test_midnight_is_utc() -> None:
    assert until_midnight(1_760_000_000.0) == 1_760_054_400 - 1_760_000_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9999, "1000ms"),
        (1.0, "1s"),
        (5.2, "6s"),
        (60.0, "1m0s"),
        (61.01, "1m2s"),
        (7200.0, "2h0m0s"),
    ],
)
def test_durations_read_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
