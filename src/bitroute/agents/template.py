"""A model's own chat template: chat messages as token ids, exactly as its tokenizer's directory says.

Template and tokenizer are run by transformers, which is imported when a directory is loaded and not before. Knows messages and
tokens; no episodes, no tasks, no model.

Two things that templates do are seen to here. Some write earlier turns anew when the chat goes on (they drop reasoning, or move
the tools' definitions to the newest message): `steps` says of each step how much of the tokens before it still holds. And where
reasoning can be switched off (`enable_thinking`), an answer without any is written after a prompt that asks for none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from bitroute.agents.messages import ChatMessage, ToolCall
from bitroute.errors import DataError

# What a template is tried with: words that stand in no template.
_QUESTION: Final = ChatMessage("user", "Zanzibar?")
_ANSWER: Final = ChatMessage("assistant", "Quagga.")
_NEXT: Final = ChatMessage("user", "Timbuktu?")
_CALL: Final = ChatMessage("assistant", "", (ToolCall("okapi_tool", '{"gnu":"dikdik"}'),))
_RESULT: Final = ChatMessage("tool", "Bongo.")


@dataclass(frozen=True, slots=True)
class StepTokens:
    """One step of a chat as token ids: the first `kept` tokens of what went before, then `prompt`, then the answer.

    `completion` ends with the token that ends an answer.
    """

    kept: int
    prompt: list[int]
    completion: list[int]


class ChatTemplate:
    """The chat template of a transformers tokenizer. `tools` are definitions as requests have them, told to every chat.

    `end` is the token that ends a plain answer, `ends` are all that may end one. `renders_calls` says whether calls of tools
    and their results have a form of their own. Raises DataError when the template does not work as chat templates do.
    """

    def __init__(
        self, tokenizer: Any, *, tools: Sequence[Mapping[str, Any]] = (), ends: Sequence[int] = (), source: str = "tokenizer"
    ) -> None:
        self._tokenizer, self._tools, self.source = tokenizer, [dict(tool) for tool in tools], source
        self._arguments_as_text = False
        if not tokenizer.chat_template:
            raise DataError(f"{source}: the tokenizer has no chat template")
        prompt, whole = self.text([_QUESTION], answering=True), self.text([_QUESTION, _ANSWER])
        shared = _shared(prompt, whole)
        self._unsaid = prompt[shared:]  # what begins reasoning, where answers in a history have none
        answer = whole[shared:]
        at = answer.find(_ANSWER.content)
        if shared < len(self.text([_QUESTION])) or at < 0:
            raise DataError(f"{source}: the chat template does not write an answer where its generation prompt ends")
        after = answer[at + len(_ANSWER.content) :]
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        special |= {*tokenizer.all_special_ids, *ends}
        found = next((token for token in self.encode(after) if token in special), None)
        if found is None:
            raise DataError(f"{source}: the chat template writes no special token after an answer, so none ends it")
        self.end: int = found
        self.ends = frozenset({found, *ends})
        self._end_text = str(tokenizer.convert_ids_to_tokens(found))
        self._around = answer[:at], after[: after.find(self._end_text)]
        self.renders_calls = self._renders_calls()
        if not self.renders_calls:  # most templates want arguments as values, a few as JSON
            self._arguments_as_text = True
            self.renders_calls = self._renders_calls()

    @classmethod
    def load(cls, source: str | Path, tools: Sequence[Mapping[str, Any]] = ()) -> Self:
        """The template in a model's directory; a name that is no directory is transformers' to find.

        Raises DataError when there is no tokenizer or no usable template, ModuleNotFoundError without transformers.
        """
        from transformers import AutoTokenizer, GenerationConfig  # noqa: PLC0415  (an extra, and slow to import)

        if isinstance(source, Path) and not source.is_dir():
            raise DataError(f"{source}: no such directory")
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source))
        except Exception as error:  # OS, value, key and JSON errors, and the bare ones of the tokenizers binding
            problem = " ".join(str(error).split())
            raise DataError(f"{source}: tokenizer.json or tokenizer_config.json cannot be read ({problem})") from error
        ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        generation = Path(source) / "generation_config.json"
        stored: Any = None
        if generation.exists() or not Path(source).is_dir():
            try:
                stored = GenerationConfig.from_pretrained(str(source)).eos_token_id
            except Exception as error:  # as with the tokenizer
                if generation.exists():
                    raise DataError(f"{generation}: cannot be read ({' '.join(str(error).split())})") from error
                if not isinstance(error, OSError):  # of a name that transformers finds, this says that there is none
                    raise
        found = [stored] if isinstance(stored, int) else stored or []
        if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
            raise DataError(f"{generation}: eos_token_id is {stored!r}; want a token id or a list of them")
        ends += found
        return cls(tokenizer, tools=tools, ends=ends, source=str(source))

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return len(self._tokenizer)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the template and the tools."""
        return sha256(json.dumps([self._tokenizer.chat_template, self._tools]).encode()).hexdigest()

    @cached_property
    def incremental(self) -> bool:
        """Whether a chat that goes on only grows: nothing of what was rendered before is written anew."""
        first, second = self.answer([_QUESTION], _ANSWER)
        grown = self.text([_QUESTION, _ANSWER, _NEXT], answering=True)
        return grown.startswith(first + second[: second.find(self._end_text)] + self._end_text)

    def text(self, messages: Sequence[ChatMessage], *, answering: bool = False, reasoning: bool = False) -> str:
        """The chat as the template writes it; `answering` adds what begins an answer, by default one without `reasoning`.

        Raises DataError when the template refuses it (roles that do not alternate, several calls at once ...).
        """
        try:
            rendered = self._tokenizer.apply_chat_template(
                list(_values(messages, self._arguments_as_text)),
                tools=self._tools or None,
                add_generation_prompt=answering,
                tokenize=False,
                enable_thinking=reasoning,
            )
        except Exception as error:  # whatever a template's own code raises
            problem = " ".join(str(error).split())
            raise DataError(f"{self.source}: the chat template refuses a chat ({type(error).__name__}: {problem})") from error
        return str(rendered)

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text: special tokens are recognised, none is added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def prompt(self, history: Sequence[ChatMessage]) -> list[int]:
        """Token ids of a history up to where the next answer begins."""
        return self.encode(self.text(history, answering=True))

    def answer(self, history: Sequence[ChatMessage], answer: ChatMessage) -> tuple[str, str]:
        """The history's text up to the answer, and the answer's own, with what follows it in the template."""
        whole = self.text([*history, answer])
        for reasoning in (False, True):  # an answer may hold reasoning as text
            prompt = self.text(history, answering=True, reasoning=reasoning).removesuffix(self._unsaid)
            if whole.startswith(prompt):
                return prompt, whole[len(prompt) :]
        raise DataError(f"{self.source}: the chat template writes a history in another way once it is answered")

    def steps(self, messages: Sequence[ChatMessage]) -> Iterator[StepTokens]:
        """The tokens of each assistant message and of what led to it, in order.

        What a step holds is exactly what the template renders for the messages up to it. Raises DataError, when it comes to it,
        for a step that the template refuses.
        """
        before: list[int] = []
        for number, message in enumerate(messages):
            if message.role == "assistant":
                prompt, completion = self.tokens(messages[:number], message)
                kept = _shared(before, prompt)
                yield StepTokens(kept, prompt[kept:], completion)
                before = [*prompt, *completion]

    def tokens(self, history: Sequence[ChatMessage], answer: ChatMessage) -> tuple[list[int], list[int]]:
        """All tokens up to an answer, and those of the answer with its end token."""
        prompt, completion = self.answer(history, answer)
        first, whole = self.encode(prompt), self.encode(prompt + completion)
        # A model's answer begins with a token of its own, also where text would be joined with the end of its prompt.
        found = whole[len(first) :] if whole[: len(first)] == first else self.encode(completion)
        end = next((at for at, token in enumerate(found) if token in self.ends), None)
        if end is None:
            raise DataError(f"{self.source}: the chat template writes an answer without an end token")
        return first, found[: end + 1]

    def following(self, opening: Sequence[ChatMessage], message: ChatMessage) -> list[int]:
        """The tokens from behind the end of an answer to where the next one begins, with `message` between them.

        `opening` are the system messages, if any. Where the template is not `incremental`, what went before may read otherwise.
        """
        grown = self.text([*opening, _QUESTION, _ANSWER, message], answering=True).removesuffix(self._unsaid)
        end = grown.find(self._end_text, grown.find(_ANSWER.content))
        return self.encode(grown[end:])[1:]  # tokenized behind the end token, as in the whole

    def opened(self, opening: Sequence[ChatMessage], message: ChatMessage) -> list[int]:
        """The tokens of a chat's beginning, up to where the first answer begins."""
        return self.encode(self.text([*opening, message], answering=True).removesuffix(self._unsaid))

    def answered(self, opening: Sequence[ChatMessage], answer: ChatMessage) -> list[int]:
        """The tokens of an answer with its end token, whatever it answers."""
        return self.tokens([*opening, _QUESTION], answer)[1]

    def parse(self, tokens: Sequence[int]) -> str:
        """The text of a generated answer: before the first end token, without what the template puts around answers."""
        end = next((at for at, token in enumerate(tokens) if token in self.ends), len(tokens))
        decoded = self._tokenizer.decode(list(tokens[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        before, behind = self._around
        return str(decoded).removeprefix(before).removesuffix(behind)

    def _renders_calls(self) -> bool:
        """Whether a call and its result are all there, in their order, and can be followed as any answer can."""
        chat = [_QUESTION, _CALL, _RESULT, _ANSWER]
        try:
            told = self.text(chat)
            list(self.steps(chat))
        except DataError:
            return False
        (call,) = _CALL.calls
        words = (call.name, *call.values(), *call.values().values(), _RESULT.content)
        return all(word in told for word in words) and told.find(_RESULT.content) > told.find(call.name)


def read_tools(path: Path) -> list[dict[str, Any]]:
    """Definitions of tools from a JSON file: the list that chat completions call `tools`. Raises DataError for another one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise DataError(f"{path}: not a list of definitions of tools ({error})") from error


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items both begin with."""
    return next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def _values(messages: Sequence[ChatMessage], arguments_as_text: bool) -> Iterator[dict[str, Any]]:
    """Messages as templates read them; calls get ids of nine characters, which the strictest template wants."""
    number = 0
    open_calls: list[tuple[str, str]] = []
    for message in messages:
        value: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            open_calls = [(f"call{number + at:05d}", call.name) for at, call in enumerate(message.calls)]
            number += len(message.calls)
            value["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": call.name, "arguments": arguments}}
                for (id_, _), call in zip(open_calls, message.calls, strict=True)
                for arguments in [call.arguments if arguments_as_text else call.values()]
            ]
        elif message.role == "tool" and open_calls:
            value["tool_call_id"], value["name"] = open_calls.pop(0)
        yield value
