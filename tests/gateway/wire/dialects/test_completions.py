"""Completions: a prompt and a text."""

from __future__ import annotations

from support.wire import COMPLETIONS, chunk, prompted, reader, request, seen


def test_a_prompt_is_one_turn_of_the_user() -> None:
    for prompt, text in [("a", "a"), ("", ""), (["a", "b"], "a\nb"), ([[1, 2], [3]], "[1,2]\n[3]"), ([7, 8], "7\n8")]:
        (turn,) = request(COMPLETIONS, prompt=prompt).turns
        assert (turn.role, turn.text) == ("user", text)


def test_completions() -> None:
    streamed = reader(prompted(COMPLETIONS, stream=True), "low")
    got = seen(streamed, *[chunk({"index": 0, "text": letter}, usage=None) for letter in "go on"], b"data: [DONE]\n\n")
    whole = reader(prompted(COMPLETIONS), "low")
    whole.whole(b'{"model":"up","choices":[{"index":0,"text":"go on"}]}')
    assert streamed.answer == whole.answer and streamed.done
    assert streamed.answer is not None and streamed.answer.text == "go on"
    assert [event["model"] for event in got[:-1]] == ["low"] * 5
