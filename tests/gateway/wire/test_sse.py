from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.gateway.core.values import GatewayError
from bitroute.gateway.wire import sse

LINES = st.sampled_from(["data: {}", "data:x", "data", "event: e", ": note", "id: 7", "data: grüße 𝄞", "", "", "retry"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=24).map(lambda lines: "".join(a + b for a, b in lines).encode())


def cut(stream: bytes, places: list[int]) -> tuple[list[bytes], bytes]:
    splitter = sse.Splitter()
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    events = [event for a, b in pairwise(edges) for event in splitter.feed(stream[a:b])]
    return events, splitter.tail()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(STREAMS, st.lists(st.integers(0, 400), max_size=12))
def test_any_split_gives_the_same_events_and_loses_nothing(stream: bytes, places: list[int]) -> None:
    events, tail = cut(stream, places)
    assert b"".join(events) + tail == stream
    assert (events, tail) == cut(stream, [])
    assert cut(stream, list(range(len(stream)))) == (events, tail)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(STREAMS)
def test_events_are_what_the_standard_says(stream: bytes) -> None:
    """The standard's own algorithm, line by line: a blank line dispatches, data lines are joined."""
    events, tail = cut(stream, [])
    wanted: list[bytes] = []
    data: list[bytes] = []
    for line in stream.decode().replace("\r\n", "\n").replace("\r", "\n").encode().split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if line and name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            wanted.append(b"\n".join(data))
            data = []
    got = [found for event in events if (found := sse.data(event)) is not None]
    last = sse.data(tail)
    assert got == wanted or (tail.endswith(b"\r") and [*got, last] == wanted)


def test_line_ends() -> None:
    assert cut(b"data: a\n\ndata: b\r\n\r\ndata: c\r\rrest", []) == (
        [b"data: a\n\n", b"data: b\r\n\r\n", b"data: c\r\r"],
        b"rest",
    )
    assert cut(b"\n\n: x\n\n", []) == ([b"\n", b"\n", b": x\n\n"], b"")


def test_a_carriage_return_waits_for_its_line_feed() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: a\r\n\r") == []
    assert splitter.feed(b"\ndata: b") == [b"data: a\r\n\r\n"]
    assert splitter.tail() == b"data: b"
    assert splitter.tail() == b""


def test_memory_is_bounded() -> None:
    splitter = sse.Splitter(limit=1000)
    for _ in range(100):
        assert splitter.feed(b"data: " + b"x" * 500 + b"\n\n") != []
    with pytest.raises(GatewayError) as raised:
        for _ in range(1000):
            splitter.feed(b"x" * 10)
    assert raised.value.status == 502


def test_data() -> None:
    assert sse.data(b"data: {}\n\n") == b"{}"
    assert sse.data(b"data:{}\r\n\r\n") == b"{}"
    assert sse.data(b"event: e\ndata: 1\ndata:  2\n\n") == b"1\n 2"
    assert sse.data(b"data\n\n") == b""
    assert sse.data(b": keep-alive\n\n") is None
    assert sse.data(b"\n") is None
    assert sse.data(b"datax: 1\n\n") is None
    assert sse.data(b"data: a\rdata: b\n\n") == b"a\nb"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(), st.none() | st.just("error"))
def test_what_is_encoded_is_one_event_with_that_data(text: str, event: str | None) -> None:
    raw = sse.encode(text.encode(), event)
    assert cut(raw, []) == ([raw], b"")
    assert sse.data(raw) == text.replace("\r\n", "\n").replace("\r", "\n").encode()
    assert raw.startswith(b"event: error\n") is (event is not None)


def test_replaced_data_keeps_the_other_lines() -> None:
    assert sse.replace(b"data: a\n\n", b"b") == b"data: b\n\n"
    assert sse.replace(b"event: e\r\ndata: a\r\ndata: c\r\nid: 7\r\n\r\n", b"b") == b"event: e\nid: 7\ndata: b\n\n"
    assert sse.replace(b"data: a\n: note\n\n", b"b\nc") == b": note\ndata: b\ndata: c\n\n"
