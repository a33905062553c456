import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitroute.episode import Decision, Episode, Sensitivity, Signals, Step, Usage
from bitroute.errors import DataError
from bitroute.store.traces import TraceWriter, read_traces

STEP = Step(
    message='you see a "mug 1"\nand more',
    action="go to desk 1",
    decision=Decision("high", score=0.25, reason="threshold", propensity=0.5),
    signals=Signals((-0.5, -0.25), (-0.5, 0.0), (0.125, 0.0), (0.75, 1.0)),
    usage=Usage("high", prefill=40, cached=100, decode=4),
    probe_usage=(Usage("low", prefill=40, cached=100, decode=4),),
    reward=1.0,
    sensitivity=Sensitivity(1.5, 0.75, 1.25, 2.0, action="go to desk 1", agrees=True),
)
EPISODE = Episode("task-1", "clean", "seen", "all-high", 3, (STEP, STEP), success=True)


def write_traces(path: Path, episodes: list[Episode]) -> None:
    with TraceWriter(path, batch=64) as writer:
        for episode in episodes:
            writer.write(episode)


def episodes(count: int) -> list[Episode]:
    return [replace(EPISODE, task_id=f"task-{i}", failure="engine" if i % 2 else None) for i in range(count)]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "traces.jsonl"
    write_traces(path, episodes(5))
    assert list(read_traces(path)) == episodes(5)
    assert path.read_text().count("\n") == 5
    assert path.read_text().startswith('{"schema":1,"episode":{"task_id":"task-0","kind":"clean",')


def test_appending_continues_the_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, episodes(2))
    write_traces(path, episodes(3))
    assert [e.task_id for e in read_traces(path)] == ["task-0", "task-1", "task-0", "task-1", "task-2"]


def test_a_step_whose_server_told_no_log_probabilities_is_kept_as_such(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    told, silent = STEP, replace(STEP, signals=None)
    write_traces(path, [replace(EPISODE, steps=(silent, told))])
    assert [step.signals for e in read_traces(path) for step in e.steps] == [None, STEP.signals]


def test_floats_keep_four_significant_digits(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    label = Sensitivity(1.23456, 1.23456, 1.23456, 1.23456, action="look", agrees=False)
    exact = replace(STEP, signals=Signals((-0.00123456,), (-12345.678,), (1e-9 / 3,), (0.99999,)), sensitivity=label)
    write_traces(path, [replace(EPISODE, steps=(exact,))])
    [episode] = read_traces(path)
    assert episode.steps[0].sensitivity == Sensitivity(1.235, 1.235, 1.235, 1.235, action="look", agrees=False)
    assert episode.steps[0].signals == Signals((-0.001235,), (-12350.0,), (3.333e-10,), (1.0,))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(codec="utf-8")), st.floats(-1e6, 1e6), st.integers(0, 2**40))
def test_any_text_survives(tmp_path: Path, text: str, number: float, seed: int) -> None:
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    step = replace(STEP, message=text, decision=Decision("low", score=number))
    write_traces(path, [replace(EPISODE, seed=seed, steps=(step,))])
    [episode] = read_traces(path)
    assert (episode.steps[0].message, episode.seed) == (text, seed)
    assert episode.steps[0].decision.score == pytest.approx(number, rel=6e-4)


@pytest.mark.parametrize("kept", [1, 10, 30, 200, -1])
def test_a_cut_last_line_is_left_out_and_the_next_append_starts_clean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, episodes(3))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    with caplog.at_level(logging.WARNING):
        assert list(read_traces(path)) == episodes(2)
    assert caplog.messages == [f"{path}: left out line 3, which was cut off"]
    write_traces(path, [EPISODE])
    assert list(read_traces(path)) == [*episodes(2), EPISODE]


def test_a_cut_only_line_is_dropped_too(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_bytes(b'{"schema":1,"epi')
    assert list(read_traces(path)) == []
    write_traces(path, [EPISODE])
    assert list(read_traces(path)) == [EPISODE]


def test_a_cut_line_longer_than_a_block_is_found(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, [EPISODE])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-1].replace(b"go to desk 1", b"x" * 200_000))
    write_traces(path, [EPISODE])
    assert path.read_bytes() == whole * 2


def test_a_batch_waits_and_close_writes_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with TraceWriter(path, batch=3) as writer:
        for count, episode in enumerate(episodes(5), start=1):
            writer.write(episode)
            assert len(list(read_traces(path))) == 3 * (count // 3)
    assert list(read_traces(path)) == episodes(5)
    writer.close()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense\n", r"traces\.jsonl, line 2: not a stored episode"),
        (b"\n", r"line 2: not a stored episode"),
        (b'{"schema":2,"episode":{}}\n', r"line 2: trace schema 2, this version of bitroute reads schema 1"),
        (b'{"schema":1,"episode":{"task_id":3}}\n', r"line 2: not a stored episode \(Expected `str`, got `int`.*task_id"),
        (b'{"schema":1,"episode":{"task_id":"a"}}\n', r"line 2: not a stored episode \(Object missing required field `kind`"),
        (b"\xff\xfe\n", r"line 2: not a stored episode"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, [EPISODE])
    path.write_bytes(path.read_bytes() + line)
    reader = read_traces(path)
    assert next(reader) == EPISODE
    with pytest.raises(DataError, match=message) as caught:
        next(reader)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: No such file"):
        list(read_traces(tmp_path / "none.jsonl"))


def test_another_file_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"precious weights without a line end")
    with pytest.raises(DataError, match="not a trace file"):
        TraceWriter(path)
    assert path.read_bytes() == b"precious weights without a line end"


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, number: float) -> None:
    path = tmp_path / "traces.jsonl"
    step = replace(STEP, decision=Decision("high", score=number))
    with TraceWriter(path) as writer:
        writer.write(EPISODE)
        with pytest.raises(DataError, match="task task-1, policy all-high: score holds"):
            writer.write(replace(EPISODE, steps=(step,)))
    assert list(read_traces(path)) == [EPISODE]


class FullDisk:
    """Accepts `room` bytes, then has no space left."""

    def __init__(self, file: object, room: int) -> None:
        self._file, self._room = file, room

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def write(self, data: memoryview) -> int:
        if self._room == 0:
            raise OSError(28, "No space left on device")
        part = data[: self._room]
        self._room -= len(part)
        return self._file.write(part)  # type: ignore[attr-defined]


def test_a_full_disk_leaves_whole_episodes_only(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    writer = TraceWriter(path)
    writer.write(EPISODE)
    size = path.stat().st_size
    writer._file = FullDisk(writer._file, room=size // 2)  # type: ignore[assignment]
    with pytest.raises(DataError, match="No space left on device"):
        writer.write(EPISODE)
    assert path.stat().st_size == size
    with pytest.raises(DataError, match="No space left on device"):
        writer.close()
    assert list(read_traces(path)) == [EPISODE]
