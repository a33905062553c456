"""Trains the ALFWorld agent's tokenizer on expert episodes: python scripts/alfworld_tokenizer.py DIRECTORY

Reads 2,000 episodes of the generated split `lm-train` and, where the official games are at hand (`--data` or $ALFWORLD_DATA),
as many official training games.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bitroute.envs.alfworld.agent import train_alfworld_tokenizer
from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.envs.alfworld.message import reminder, strip_welcome
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.envs.alfworld.simulator.load import load_split
from bitroute.envs.alfworld.splits import tasks


def texts(games: Iterator[AlfworldTask]) -> Iterator[str]:
    """What an agent reads and writes in noisy expert episodes of `games`."""
    for game in games:
        episode = demonstrate(game, seed=0, noise=0.15)
        recall = reminder(episode.observations[0].text)
        for observation, action in zip(episode.observations, episode.actions, strict=True):
            yield strip_welcome(observation.text) + recall
            yield action


def main() -> None:
    """Parse the flags, train, write, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--data", type=Path, default=os.environ.get("ALFWORLD_DATA"), help="directory that holds json_2.1.1")
    parser.add_argument("--episodes", type=int, default=2000, help="generated games, and official ones (default 2000)")
    flags = parser.parse_args()
    corpus = list(texts(islice(tasks("lm-train"), flags.episodes)))
    if flags.data is not None:
        corpus += texts(islice(load_split(flags.data, "train"), flags.episodes))
    tokenizer = train_alfworld_tokenizer(corpus)
    tokenizer.save(flags.out)
    print(f"{flags.out}: {tokenizer.vocab_size} tokens from {len(corpus)} texts")


if __name__ == "__main__":
    main()
