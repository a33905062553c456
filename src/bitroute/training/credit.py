"""Who earned what in stage 2: from the outcomes of episodes to the advantages of decisions.

Credit by episode is the paper's: reward = outcome - lambda * cost, and each decision of an episode gets the reward minus its
group's mean. One decision in thirty turns the outcome, so this is noise for the rest. Credit by decision plays one decision of
each episode the other way, everything else with the same random numbers: what the outcome changes by is that decision's alone.
Knows episodes, rewards and jobs; no network.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitroute.episode import Episode
from bitroute.routers.budgeted import EXHAUSTED
from bitroute.routers.encoder.dataset import Trajectory
from bitroute.routers.features import Floats
from bitroute.training.branching import same_until
from bitroute.training.calibration import spent
from bitroute.training.policy_gradient import Sample
from bitroute.training.recipes import GrpoRecipe

Read = Callable[[Episode], Trajectory]
Flipped = tuple[Episode, "Flip", Episode]  # an episode, which of its decisions is flipped, and what comes of that


@dataclass(frozen=True, slots=True)
class Flip:
    """The decision of an episode that is played the other way: at `step`, as `variant`. `mass` is the sum of p (1 - p) over the
    decisions among which it was drawn in proportion to p (1 - p).
    """

    step: int
    variant: str
    mass: float


@dataclass(frozen=True, slots=True)
class Reward:
    """What an episode is worth by a recipe: outcome - lambda * cost, over the ladder `variants`, cheapest first, where all-high
    takes `reference_steps` steps in the mean.
    """

    variants: tuple[str, ...]
    reference_steps: float
    recipe: GrpoRecipe

    def parts(self, episodes: Sequence[Episode]) -> tuple[Floats, Floats]:
        """Outcome and cost of each episode [episodes].

        Cost, in 0..1, is what the episode's steps spend (one at the highest variant 1, at the lowest 0, evenly between)
        relative to all-high's mean number of steps.
        """
        outcomes = [float(e.success) if self.recipe.outcome == "success" else e.score for e in episodes]
        costs = [
            min(1.0, spent(e, self.variants) * len(e.steps) / self.reference_steps)
            if e.success or not self.recipe.cost_on_success
            else 0.0
            for e in episodes
        ]
        return np.array(outcomes), np.array(costs)

    def of(self, episodes: Sequence[Episode], price: float | None = None) -> Floats:
        """The rewards [episodes]; `price` is lambda, None the recipe's."""
        outcomes, costs = self.parts(episodes)
        values: Floats = outcomes - (self.recipe.price if price is None else price) * costs
        return values


def margin_of_groups(
    episodes: Sequence[Episode], reward: Reward, weights: Mapping[str, float] | None = None
) -> tuple[float, float]:
    """Two sums whose quotient is the price at which a group's rewards do not depend on what its episodes spent: within groups,
    outcome times cost, and cost squared, both centred.
    """
    worth = cost = 0.0
    for task, group in grouped(episodes).items():
        outcomes, costs = reward.parts(group)
        weight = (weights or {}).get(task, 1.0)
        worth += weight * float((outcomes - outcomes.mean()) @ (costs - costs.mean()))
        cost += weight * float(((costs - costs.mean()) ** 2).sum())
    return worth, cost


def grouped(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    """Episodes by task; those that broke are left out: their outcome is not the router's doing."""
    groups: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.failure is None:
            groups[episode.task_id].append(episode)
    return groups


def advantages(values: Floats, normalise: bool) -> Floats:
    """Rewards of one group, centred; divided by their deviation in the paper's form."""
    centred: Floats = values - values.mean()
    scale = float(values.std()) + 1e-6 if normalise else 1.0
    return centred / scale


def credit_episodes(
    episodes: Sequence[Episode],
    read: Read,
    reward: Reward,
    price: float | None = None,
    weights: Mapping[str, float] | None = None,
) -> tuple[list[Sample], int, int]:
    """What can be learnt from, the number of groups, and how many of them were skipped: rewards alike teach nothing.

    `weights` are those of tasks, by id, 1 where none is given. Decisions that a hard budget took are left out.
    """
    groups = grouped(episodes)
    samples: list[Sample] = []
    skipped = 0
    for task, group in groups.items():
        values = reward.of(group, price)
        if np.ptp(values) < 1e-9:
            skipped += 1
            continue
        weight = (weights or {}).get(task, 1.0)
        for episode, advantage in zip(group, advantages(values, reward.recipe.normalise), strict=True):
            steps = [t for t, s in enumerate(episode.steps) if s.decision.reason != EXHAUSTED]
            decisions = [episode.steps[t].decision for t in steps]
            samples.append(
                Sample(
                    read(episode),
                    steps,
                    [reward.variants.index(d.variant) for d in decisions],
                    [d.propensity for d in decisions],
                    [weight * float(advantage)] * len(steps),
                )
            )
    return samples, len(groups), skipped


def choose_flip(episode: Episode, variants: Sequence[str], seed: int) -> Flip | None:
    """A decision drawn in proportion to p (1 - p), where two variants are likely; None where nothing was left to chance."""
    if episode.failure is not None:
        return None
    open_ = [(t, s.decision) for t, s in enumerate(episode.steps) if s.decision.reason != EXHAUSTED]
    chances = [d.propensity * (1 - d.propensity) for _, d in open_]
    mass = sum(chances)
    if mass <= 0:
        return None
    chance = random.Random(f"{episode.task_id}|{episode.seed}|{seed}")
    step, decision = chance.choices(open_, weights=chances)[0]
    return Flip(step, variants[1 - variants.index(decision.variant)], mass)


def known_flips(pairs: Sequence[Flipped]) -> list[Flipped]:
    """Without replays that broke or left the path before the flip (a near-tie in another batch)."""
    return [(e, flip, other) for e, flip, other in pairs if other.failure is None and same_until(e, other, flip.step)]


def margin_of_flips(
    pairs: Sequence[Flipped], reward: Reward, weights: Mapping[str, float] | None = None
) -> tuple[float, float]:
    """Two sums whose quotient is the price at which it pays neither to spend a little more everywhere nor a little less: what
    high instead of low changes, at the flipped decisions, in outcome and in cost.
    """
    worth = cost = 0.0
    for episode, flip, other in pairs:
        outcomes, costs = reward.parts([episode, other])
        sign = 1 if flip.variant == reward.variants[0] else -1  # the episode had high, or the replay
        share = (weights or {}).get(episode.task_id, 1.0) * flip.mass
        worth += share * sign * float(outcomes[0] - outcomes[1])
        cost += share * sign * float(costs[0] - costs[1])
    return worth, cost


def credit_decisions(
    pairs: Sequence[Flipped],
    read: Read,
    reward: Reward,
    price: float | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[Sample]:
    """What each flipped decision was worth. Both ways are learned from: the gradient is that of the expected reward, with no
    noise of the draw itself.
    """
    samples: list[Sample] = []
    for episode, flip, other in pairs:
        taken, flipped = reward.of([episode, other], price)
        decision = episode.steps[flip.step].decision
        worth = (weights or {}).get(episode.task_id, 1.0) * flip.mass * float(taken - flipped)
        samples.append(
            Sample(
                read(episode),
                [flip.step, flip.step],
                [reward.variants.index(decision.variant), reward.variants.index(flip.variant)],
                [decision.propensity, 1 - decision.propensity],
                [worth, -worth],
            )
        )
    return samples
