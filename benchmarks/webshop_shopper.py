"""How often the scripted shopper of WebShop finds what is asked for: the ceiling of whoever learns from it.

    python benchmarks/webshop_shopper.py                        # a generated catalogue of 4,000 products
    python benchmarks/webshop_shopper.py --data FOLDER          # the published files in FOLDER, unreachable goals included

Goals of `validation`, in our order, seed 0; success with Wilson's 95 % interval, mean reward, steps, and steps a second of one
process, the shopper's own time included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from bitroute.envs.webshop.demonstrations import demonstrate
from bitroute.envs.webshop.environment import WebShopEnvironment
from bitroute.envs.webshop.generator import write_catalogue
from bitroute.envs.webshop.goals import synthetic_goals
from bitroute.envs.webshop.products import CatalogueFiles, load_catalogue
from bitroute.envs.webshop.search.build import build_index
from bitroute.envs.webshop.search.index import Index
from bitroute.evaluation.statistics import wilson
from bitroute.store.runs import processor


def main() -> None:
    """Parse the flags, play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with the published files; without it a catalogue is generated")
    parser.add_argument("--products", type=int, default=4000, help="of a generated catalogue")
    parser.add_argument("--goals", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = arguments.data or Path(directory)
        if arguments.data is None:
            write_catalogue(folder, arguments.products, seed=0)
        catalogue = load_catalogue(CatalogueFiles.within(folder))
        index_path = Path(directory) / "index"
        build_index(index_path, ((product.asin, product.document) for product in catalogue.products))
        index, goals = Index.open(index_path), synthetic_goals(catalogue)
        world = WebShopEnvironment(catalogue, lambda query: [hit.asin for hit in index.search(query)], goals.prices)
        tasks = goals.of("validation")
        start = time.perf_counter()
        played = [demonstrate(world, tasks[number], seed=0, noise=0.0) for number in range(min(arguments.goals, len(tasks)))]
        seconds = time.perf_counter() - start
    wins = sum(episode.reward == 1.0 for episode in played)
    success = wilson(wins, len(played))
    steps = sum(len(episode.actions) for episode in played)
    print(
        f"{len(catalogue.products)} products, {len(played)} of {len(tasks)} goals of validation: success {success.value:.1%} "
        f"[{success.low:.1%}, {success.high:.1%}], reward {np.mean([episode.reward for episode in played]):.3f}, "
        f"{steps / len(played):.1f} steps, {steps / seconds:,.0f} steps/s, {processor()}"
    )


if __name__ == "__main__":
    main()
