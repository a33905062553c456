"""What the language model reads: the agent's own format, with weights where an action is to be imitated."""

from __future__ import annotations

import pytest

from bitroute.envs.alfworld import corpus, splits
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.corpus import PRETRAINED, PUBLISHED_SHARE, SCRATCH, expert_source, weigh
from bitroute.envs.alfworld.demonstrations import Demonstration, demonstrate
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.envs.models import find_model
from bitroute.episode import Observation
from bitroute.nn.tokenizer import ASSISTANT, END, USER, Tokenizer

MODEL = find_model("alfworld-agent")


@pytest.fixture(scope="module")
def agent() -> AlfworldAgent:
    return AlfworldAgent(Tokenizer.load(MODEL))


def test_weights_by_hand(agent: AlfworldAgent) -> None:
    task = splits.task("lm-train", 0)
    seen = (
        Observation("You are in a room. Your task is to: put a mug in desk."),
        Observation("On the desk 1, you see a mug 1."),
    )
    episode = Demonstration(task, seen, ("go to desk 1", "look"), ("go to desk 1", "take mug 1 from desk 1"), False)
    sequence = weigh(agent, episode)
    prompts = [agent.prompt(agent.message(seen[: i + 1]), first=i == 0) for i in range(len(seen))]
    go, look = agent.completion("go to desk 1"), agent.completion("look")
    assert sequence.tokens == [*prompts[0], *go, *prompts[1], *look]
    assert sequence.weights == [
        *[SCRATCH.observation] * len(prompts[0]),
        SCRATCH.verb,
        *[1.0] * (len(go) - 1),
        *[SCRATCH.observation] * (len(prompts[1]) + len(look)),  # looking was not the expert's choice
    ]


def test_an_episode_is_the_chat_that_the_agent_will_have(agent: AlfworldAgent) -> None:
    episode = demonstrate(splits.task("lm-train", 4), seed=4, noise=0.2)
    expected = "".join(
        f"{USER}{agent.message(episode.observations[: number + 1])}{ASSISTANT}{action}{END}"
        for number, action in enumerate(episode.actions)
    )
    sequence = weigh(agent, episode)
    assert agent.tokenizer.decode(sequence.tokens) == expected
    assert len(sequence.weights) == len(sequence.tokens)
    assert sequence.weights.count(SCRATCH.verb) == episode.noise.count(False)
    assert min(sequence.weights) > 0


def test_a_sequence_is_a_function_of_seed_and_index(agent: AlfworldAgent) -> None:
    source = expert_source(agent, seed=0)
    forwards = [source(i) for i in range(4)]
    assert [expert_source(agent, seed=0)(i) for i in (3, 2, 1, 0)] == forwards[::-1]
    assert [expert_source(agent, seed=1)(i) for i in range(4)] != forwards


def test_tasks_come_from_lm_train_and_the_official_games_in_their_share(
    agent: AlfworldAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[AlfworldTask, float]] = []

    def note(task: AlfworldTask, seed: int, noise: float, *, refused: float) -> Demonstration:
        assert refused == 0
        played.append((task, noise))
        return Demonstration(task, (Observation("Your task is to: look."),), ("look",), ("look",), True)

    generated = splits.task("lm-train", 0)
    monkeypatch.setattr(corpus, "demonstrate", note)
    monkeypatch.setattr(splits, "task", lambda name, index, goals: generated if (name, goals) == ("lm-train", 1) else None)
    official = [AlfworldTask(f"official-{i}", "", "train", generated.game) for i in range(5)]
    source = expert_source(agent, 0, official)
    for index in range(2000):
        source(index)
    chosen = [task for task, _ in played if task.split == "train"]
    assert len(chosen) / 2000 == pytest.approx(PUBLISHED_SHARE, abs=0.03)  # nearly four standard errors
    assert {task.id for task in chosen} == {task.id for task in official}
    assert {task.split for task, _ in played} == {"train", "lm-train"}
    noises = [noise for _, noise in played]
    assert 0 <= min(noises) < 0.01
    assert 0.29 < max(noises) <= 0.3
    played.clear()
    expert_source(agent, 0)(0)
    assert played[0][0] is generated


def test_a_pretrained_model_imitates_no_stray_action_and_sees_some_that_are_refused(agent: AlfworldAgent) -> None:
    source = expert_source(agent, 0, lesson=PRETRAINED)
    sequences = [source(index) for index in range(30)]
    assert {weight for sequence in sequences for weight in sequence.weights} == {0.0, 0.05, 1.0, 2.0}
    assert any("Nothing happens." in agent.tokenizer.decode(sequence.tokens) for sequence in sequences)
    assert source(3) == expert_source(agent, 0, lesson=PRETRAINED)(3)
