"""Who calls: sources in their order, ids taken exactly, hints that keep agents of one application apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitroute.gateway.core.values import Caller, GatewayError
from bitroute.gateway.sessions.identity import HARNESSES, identify
from support.histories import call


def who(headers: dict[str, str] | None = None, *extra: str, **fields: object) -> Caller:
    return identify(call("s:be brief", "u:hello", **fields), headers or {}, "key-1", extra)


def test_an_explicit_id_is_taken_as_it_stands() -> None:
    assert who({"x-session-id": " Aé/7 "}) == Caller("key-1", " Aé/7 ", "x-session-id", True)


def test_an_id_in_utf8_is_the_same_in_a_header_and_in_the_body() -> None:
    sent = "Zürich/机器人".encode().decode("latin-1")  # as servers read headers
    assert who({"x-session-id": sent}).session == who(metadata={"session_id": "Zürich/机器人"}).session == "Zürich/机器人"
    assert who({"x-session-id": "é" * 255}).session == "é" * 255


def test_sources_in_their_order() -> None:
    headers = {"x-session-id": "own", "x-run": "run", **{name: name for name in HARNESSES}}
    fields = {"metadata": {"session_id": "meta"}, "prompt_cache_key": "cache"}
    found = []
    for name in ("x-session-id", "x-run", *HARNESSES, None):
        found.append((who(headers, "X-Run", **fields).source, who(headers, "X-Run", **fields).session))
        headers.pop(name or "", None)
    assert found == [
        ("x-session-id", "own"),
        ("x-run", "run"),
        *((name, name) for name in HARNESSES),
        ("metadata.session_id", "meta"),
    ]


def test_a_configured_header_names_a_session_and_others_do_not() -> None:
    assert who({"x-run": "7"}, "x-run").session == "7"
    assert not who({"x-run": "7"}).explicit


@pytest.mark.parametrize(
    ("fields", "source", "session"),
    [
        ({"conversation": "conv_1"}, "conversation", "conv_1"),
        ({"conversation": {"id": "conv_2"}}, "conversation", "conv_2"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "resp_1"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "conversation", "conv_1"),
    ],
)
def test_responses_have_names_of_their_own(fields: dict[str, object], source: str, session: str) -> None:
    found = identify(call("u:hi", endpoint="/v1/responses", **fields), {}, "", ())
    assert (found.source, found.session, found.explicit) == (source, session, True)
    assert not identify(call("u:hi", **fields), {}, "", ()).explicit


@pytest.mark.parametrize("value", [None, 7, [], {}, "text", {"session_id": 7}, {"session_id": None}, {"other": "x"}])
def test_metadata_of_another_kind_is_the_upstreams_business(value: object) -> None:
    assert who(metadata=value, conversation=7, prompt_cache_key=["x"]).source == "opening"


@pytest.mark.parametrize("length", [0, 256])
def test_ids_have_1_to_255_characters(length: int) -> None:
    for refused in (lambda: who({"x-session-id": "x" * length}), lambda: who(metadata={"session_id": "x" * length})):
        with pytest.raises(GatewayError) as error:
            refused()
        assert error.value.status == 400
    assert who({"x-session-id": "x" * 255}).session == "x" * 255


def test_the_opening_is_a_hint() -> None:
    first = identify(call("s:be brief", "u:hello"), {}, "", ())
    assert (first.source, first.explicit) == ("opening", False)
    later = identify(call("s:be brief", "u:hello", "a:yes?", "u:help"), {}, "", ())
    assert later.session == first.session
    others = [("s:be long", "u:hello"), ("s:be brief", "u:bye"), ("u:hello",), ("s:be brief",)]
    assert len({first.session, *(identify(call(*texts), {}, "", ()).session for texts in others)}) == 5


def test_a_cache_key_is_a_hint_that_includes_the_opening() -> None:
    one, same, other = (
        identify(call("u:" + text, prompt_cache_key="app"), {}, "", ()) for text in ("task 1", "task 1", "task 2")
    )
    assert (one.source, one.explicit) == ("prompt_cache_key", False)
    assert one.session == same.session != other.session
    assert who(prompt_cache_key="a").session != who(prompt_cache_key="b").session


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "x", " 1", "٣", "2147483648", "9" * 400])
def test_a_step_is_a_number(text: str) -> None:
    with pytest.raises(GatewayError, match="x-step"):
        who({"x-session-id": "s", "x-step": text})


def test_steps_need_an_explicit_id() -> None:
    assert who({"x-session-id": "s", "x-step": "0"}).step == 0
    assert who({"x-session-id": "s", "x-step": "2147483647"}).step == 2**31 - 1
    with pytest.raises(GatewayError, match="x-session-id") as error:
        who({"x-step": "0"})
    assert (error.value.status, error.value.param) == (400, "x-step")


@pytest.mark.parametrize(
    ("value", "retry"), [("0", False), ("00", False), ("1", True), ("12", True), ("", False), ("-1", False), ("one", False)]
)
def test_a_retry_count_above_zero_is_a_retry(value: str, retry: bool) -> None:
    assert who({"x-stainless-retry-count": value}).retry is retry


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from(["x-session-id", "x-step", "x-stainless-retry-count", "session-id"]), st.text(max_size=300))
)
def test_any_header_gives_a_caller_or_a_400(headers: dict[str, str]) -> None:
    try:
        found = who(headers)
    except GatewayError as error:
        assert error.status == 400
    else:
        assert found.scope == "key-1"
        assert 1 <= len(found.session) <= 255
