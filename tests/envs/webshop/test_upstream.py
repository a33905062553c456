"""Upstream's sessions, played again: pages, what can be clicked, options, rewards and their parts are equal to the letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest

from bitroute.envs.webshop.environment import WebShopEnvironment
from bitroute.envs.webshop.goals import Goals
from bitroute.envs.webshop.pages import Mode
from bitroute.envs.webshop.products import Catalogue
from bitroute.envs.webshop.search.build import build_index
from bitroute.envs.webshop.search.index import Index

MODES = (Mode.TEXT, Mode.TEXT_RICH, Mode.URL)


@pytest.fixture(scope="module")
def search(published: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sequence[str]]:
    """Our search over the published catalogue."""
    path = tmp_path_factory.mktemp("search") / "index"
    build_index(path, ((product.asin, product.document) for product in published.products))
    index = Index.open(path)
    return lambda query: [hit.asin for hit in index.search(query)]


def nouns_that_score(title_score: float) -> Callable[[str], Sequence[str]]:
    """Nouns that give a purchase this title score: all titles have the same ones, as many distinct ones as the fraction says.
    For 0 no two titles have one in common.
    """
    share = Fraction(title_score).limit_denominator(200)
    meant = [f"noun {min(place, share.numerator - 1)}" for place in range(share.denominator)]
    return lambda title: meant if share else [title]


def test_every_page_and_every_reward_is_equal(
    published: Catalogue, published_goals: Goals, upstream: Mapping[str, Any], search: Callable[[str], Sequence[str]]
) -> None:
    """The nouns of titles are told here, so that the parts of a reward which do not follow from them are seen to be right."""
    score = 1.0

    def nouns(title: str) -> Sequence[str]:
        return nouns_that_score(score)(title)

    environments = {
        mode: WebShopEnvironment(published, search, published_goals.prices, mode=mode, nouns=nouns) for mode in MODES
    }
    seen: Counter[str] = Counter()
    for session in upstream["sessions"]:
        if "info" in session:
            score = session["info"]["title_score"]
        for mode, environment in environments.items():
            observation = environment.reset(published_goals[session["goal"]])
            for number, step in enumerate(session["steps"]):
                if number:
                    outcome = environment.step(step["action"])
                    observation = outcome.observation
                    assert (outcome.reward, outcome.done) == (step["reward"], step["done"])
                    assert list(environment.options.items()) == list(step["options"].items())
                    if outcome.done:
                        assert list(outcome.info.items()) == list(session["info"].items())
                        seen["rewards"] += 1
                assert observation.text == step["obs"][mode]
                assert list(environment.clickables) == step["avail"]["clickables"]
                assert bool(observation.admissible) is not (step["avail"]["has_search_bar"] or step.get("done", False))
                seen["pages"] += 1
    assert seen == {"pages": 3 * 1628, "rewards": 3 * 91}


def test_our_nouns_differ_from_upstream_in_a_few_rewards(
    published: Catalogue, published_goals: Goals, upstream: Mapping[str, Any], search: Callable[[str], Sequence[str]]
) -> None:
    environment = WebShopEnvironment(published, search, published_goals.prices, mode=Mode.URL)
    differing: Counter[str] = Counter()
    for session in upstream["sessions"]:
        if "info" not in session:
            continue
        environment.reset(published_goals[session["goal"]])
        *_, outcome = (environment.step(step["action"]) for step in session["steps"][1:])
        differing.update(name for name, part in session["info"].items() if outcome.info[name] != part)
        differing["reward"] += outcome.reward != session["steps"][-1]["reward"]
    assert differing == {"title_score": 25, "reward": 0}  # none of the 91 titles' scores crosses a threshold
