"""Episodes made up from strings: what a policy solved, and at which precision it took each step."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bitroute.episode import Decision, Episode, Signals, Step, Usage
from bitroute.evaluation.results import PolicyRole, PolicyRun

VERBS = ("go", "open", "take", "clean", "move")
MakeRun = Callable[..., PolicyRun]


def make_step(index: int, high: bool, variants: tuple[str, str] = ("low", "high")) -> Step:
    variant = variants[high]
    return Step(
        message=f"You arrive at shelf {index}. On the shelf {index}, you see a mug 1.",
        action=f"{VERBS[index % len(VERBS)]} shelf {index}",
        decision=Decision(variant, score=index / 10, reason="threshold"),
        signals=Signals((-0.1,), (-0.05,), (0.2,), (0.9,)),
        usage=Usage(variant, prefill=20, cached=100 * index, decode=4),
    )


def make_episodes(solved: Sequence[bool], steps: Sequence[str], split: str = "unseen", policy: str = "p") -> list[Episode]:
    """`steps[i]` spells task i's precisions, e.g. "hll"; tasks alternate between the kinds heat and place."""
    return [
        Episode(
            task_id=f"task-{i}",
            kind=("heat", "place")[i % 2],
            split=split,
            policy=policy,
            seed=i,
            steps=tuple(make_step(t, letter == "h") for t, letter in enumerate(spelled)),
            success=bool(good),
        )
        for i, (good, spelled) in enumerate(zip(solved, steps, strict=True))
    ]


@pytest.fixture
def make_run() -> MakeRun:
    """make_run("dmr", "1101", "hl") is a run over four tasks of which three are solved, each in steps high, low."""

    def make(
        policy: str, solved: str, steps: str | Sequence[str], seed: int = 0, split: str = "unseen", **options: object
    ) -> PolicyRun:
        spelled = [steps] * len(solved) if isinstance(steps, str) else steps
        episodes = make_episodes([c == "1" for c in solved], spelled, split, policy)
        return PolicyRun(policy, seed, episodes, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def simulated() -> list[PolicyRun]:
    """300 tasks: low solves 55 %, high 80 %, random ones in between by their share of high steps, the learned one better."""
    rng = np.random.default_rng(12)
    luck = rng.random(300)
    lengths = rng.integers(4, 20, size=300)

    def play(policy: str, chance: float, share: float, seed: int = 0, **options: object) -> PolicyRun:
        own = np.random.default_rng([seed, round(1000 * chance), round(1000 * share)])
        solved = np.where(own.random(300) < 0.3, own.random(300), luck) < chance
        steps = ["".join("h" if own.random() < share else "l" for _ in range(n)) for n in lengths]
        return PolicyRun(policy, seed, make_episodes([bool(x) for x in solved], steps, policy=policy), **options)  # type: ignore[arg-type]

    return [
        play("all-low", 0.55, 0.0, role=PolicyRole.FIXED),
        play("all-high", 0.80, 1.0, role=PolicyRole.FIXED),
        *(play(f"random {s}", 0.55 + 0.25 * s, s, family="random") for s in (0.25, 0.5, 0.75)),
        play("kl oracle 0.25", 0.79, 0.25, family="kl oracle", role=PolicyRole.ORACLE),
        *(play("dmr 0.3", 0.78, 0.3, seed=s, family="dmr", role=PolicyRole.LEARNED, budget=0.3) for s in (0, 1, 2)),
    ]
