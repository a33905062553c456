"""The choice of a replica, without any server: affinity, load, health marks, saturation, the retry budget."""

from collections import Counter

import pytest

from bitroute.errors import ConfigError
from bitroute.gateway.core.config import VariantConfig
from bitroute.gateway.upstreams.replicas import FREE, RECENT, SLACK, STRIKES, Pool, RetryBudget

URLS = tuple(f"http://host{number}:8000" for number in range(4))
SESSIONS = [f"session-{number}" for number in range(2000)]


def pool(*urls: str, **options: object) -> Pool:
    return Pool(VariantConfig.model_validate({"name": "low", "urls": urls or URLS, **options}))


def chosen(of: Pool, affinity: str) -> str:
    replica = of.pick(affinity)
    assert replica is not None
    return replica.url


def test_a_session_stays_at_its_replica_in_every_process() -> None:
    first, second = pool(), pool(*reversed(URLS))
    assert [chosen(first, session) for session in SESSIONS] == [chosen(second, session) for session in SESSIONS]


def test_sessions_spread_evenly() -> None:
    counts = Counter(chosen(pool(), session) for session in SESSIONS)
    assert sorted(counts) == list(URLS)
    assert all(430 <= count <= 570 for count in counts.values()), counts  # 500 expected, standard deviation 19


def test_a_lost_replica_moves_only_its_own_sessions() -> None:
    replicas = pool()
    before = {session: chosen(replicas, session) for session in SESSIONS}
    replicas.replicas[2].checked(False)
    after = {session: chosen(replicas, session) for session in SESSIONS}
    moved = {session for session in SESSIONS if before[session] != after[session]}
    assert moved == {session for session in SESSIONS if before[session] == URLS[2]}
    assert len(Counter(after[session] for session in moved)) == 3  # and not all to one neighbour
    replicas.replicas[2].checked(True)
    assert {session: chosen(replicas, session) for session in SESSIONS} == before


def test_a_session_leaves_a_replica_that_is_clearly_busier() -> None:
    replicas = pool()
    home = replicas.pick("one session")
    assert home is not None
    for load in range(SLACK + 2):
        assert replicas.pick("one session") is home, load
        home.in_flight += 1
    # 6 in flight: more than 1.25 x 6/4, rounded down, + 4
    away = replicas.pick("one session")
    assert away is not None and away is not home
    for replica in replicas.replicas:
        replica.in_flight = 6
    assert replicas.pick("one session") is home


def test_without_affinity_the_least_loaded_and_in_turn() -> None:
    replicas = pool()
    picked = []
    for _ in range(8):
        replica = replicas.pick("")
        assert replica is not None
        replica.in_flight += 1
        picked.append(replica.url)
    assert Counter(picked) == Counter(dict.fromkeys(URLS, 2))
    replicas.replicas[3].in_flight = 0
    assert chosen(replicas, "") == URLS[3]
    for replica in replicas.replicas:
        replica.in_flight = 0
    assert sorted(chosen(replicas, "") for _ in range(4)) == list(URLS)  # idle replicas take turns


def test_full_replicas_are_passed_over_until_the_variant_is_saturated() -> None:
    replicas = pool("http://a", "http://b", max_requests=2)
    for at in range(4):
        assert not replicas.saturated
        replica = replicas.pick("s", [])
        assert replica is not None, at
        replica.in_flight += 1
    assert replicas.saturated
    assert replicas.pick("s") is None and replicas.pick("") is None
    replicas.replicas[0].in_flight -= 1
    assert not replicas.saturated
    replicas.replicas[0].checked(False)
    assert replicas.saturated  # b alone counts
    replicas.replicas[1].checked(False)
    assert not replicas.saturated  # neither answers: a could still be tried


def test_what_was_tried_is_not_picked_again() -> None:
    replicas = pool("http://a", "http://b")
    first = replicas.pick("s")
    assert first is not None
    second = replicas.pick("s", [first])
    assert second is not None and second is not first
    assert replicas.pick("s", [first, second]) is None


def test_a_refused_connection_counts_at_once_other_failures_in_a_row() -> None:
    replica = pool("http://a").replicas[0]
    replica.failed(gone=True)
    assert not replica.healthy
    replica.succeeded()
    for _ in range(STRIKES - 1):
        replica.failed(gone=False)
    assert replica.healthy
    replica.succeeded()
    for _ in range(STRIKES - 1):
        replica.failed(gone=False)
    assert replica.healthy
    replica.failed(gone=False)
    assert not replica.healthy
    assert replica.status.failures == 2 * STRIKES


def test_a_replica_that_a_check_brought_back_is_on_probation() -> None:
    replica = pool("http://a").replicas[0]
    replica.failed(gone=True)
    replica.checked(True)
    assert replica.healthy
    replica.failed(gone=False)
    assert not replica.healthy
    replica.checked(True)
    replica.succeeded()
    replica.failed(gone=False)
    assert replica.healthy


def test_desperate_picks_only_what_seems_down() -> None:
    replicas = pool("http://a", "http://b")
    assert replicas.pick("s", desperate=True) is None
    replicas.replicas[0].checked(False)
    assert replicas.pick("s", desperate=True) is replicas.replicas[0]
    assert replicas.pick("s") is replicas.replicas[1]


def test_urls_lose_what_every_path_begins_with() -> None:
    assert [replica.url for replica in pool("http://a/", "http://b/v1", "http://c/base/v1/").replicas] == [
        "http://a",
        "http://b",
        "http://c/base",
    ]


def test_a_key_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ConfigError, match="SOME_KEY"):
        pool(api_key_env="SOME_KEY")


def test_retries_are_a_share_of_recent_requests() -> None:
    budget = RetryBudget(0.2)
    for _ in range(100):
        budget.request(0.0)
    assert [budget.retry(0.0) for _ in range(40)].count(True) == FREE + 20
    assert not budget.retry(RECENT / 100)
    later = 1000 * RECENT  # all is forgotten: the free ones are back, no more
    assert [budget.retry(later) for _ in range(40)].count(True) == FREE


def test_no_share_no_retries() -> None:
    budget = RetryBudget(0.0)
    budget.request(0.0)
    assert not budget.retry(0.0)
