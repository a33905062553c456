"""A logistic regression over cheap features of the trajectory: no network, no tokenizer, well under a millisecond a decision.

It knows the features by their names alone (`features`): what each means, and how it is computed, is not its business. A file
may name fewer of them than there are today, as those of earlier versions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from bitroute.episode import View
from bitroute.errors import ConfigError, DataError
from bitroute.routers.features import FEATURES, FeatureState, Floats, features
from bitroute.routers.router import Reads
from bitroute.routers.threshold import Scored, ThresholdRouter, refuse_others
from bitroute.store.files import write_atomic

_ONCE: Final = ("nothing happens",)  # what files that do not name their phrases were fitted with


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
        if not set(fitted.features) <= set(FEATURES) or len(set(fitted.features)) < len(fitted.features):
            raise DataError(f"{path}: was fitted on other features; train it again")
        if {len(fitted.mean), len(fitted.scale), len(fitted.weights)} != {len(fitted.features)}:
            raise DataError(f"{path}: does not hold one number per feature; train it again")
        return fitted


def standardised(rows: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Columns with mean 0 and deviation 1 [n, features], and the mean and scale that make them so.

    A column that never changes keeps its scale, and so stays without weight.
    """
    x = np.asarray(rows, dtype=np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)
    return (x - mean) / scale, mean, scale


def fit_logistic(x: Floats, labels: npt.ArrayLike, weights: npt.ArrayLike, ridge: float) -> Floats:
    """Logistic regression of `labels` [n] in 0..1, each with a weight [n], on `x` [n, features]; a penalty `ridge` on the
    squared weights. Returns the weights and, last, the bias.
    """
    y, share = np.asarray(labels, dtype=np.float64), np.asarray(weights, dtype=np.float64)

    def loss(theta: Floats) -> tuple[float, Floats]:
        z = x @ theta[:-1] + theta[-1]
        probability = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
        value = np.mean(share * (np.logaddexp(0, z) - y * z)) + ridge * theta[:-1] @ theta[:-1]
        error = share * (probability - y) / len(y)
        return float(value), np.append(x.T @ error + 2 * ridge * theta[:-1], error.sum())

    theta: Floats = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return theta


def fit_balanced(x: Floats, labels: npt.ArrayLike, ridge: float = 1e-3) -> Floats:
    """`fit_logistic` with both classes of equal weight; a label between 0 and 1 counts for both, in parts."""
    y = np.asarray(labels, dtype=np.float64)
    negative, positive = len(y) / (2 * (len(y) - y.sum())), len(y) / (2 * y.sum())
    expected = y * positive + (1 - y) * negative
    return fit_logistic(x, y * positive / expected, expected, ridge)


def fit_signals(
    rows: Floats,
    labels: npt.ArrayLike,
    variants: Sequence[str],
    model: str,
    *,
    failures: Sequence[str] = (),
    ridge: float = 1e-3,
) -> SignalsModel:
    """Class-weighted logistic regression of `labels` (0 to 1, a soft one counts for both classes) on `rows` [n,
    len(FEATURES)], which were computed with the phrases `failures`, with an L2 penalty `ridge`.

    Raises ConfigError when the labels are all alike.
    """
    y = np.asarray(labels, dtype=np.float64)
    positives = y.sum()
    if np.ptp(y) == 0:
        raise ConfigError(f"signals: {positives:g} of {len(y)} steps are labelled sensitive; there is nothing to tell apart")
    x, mean, scale = standardised(rows)
    theta = fit_balanced(x, y, ridge)
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
        weights = np.array(fitted.weights) / np.array(fitted.scale)
        self._bias = fitted.bias - float(weights @ np.array(fitted.mean))
        self._weights = np.zeros(len(FEATURES))
        self._weights[[FEATURES.index(name) for name in fitted.features]] = weights

    def remember(self) -> FeatureState:
        """No message has been read yet."""
        return FeatureState()

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """Logits; of a view that brings its features, from these."""
        return [self.score(self._row(view, state)) for view, state in zip(views, states, strict=True)]

    def score(self, row: npt.ArrayLike) -> float:
        """The logit of one step from its features, [len(FEATURES)], or as many of the first as an earlier version recorded.

        Raises DataError when the regression needs one that the row lacks.
        """
        values = np.asarray(row, dtype=np.float64)
        if self._weights[len(values) :].any():
            raise DataError(f"a step recorded with {len(values)} features: the router needs {len(FEATURES)}; record anew")
        return float(values @ self._weights[: len(values)]) + self._bias

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
