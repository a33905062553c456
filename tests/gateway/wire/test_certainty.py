"""How certain an answer is, from log-probabilities of every dialect."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from support.wire import COMPLETIONS, RESPONSES, chunk, delta, prompted, reader, seen, token


def test_log_probabilities_above_zero_are_no_ones_overflow() -> None:
    token = {
        "token": "a",
        "logprob": 800.0,
        "top_logprobs": [{"token": "a", "logprob": 800.0}, {"token": "b", "logprob": -1.0}],
    }
    reading = reader(prompted(stream=True, logprobs=True, top_logprobs=2), "low")
    reading.event(chunk(delta(content="a", logprobs={"content": [token]})))
    assert reading.signals is not None and reading.signals.margin == (1 - math.exp(-1),)


def test_signals_of_a_stream() -> None:
    reading = reader(prompted(stream=True, logprobs=True, top_logprobs=2), "low")
    assert reading.signals is None
    for shares in [(0.5, 0.25), (0.9, 0.1)]:
        seen(reading, chunk(delta(content="a", logprobs={"content": [token(*shares)]})))
    seen(reading, chunk(delta()))
    signals = reading.signals
    assert signals is not None and signals.constrained == signals.logprobs == pytest.approx((math.log(0.5), math.log(0.9)))
    assert signals.margin == pytest.approx((0.25, 0.8))
    assert signals.entropy == pytest.approx((1.5 * math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)))


def test_signals_of_whole_answers() -> None:
    logprobs = {"content": [token(0.5, 0.25)]}
    answer = {"model": "up", "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "logprobs": logprobs}]}
    chat = reader(prompted(logprobs=True, top_logprobs=2), "low")
    chat.whole(json.dumps(answer).encode())
    old = {"tokens": ["a"], "token_logprobs": [math.log(0.5)], "top_logprobs": [{"a": math.log(0.5), "b": math.log(0.25)}]}
    text = reader(prompted(COMPLETIONS, logprobs=2), "low")
    text.whole(json.dumps({"model": "up", "choices": [{"index": 0, "text": "a", "logprobs": old}]}).encode())
    output = [
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a", "logprobs": logprobs["content"]}],
        }
    ]
    responses = reader(prompted(RESPONSES, top_logprobs=2), "low")
    responses.whole(json.dumps({"model": "up", "output": output}).encode())
    for reading in (chat, text, responses):
        assert reading.malformed == 0 and reading.signals is not None
        assert reading.signals.margin == pytest.approx((0.25,))
        assert reading.signals.entropy == pytest.approx((1.5 * math.log(2),))


@pytest.mark.parametrize("asked", [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 1}, {"top_logprobs": "2"}])
def test_no_signals_unless_alternatives_were_asked_for(asked: dict[str, Any]) -> None:
    reading = reader(prompted(stream=True, **asked), "low")
    seen(reading, chunk(delta(content="a", logprobs={"content": [token(0.5, 0.25)]})))
    assert reading.signals is None


def test_no_signals_where_a_token_lacks_alternatives() -> None:
    reading = reader(prompted(stream=True, logprobs=True, top_logprobs=2), "low")
    for shares in [(0.5, 0.25), (1.0,), (0.5, 0.25)]:
        seen(reading, chunk(delta(content="a", logprobs={"content": [token(*shares)]})))
    assert reading.signals is None
    extreme = {"token": "a", "logprob": -3.4e38, "top_logprobs": [{"logprob": 0.0}, {"logprob": -3.4e38}]}
    reading = reader(prompted(stream=True, logprobs=True, top_logprobs=2), "low")
    seen(reading, chunk(delta(content="a", logprobs={"content": [extreme]})))
    assert reading.signals is not None and reading.signals.entropy == (0.0,) and reading.signals.margin == (1.0,)
