"""Plays a suite through an OpenAI endpoint: python examples/gateway_episodes.py --url http://127.0.0.1:8080

The endpoint is `bitroute serve --demo`, or any server of the reference model. Needs `pip install openai`, no game files. Prints
success for each model that was asked for, and which share of the steps each variant answered, with 95 % Wilson intervals; and
the mean of that share over episodes, which is what a budget limits.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence

from openai import AsyncOpenAI

from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.envs.suite import Role, split_for
from bitroute.evaluation.statistics import wilson
from bitroute.rollout.client import PlayedEpisode, SuiteClient


def interval(successes: int, trials: int) -> str:
    """A share with its interval, in percent."""
    share = wilson(successes, trials)
    return f"{share.value:6.1%} [{share.low:5.1%}, {share.high:5.1%}]"


def summary(model: str, played: Sequence[PlayedEpisode]) -> list[str]:
    """What came of the episodes that asked for `model`."""
    steps = Counter(answer.model for episode in played for answer in episode.answers)
    lines = [f"{model}: success {interval(sum(e.success for e in played), len(played))} of {len(played)} episodes"]
    for name, count in steps.most_common():
        means = [sum(answer.model == name for answer in e.answers) / len(e.answers) for e in played if e.answers]
        mean = sum(means) / len(means)
        lines.append(f"  {name:<12} {interval(count, steps.total())} of {steps.total()} steps; {mean:.1%} of an episode")
    failures = Counter(e.failure for e in played if e.failure)
    return lines + [f"  {count} episodes broke: {failure}" for failure, count in failures.most_common(3)]


async def main() -> None:
    """Parse the flags, play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the endpoint, without /v1 (default %(default)s)")
    parser.add_argument("--models", default="auto,low,high", help="what to ask for, one after the other (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=24, help="episodes for each model (default %(default)s)")
    parser.add_argument("--suite", default=DEFAULT, help="what to play (default %(default)s)")
    parser.add_argument("--split", help="of the suite (default: the one for validation)")
    parser.add_argument("--parallel", type=int, default=8, help="episodes at a time (default %(default)s)")
    parser.add_argument("--constrained", action="store_true", help="only admissible commands (llama.cpp's grammar field)")
    parser.add_argument("--run", default="example", help="what session ids begin with (default %(default)s)")
    flags = parser.parse_args()
    suite = load_suite(flags.suite)
    split = flags.split or split_for(suite, Role.VALIDATION)
    tasks = [suite.task(split, index) for index in range(flags.tasks)]
    async with AsyncOpenAI(base_url=f"{flags.url}/v1", api_key="none") as api:
        for model in flags.models.split(","):
            client = SuiteClient(api, suite, model, suite.defaults.max_steps, constrained=flags.constrained)
            played = await client.play_all(tasks, flags.parallel, f"{flags.run}-{model}")
            print("\n".join(summary(model, played)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
