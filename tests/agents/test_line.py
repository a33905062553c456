"""Lines of text as the format: what is sent, that actions have the same tokens behind a prompt and alone, what is read back."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from bitroute.agents.line import LineAgent
from bitroute.episode import Observation
from bitroute.errors import DataError
from bitroute.nn.tokenizer import Tokenizer
from support.text_tokenizer import text_tokenizer

ACTIONS = ("go to desk 12", "go to desk 1", "take mug 2 from desk 1")


class Loud:
    """A shorthand by which one sees where it was at work."""

    def message(self, text: str) -> str:
        return text.replace("you see ", "")

    def write(self, action: str) -> str:
        return action.replace("go to ", "-> ")

    def read(self, line: str) -> str:
        return line.replace("-> ", "go to ")


@pytest.fixture(scope="module")
def agent() -> LineAgent:
    return LineAgent(text_tokenizer(), Loud())


def test_an_episode_reads_like_a_terminal(agent: LineAgent) -> None:
    seen = Observation("Here you see a mug 2.\nGoal: desk put mug")
    message = agent.message([seen])
    assert message == seen.text
    tokens = [*agent.prompt(message, first=True), *agent.completion(ACTIONS[1]), *agent.prompt("Nothing.", first=False)]
    assert agent.tokenizer.decode(tokens) == "Here a mug 2.\nGoal: desk put mug\n> -> desk 1\nNothing.\n>"


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_come_back_and_their_tokens_are_those_of_the_whole_text(agent: LineAgent, action: str) -> None:
    tokens = agent.completion(action)
    assert tokens[-1] == agent.end and tokens.count(agent.end) == 1
    assert agent.parse(tokens) == action
    prompt = agent.prompt("Here.", first=True)
    assert agent.tokenizer.encode(agent.tokenizer.decode([*prompt, *tokens])) == [*prompt, *tokens]


def test_what_is_written_freely_ends_with_its_first_line(agent: LineAgent) -> None:
    spelled = agent.tokenizer.encode(" -> desk 1\nHere a mug 2.\n> look")
    assert agent.parse(spelled) == ACTIONS[1]
    assert agent.parse(agent.tokenizer.encode(" look around")) == "look around"  # no end within the limit
    assert agent.parse([]) == ""


def test_the_constraint_holds_each_command_to_its_end(agent: LineAgent) -> None:
    trie = agent.constraint(ACTIONS)
    for action in ACTIONS:
        *_, last = trie.walk(agent.completion(action))
        assert agent.end in last.allowed
    assert agent.constraint(ACTIONS) is trie


def test_a_tokenizer_without_a_newline_of_its_own_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    with pytest.raises(DataError, match="a newline is not one token"):
        LineAgent(Tokenizer(backend), Loud())
