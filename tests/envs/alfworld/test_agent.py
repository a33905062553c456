"""The agent's format: what is sent, that it is the chat template's sequence, and that names are one token each."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from bitroute.engines.constraint import Trie
from bitroute.envs.alfworld.agent import VOCABULARY, AlfworldAgent, train_alfworld_tokenizer, vocabulary
from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.envs.alfworld.message import message
from bitroute.envs.alfworld.splits import task
from bitroute.envs.models import find_model
from bitroute.episode import Observation
from bitroute.nn.tokenizer import Tokenizer

MODEL = find_model("alfworld-agent")
OPENING = Observation(
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a cabinet 1, "
    "a countertop 2, and a countertop 1.\n\nYour task is to: put a clean pan in countertop.",
    ("go to cabinet 1", "go to countertop 1", "go to countertop 2", "help", "inventory", "look"),
)
ARRIVAL = Observation("You arrive at countertop 2. On the countertop 2, you see a pan 1.", ("take pan 1 from countertop 2",))


@pytest.fixture(scope="module")
def agent() -> AlfworldAgent:
    return AlfworldAgent(Tokenizer.load(MODEL))


@pytest.mark.parametrize(
    ("sentence", "line"),
    [
        ("put a mug in desk.", "desk put mug"),
        ("put some mug on desk.", "desk put mug"),
        ("put a clean mug in desk.", "desk clean mug"),
        ("clean some mug and put it in desk.", "desk clean mug"),
        ("put a hot mug in desk.", "desk heat mug"),
        ("heat some mug and put it in desk.", "desk heat mug"),
        ("put a cool mug in desk.", "desk cool mug"),
        ("cool some mug and put it in desk.", "desk cool mug"),
        ("put two mug in desk.", "desk two mug"),
        ("find two mug and put them in desk.", "desk two mug"),
        ("look at mug under the desklamp.", "desklamp look mug"),
        ("examine the mug with the desklamp.", "desklamp look mug"),
        ("tidy up this mess, please", "tidy up this mess, please"),
    ],
)
def test_the_reminder_ends_with_the_target(sentence: str, line: str) -> None:
    opening = f"You are in a room.\n\nYour task is to: {sentence}"
    assert message([Observation(opening)]) == f"{opening}\nGoal: {line}"


def test_messages_are_the_observations_with_the_reminder(agent: AlfworldAgent) -> None:
    assert agent.message([OPENING]) == (
        "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a countertop 2, and a countertop 1."
        "\n\nYour task is to: put a clean pan in countertop.\nGoal: countertop clean pan"
    )
    assert agent.message([OPENING, ARRIVAL]) == ARRIVAL.text + "\nGoal: countertop clean pan"


def test_the_reminder_costs_at_most_eight_tokens(agent: AlfworldAgent) -> None:
    told = agent.message([OPENING, ARRIVAL]).removeprefix(ARRIVAL.text)
    assert len(agent.tokenizer.encode(told)) == 6


def test_prompts_and_completions_are_the_chat_templates_tokens(agent: AlfworldAgent) -> None:
    template = AutoTokenizer.from_pretrained(MODEL)
    episode = demonstrate(task("lm-train", 5), seed=1, noise=0.3)
    mine: list[int] = []
    for number, action in enumerate(episode.actions):
        mine += agent.prompt(agent.message(episode.observations[: number + 1]), first=number == 0)
        turns = agent.messages(episode.observations[: number + 1], episode.actions[:number])
        spoken = [{"role": turn.role, "content": turn.content} for turn in turns]
        assert template.apply_chat_template(spoken, add_generation_prompt=True, return_dict=False) == mine
        mine += agent.completion(action)
        spoken.append({"role": "assistant", "content": action})
        assert template.apply_chat_template(spoken, return_dict=False) == mine
        assert agent.tokenizer.encode(template.apply_chat_template(spoken, tokenize=False)) == mine


def test_a_completion_parses_back(agent: AlfworldAgent) -> None:
    for action in ("take pan 1 from countertop 2", "look", "", "söme nonsense  "):
        tokens = agent.completion(action)
        assert tokens[-1] == agent.tokenizer.end
        assert agent.parse(tokens) == agent.parse(tokens[:-1]) == action
        assert agent.parse([*tokens, *agent.completion("look")]) == action


def test_callers_may_change_what_they_get(agent: AlfworldAgent) -> None:
    expected = agent.completion("go to desk 1")
    agent.completion("go to desk 1").append(7)
    agent.prompt("hello", first=True).clear()
    assert agent.completion("go to desk 1") == expected
    assert agent.prompt("hello", first=False)[-1] == agent.tokenizer.assistant


def test_the_constraint_holds_exactly_the_admissible_commands(agent: AlfworldAgent) -> None:
    def leaves(node: Trie, before: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
        if not node.children:
            return [before]
        return [leaf for token, child in node.children.items() for leaf in leaves(child, (*before, token))]

    found = leaves(agent.constraint(OPENING.admissible))
    assert sorted(agent.parse(leaf) for leaf in found) == sorted(OPENING.admissible)
    assert all(leaf[-1] == agent.tokenizer.end for leaf in found)
    assert agent.constraint(OPENING.admissible) is agent.constraint(list(OPENING.admissible))


def test_the_committed_vocabulary_has_each_word_as_one_token(agent: AlfworldAgent) -> None:
    assert agent.tokenizer.vocab_size <= VOCABULARY == 768
    assert {word for word in vocabulary() if len(agent.tokenizer.encode(word)) != 1} == set()
    assert {" countertop", " toiletpaperhanger", " desklamp", " 1", " 50", "take"} <= set(vocabulary())


def test_names_in_generated_games_are_two_tokens(agent: AlfworldAgent) -> None:
    for index in range(30):
        game = task("router-train", index).game
        held = [thing.name for thing in game.things if thing.receptacles]
        for name in [receptacle.name for receptacle in game.receptacles] + held:
            assert len(agent.tokenizer.encode(" " + name)) == 2, name


def test_a_tokenizer_trained_anew_meets_the_same_promises() -> None:
    tokenizer = train_alfworld_tokenizer([OPENING.text, ARRIVAL.text])
    assert tokenizer.vocab_size <= VOCABULARY
    assert all(len(tokenizer.encode(word)) == 1 for word in vocabulary())
