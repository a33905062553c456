"""A logistic regression over cheap features of the trajectory: no network, no tokenizer, well under a millisecond a decision.

The features know chat text in general (repetition, failure, new words, overlap with the goal), and what past generations
revealed; nothing of a particular environment. By which phrases an environment refuses an action is told them, and the goal is a
line that the agent is reminded of: the last one of every message, the opening's included.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from bitroute.episode import View
from bitroute.errors import ConfigError, DataError
from bitroute.routers.router import Reads
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
FAILED: Final = ("error", "invalid", "cannot", "can't", "unknown", "failed")  # in any environment
_ONCE: Final = ("nothing happens",)  # what files that do not name their phrases were fitted with
_WORD: Final = re.compile(r"\w+")
READ: Final = 100_000  # characters of a message that are read, its last ones: no message may take seconds
_WORD_BYTES: Final = 120  # of one word in a set: a short string, and its part of a table two thirds empty


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class FeatureState:
    """The words of an episode's messages, kept so that a step need read its newest message alone."""

    __slots__ = ("_newest", "_read", "_words")

    def __init__(self) -> None:
        self._read: list[int] = []  # hashes of the messages whose words these are
        self._words: set[str] = set()
        self._newest: tuple[int, list[str]] = (0, [])  # hash and words of the message that was read last

    @property
    def nbytes(self) -> int:
        """About what this takes of memory."""
        return _WORD_BYTES * (len(self._words) + len(self._newest[1])) + 40 * len(self._read)

    def earlier(self, messages: Sequence[str]) -> set[str]:
        """The words of all messages but the newest. Messages that continue the last call's cost what is new in them."""
        marks = [hash(message) for message in messages[:-1]]
        if marks[: len(self._read)] != self._read:
            self._read, self._words = [], set()
        for index in range(len(self._read), len(marks)):
            known, words = self._newest
            self._words.update(words if marks[index] == known else _words(messages[index][-READ:]))
        self._read = marks
        return self._words

    def note(self, newest: str, words: list[str]) -> None:
        """These are the words of the newest message: the next step need not read it again."""
        self._newest = hash(newest), words


def features(view: View, high: str, state: FeatureState | None = None, failures: Sequence[str] = ()) -> Floats:
    """The features of the coming step, [len(FEATURES)]; unknown log-probabilities count as certainty.

    `state` is the episode's, if one is kept; the values are the same without. `failures` are phrases, in lower case, that say
    of an action that it failed, besides `FAILED`.
    """
    newest = view.messages[-1][-READ:]
    body, goal = _parts(view, newest)
    plain = body.lower()
    words, goal_words = _WORD.findall(plain), _words(goal)
    here = set(words)
    earlier = state.earlier(view.messages) if state is not None else FeatureState().earlier(view.messages)
    if state is not None:
        state.note(view.messages[-1], words + _words(newest[len(body) :]))
    step = len(view.actions)
    last = view.signals[-1] if view.signals else None
    entropies = [sum(s.entropy) for s in view.signals if s is not None]
    return np.array(
        [
            step / 10,
            math.log1p(step),
            len(words) / 50,
            view.messages[-1] in view.messages[:-1],
            any(phrase in plain for phrase in (*FAILED, *failures)),
            len([w for w in words if w not in earlier]) / max(1, len(words)),
            bool(goal_words) and goal_words[-1] in here,
            len([w for w in goal_words if w in here]) / max(1, len(goal_words)),
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


def _parts(view: View, newest: str) -> tuple[str, str]:
    """The `newest` message without its goal (a beginning of it), and the goal: "" where it states none.

    The goal is the last line of several, where the opening ends with the same line: a reminder. What merely stands last in a
    message is no goal.
    """
    body, _, goal = newest.rpartition("\n")
    if not body:
        return newest, ""  # one line states no goal of its own
    if not view.actions:
        return body.rpartition("\n")[0] or body, goal  # an opening repeats the goal in its own words
    opening = view.messages[0]
    if opening == goal or opening.endswith("\n" + goal):
        return body, goal
    return newest, ""


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
    failures: tuple[str, ...] = _ONCE  # the environment's phrases that its features count as a failure
    router: Literal["signals"] = "signals"

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomic(path, msgspec.json.format(msgspec.json.encode(self), indent=2))

    @classmethod
    def load(cls, path: Path) -> SignalsModel:
        """Read what `save` wrote. Raises DataError naming the file when it is missing or damaged."""
        try:
            fitted = msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}: not a signals router ({error})") from error
        if fitted.features != FEATURES:
            raise DataError(f"{path}: was fitted on other features; train it again")
        if len(FEATURES) != len(fitted.mean) or len(FEATURES) != len(fitted.scale) or len(FEATURES) != len(fitted.weights):
            raise DataError(f"{path}: does not hold one number per feature; train it again")
        return fitted


def fit_signals(
    rows: Floats,
    labels: npt.ArrayLike,
    variants: Sequence[str],
    model: str,
    *,
    failures: Sequence[str] = (),
    ridge: float = 1e-3,
) -> SignalsModel:
    """Class-weighted logistic regression of `labels` (0 or 1) on `rows` [n, len(FEATURES)], which were computed with the
    phrases `failures`, with an L2 penalty `ridge`.

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
        features=FEATURES,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(theta[:-1].tolist()),
        bias=float(theta[-1]),
        variants=tuple(variants),
        model=model,
        failures=tuple(failures),
    )


class SignalsRouter(ThresholdRouter):
    """The fitted regression as a router; its score is the logit of the step being sensitive."""

    name = "signals"
    reads = Reads.FEATURES

    def __init__(
        self, fitted: SignalsModel, thresholds: float | Sequence[float] | None = None, *, sample: bool = False
    ) -> None:
        """`thresholds` None takes the ones that the fitted model was saved with."""
        super().__init__(fitted.variants, (fitted.thresholds or 0.0) if thresholds is None else thresholds, sample=sample)
        self.fitted, self.failures = fitted, fitted.failures
        self._weights = np.array(fitted.weights) / np.array(fitted.scale)
        self._bias = fitted.bias - float(self._weights @ np.array(fitted.mean))

    def remember(self) -> FeatureState:
        """No message has been read yet."""
        return FeatureState()

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """Logits; of a view that brings its features, from these."""
        return [self.score(self._row(view, state)) for view, state in zip(views, states, strict=True)]

    def score(self, row: npt.ArrayLike) -> float:
        """The logit of one step from its features, [len(FEATURES)]."""
        return float(np.asarray(row) @ self._weights) + self._bias

    def _row(self, view: View, state: Scored) -> npt.ArrayLike:
        if view.features is not None:
            return view.features
        return features(view, self.variants[-1], state.memory, self.failures)

    def save(self, path: Path) -> None:
        """Write the fitted model with the present thresholds."""
        msgspec.structs.replace(self.fitted, thresholds=self.thresholds).save(path)


def load_signals(path: Path, *, variants: Sequence[str], model: str | None = None) -> SignalsRouter:
    """Read what `save` wrote, over `variants` in the place of those that it was fitted for, by position.

    With the fingerprint `model` of a language model it must have been fitted for that one and for just these variants. Raises
    DataError when the file is missing or damaged, or the router is another one's.
    """
    fitted = SignalsModel.load(path)
    if model is not None:
        refuse_others(path, trained_for=fitted.model, model=model, ladder=fitted.variants, variants=variants)
    return SignalsRouter(msgspec.structs.replace(fitted, variants=tuple(variants)))
