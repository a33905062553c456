import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bitroute.episode import Episode
from bitroute.errors import BitrouteError, DataError
from bitroute.rollout import workers as module
from bitroute.rollout.workers import LARGEST, SMALLEST, Job, Replay, Shard, Workers, cores, workers
from bitroute.store.traces import read_traces
from bitroute.threads import OTHERS, POLICY
from support import players
from support.players import here, hosting

SHARD = SMALLEST
JOB = Job("validation", 3 * SHARD + 10, "always:high", "all-high")


def whole(job: Job = JOB) -> list[Episode]:
    return [episode for shard in job.shards() for episode in players.episodes(shard)]


def test_a_job_is_cut_into_shards_in_order() -> None:
    job = Job("unseen", 50, "r", "p", start=7, seeds=(3, 4))
    assert job.pairs()[:3] == [(7, 3), (7, 4), (8, 3)]
    assert [(s.number, len(s.pairs)) for s in job.shards()] == [(number, 25) for number in range(4)]
    assert [pair for shard in job.shards() for pair in shard.pairs] == job.pairs()
    assert Job("unseen", 0, "r", "p").shards() == []


def test_replays_are_cut_like_pairs() -> None:
    replays = tuple(Replay(number // 3, 0, number % 3, "high") for number in range(SHARD + 2))
    job = Job("train", 0, "random:0.5", "again", replays=replays)
    assert job.pairs() == [(r.index, r.seed) for r in replays]
    assert [shard.replays for shard in job.shards()] == [replays[:SHARD], replays[SHARD:]]
    assert [len(shard.pairs) for shard in job.shards()] == [SHARD, 2]
    assert Job("train", 2, "always:low", "low").shards()[0].replays == ()


@pytest.mark.parametrize(
    ("pairs", "sizes"),
    [
        (1, [1]),
        (2 * SMALLEST, [SMALLEST] * 2),
        (500, [125] * 4),
        (4 * LARGEST, [LARGEST] * 4),
        (5 * LARGEST + 1, [LARGEST] * 5 + [1]),
    ],
)
def test_large_jobs_have_large_shards(pairs: int, sizes: list[int]) -> None:
    assert [len(shard.pairs) for shard in Job("unseen", pairs, "r", "p").shards()] == sizes


def test_episodes_come_in_the_order_of_jobs_and_pairs() -> None:
    other = Job("unseen", 5, "r", "p", seeds=(1,))
    assert Workers(here(players.episodes)).play([JOB, other]) == [whole(), whole(other)]


def test_processes_play_what_one_plays(tmp_path: Path) -> None:
    for count in (1, 3):
        with workers(players.load, hosting(), count) as pool:
            assert pool.play([JOB]) == [whole()]
            assert pool.record(JOB, tmp_path / f"{count}.jsonl", "") == whole()
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "3.jsonl").read_bytes()


def test_no_process_is_started_when_nothing_is_to_be_played(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    Workers(here(players.episodes)).record(JOB, path, "")
    with workers(players.load_damaged, hosting(), 2) as pool:
        assert pool.record(JOB, path, "") == whole()


@pytest.mark.parametrize("lines", [0, 1, SHARD - 1, SHARD, SHARD + 1, 3 * SHARD, 3 * SHARD + 9])
@pytest.mark.parametrize("cut", [0, 20])
def test_what_is_missing_is_played_and_nothing_twice(tmp_path: Path, lines: int, cut: int) -> None:
    path = tmp_path / "traces.jsonl"
    Workers(here(players.episodes)).record(JOB, path, "")
    undisturbed = path.read_bytes()
    stored = undisturbed.splitlines(keepends=True)
    path.write_bytes(b"".join(stored[:lines]) + stored[lines][:cut])
    log: list[Shard] = []
    assert Workers(here(players.episodes, log)).record(JOB, path, "") == whole()
    assert path.read_bytes() == undisturbed
    assert [shard.number for shard in log] == list(range(lines // SHARD, 4))


@pytest.mark.parametrize("other", [Job("validation", 5, "r", "p"), Job("validation", JOB.count, "r", "p", seeds=(1,))])
def test_traces_of_another_job_are_refused(tmp_path: Path, other: Job) -> None:
    path = tmp_path / "traces.jsonl"
    Workers(here(players.episodes)).record(JOB, path, "")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"traces\.jsonl: holds other episodes than the \d+ wanted here"):
        Workers(here(players.episodes)).record(other, path, "")
    assert path.read_bytes() == before


def test_a_killed_worker_is_one_clear_error_and_the_rest_can_be_played(tmp_path: Path) -> None:
    path, host = tmp_path / "traces.jsonl", hosting(tmp_path / "marker")
    with pytest.raises(BitrouteError, match="a worker process was killed"), workers(players.load_killed, host, 1) as pool:
        pool.record(JOB, path, "")
    assert list(read_traces(path)) == whole()[:SHARD]
    with workers(players.load_killed, host, 1) as pool:
        assert pool.record(JOB, path, "") == whole()
    assert list(read_traces(path)) == whole()


@pytest.mark.parametrize(
    ("load", "message"), [(players.load_damaged, "model: is damaged"), (players.load_refusing, "is truncated")]
)
def test_what_a_worker_raises_is_raised_here(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], load: object, message: str
) -> None:
    with pytest.raises(DataError, match=message), workers(load, hosting(), 1) as pool:  # type: ignore[arg-type]
        pool.record(JOB, tmp_path / "traces.jsonl", "")
    assert capfd.readouterr() == ("", "")
    assert len(list(read_traces(tmp_path / "traces.jsonl"))) in (0, SHARD)


SCRIPT = """
import signal
from pathlib import Path
from support import players
from test_workers import JOB
from bitroute.rollout.workers import workers

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what was started in the background
    try:
        with workers(players.load_interrupted, players.hosting(Path("marker")), 2) as pool:
            pool.record(JOB, Path("traces.jsonl"), "")
    except KeyboardInterrupt:
        print("stopped")
"""


def test_ctrl_c_stops_everything_quietly_and_the_rest_can_be_played(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests / 'rollout'}"},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
    stored = list(read_traces(tmp_path / "traces.jsonl"))
    assert stored == whole()[: len(stored)] and len(stored) < len(whole())
    assert Workers(here(players.episodes)).record(JOB, tmp_path / "traces.jsonl", "") == whole()


def test_ctrl_c_reaches_this_process_again_once_workers_are_started(tmp_path: Path) -> None:
    with workers(players.load, hosting(), 1) as pool:
        pool.play([Job("validation", 1, "r", "p")])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


@pytest.mark.parametrize(("device", "expected"), [("cpu", cores()), ("cuda", 1), ("mps", 1)])
def test_an_accelerator_is_left_to_one_process(monkeypatch: pytest.MonkeyPatch, device: str, expected: int) -> None:
    pools: list[object] = []

    class Pool:
        def __init__(self, *arguments: object, **options: object) -> None:
            pools.append(self)

        def shutdown(self, **options: object) -> None:
            pass

    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr("bitroute.nn.device.pick_device", lambda name: torch.device(device))
    with workers(players.load, hosting()):
        assert len(pools) == expected
    pools.clear()
    with workers(players.load, hosting(), 3):
        assert len(pools) == 3


def test_threads_of_workers_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (POLICY, *OTHERS):
        monkeypatch.delenv(name, raising=False)
    with workers(players.load_telling, hosting(), 1) as pool:
        ((episode,),) = pool.play([Job("validation", 1, "r", "p")])
    assert episode.failure == "passive"


def test_by_default_there_is_a_process_for_each_core_one_may_use() -> None:
    assert cores() == len(os.sched_getaffinity(0))
