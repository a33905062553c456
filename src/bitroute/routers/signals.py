"""A logistic regression over cheap features of the trajectory: no network, no tokenizer, well under a millisecond a decision.

The features know chat text in general (repetition, failure, new words, overlap with the newest message's last line, where
agents put their goal), and what past generations revealed; nothing of a particular environment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from bitroute.episode import View
from bitroute.errors import ConfigError, DataError
from bitroute.routers.threshold import Scored, ThresholdRouter, refuse_others
from bitroute.store.files import write_atomic

Floats = npt.NDArray[np.float64]

FEATURES: Final = (
    "step",
    "log step",
    "words in message",
    "message seen before",
    "last action failed",
    "share of new words",
    "goal word in message",
    "share of goal words in message",
    "last action repeated",
    "share of repeated actions",
    "last at high",
    "share at high",
    "last entropy",
    "last margin",
    "last log-probability",
    "mean entropy",
)
_FAILED: Final = ("nothing happens", "error", "invalid", "cannot", "can't", "unknown", "failed")
_WORD: Final = re.compile(r"\w+")
READ: Final = 100_000  # characters of a message that are read, its last ones: no message may take seconds
_WORD_BYTES: Final = 120  # of one word in a set: a short string, and its part of a table two thirds empty


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class FeatureState:
    """The words of an episode's earlier messages, kept so that a step need read its newest message alone."""

    __slots__ = ("_read", "_words")

    def __init__(self) -> None:
        self._read: list[int] = []  # hashes of the messages whose words these are
        self._words: set[str] = set()

    @property
    def nbytes(self) -> int:
        """About what this takes of memory."""
        return _WORD_BYTES * len(self._words) + 40 * len(self._read)

    def earlier(self, messages: Sequence[str]) -> set[str]:
        """The words of all messages but the newest. Messages that continue the last call's cost what is new in them."""
        marks = [hash(message) for message in messages[:-1]]
        if marks[: len(self._read)] != self._read:
            self._read, self._words = [], set()
        for message in messages[len(self._read) : -1]:
            self._words.update(_words(message[-READ:]))
        self._read = marks
        return self._words


def features(view: View, high: str, trail: FeatureState | None = None) -> Floats:
    """The features of the coming step, [len(FEATURES)]; unknown log-probabilities count as certainty.

    `trail` is the episode's, if one is kept; the values are the same without.
    """
    body, _, goal = view.messages[-1][-READ:].rpartition("\n")
    if not body:
        body, goal = goal, ""  # a message of one line states no goal of its own
    elif not view.actions:
        body = body.rpartition("\n")[0] or body  # an opening repeats the goal in its own words
    words, goal_words = _words(body), _words(goal)
    plain = body.lower()
    earlier = (trail or FeatureState()).earlier(view.messages)
    step = len(view.actions)
    last = view.signals[-1] if view.signals else None
    entropies = [sum(s.entropy) for s in view.signals if s is not None]
    return np.array(
        [
            step / 10,
            math.log1p(step),
            len(words) / 50,
            view.messages[-1] in view.messages[:-1],
            any(sign in plain for sign in _FAILED),
            len([w for w in words if w not in earlier]) / max(1, len(words)),
            bool(goal_words) and goal_words[-1] in words,
            len([w for w in goal_words if w in words]) / max(1, len(goal_words)),
            bool(view.actions) and view.actions[-1] in view.actions[:-1],
            (step - len(set(view.actions))) / max(1, step),
            bool(view.variants) and view.variants[-1] == high,
            view.variants.count(high) / max(1, step),
            sum(last.entropy) if last else 0.0,
            min(last.margin, default=1.0) if last else 1.0,
            sum(last.constrained) if last else 0.0,
            sum(entropies) / max(1, len(entropies)),
        ],
        dtype=np.float64,
    )


class SignalsModel(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A fitted regression: score = bias + weights . (features - mean) / scale."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    variants: tuple[str, ...]
    model: str  # fingerprint of the language model whose steps it was fitted on
    thresholds: tuple[float, ...] | None = None  # calibrated ones, if any; else 0

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomic(path, msgspec.json.format(msgspec.json.encode(self), indent=2))

    @classmethod
    def load(cls, path: Path, *, model: str, variants: Sequence[str]) -> SignalsModel:
        """Read what `save` wrote, for the language model with fingerprint `model` and its ladder `variants`.

        Raises DataError naming the file when it is missing or damaged, or was fitted for another model or other variants.
        """
        try:
            fitted = msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}: not a signals router ({error})") from error
        if fitted.features != FEATURES:
            raise DataError(f"{path}: was fitted on other features; train it again")
        if len(FEATURES) != len(fitted.mean) or len(FEATURES) != len(fitted.scale) or len(FEATURES) != len(fitted.weights):
            raise DataError(f"{path}: does not hold one number per feature; train it again")
        refuse_others(path, trained_for=fitted.model, model=model, ladder=fitted.variants, variants=variants)
        return fitted


def fit(rows: Floats, labels: npt.ArrayLike, variants: Sequence[str], model: str, ridge: float = 1e-3) -> SignalsModel:
    """Class-weighted logistic regression of `labels` (0 or 1) on `rows` [n, len(FEATURES)], with an L2 penalty `ridge`.

    Raises ConfigError when the labels are all alike.
    """
    y = np.asarray(labels, dtype=np.float64)
    positives = y.sum()
    if positives in (0, len(y)):
        raise ConfigError(f"signals: {positives:g} of {len(y)} steps are labelled sensitive; there is nothing to tell apart")
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)  # a feature that never changed stays without weight
    x = (rows - mean) / scale
    weight = np.where(y > 0, len(y) / (2 * positives), len(y) / (2 * (len(y) - positives)))

    def loss(theta: Floats) -> tuple[float, Floats]:
        z = x @ theta[:-1] + theta[-1]
        probability = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
        value = np.mean(weight * (np.logaddexp(0, z) - y * z)) + ridge * theta[:-1] @ theta[:-1]
        error = weight * (probability - y) / len(y)
        return float(value), np.append(x.T @ error + 2 * ridge * theta[:-1], error.sum())

    theta = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return SignalsModel(
        FEATURES,
        tuple(mean.tolist()),
        tuple(scale.tolist()),
        tuple(theta[:-1].tolist()),
        float(theta[-1]),
        tuple(variants),
        model,
    )


class SignalsRouter(ThresholdRouter):
    """The fitted regression as a router; its score is the logit of the step being sensitive."""

    name = "signals"

    def __init__(
        self, fitted: SignalsModel, thresholds: float | Sequence[float] | None = None, *, sample: bool = False
    ) -> None:
        """`thresholds` None takes the ones that the fitted model was saved with."""
        super().__init__(fitted.variants, (fitted.thresholds or 0.0) if thresholds is None else thresholds, sample=sample)
        self.fitted = fitted
        self._weights = np.array(fitted.weights) / np.array(fitted.scale)
        self._bias = fitted.bias - float(self._weights @ np.array(fitted.mean))

    def remember(self) -> FeatureState:
        """No message has been read yet."""
        return FeatureState()

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """Logits."""
        return [self.score(features(view, self.variants[-1], state.memory)) for view, state in zip(views, states, strict=True)]

    def score(self, row: Floats) -> float:
        """The logit of one step from its features, [len(FEATURES)]."""
        return float(row @ self._weights) + self._bias

    def save(self, path: Path) -> None:
        """Write the fitted model with the present thresholds."""
        msgspec.structs.replace(self.fitted, thresholds=self.thresholds).save(path)
