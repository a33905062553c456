"""What an episode costs: rates per token and per call of each variant, and per routing decision. It knows numbers, no clock.

The simplest model is the paper's call count (a step at the highest precision costs 1, at the lowest 0). Measured models are
fitted from timed calls and saved as JSON with what was timed, where, and how well the rates explain it: a profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError
from scipy.optimize import nnls

from bitroute.episode import Episode, Usage
from bitroute.errors import CapabilityError, DataError
from bitroute.store.files import write_atomic

_COLUMNS = ("call", "prefill", "cached", "decode", "attention")


@dataclass(frozen=True, slots=True)
class TimedCall:
    """One timed call of a variant: what it processed and the seconds that took."""

    usage: Usage
    seconds: float


class Rates(BaseModel):
    """The rates of one variant, in the cost model's unit: per call, and per token prefilled, found cached, decoded.

    `attention` is per pair of a processed token and one that it looks back on: what long contexts add to every token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    call: NonNegativeFloat = 0.0
    prefill: NonNegativeFloat = 0.0
    cached: NonNegativeFloat = 0.0
    decode: NonNegativeFloat = 0.0
    attention: NonNegativeFloat = 0.0

    def cost(self, usage: Usage) -> float:
        """The cost of one call; a call that processes nothing is none."""
        if usage.prefill + usage.decode == 0:
            return 0.0
        return sum(rate * count for rate, count in zip(self._values(), _counts(usage), strict=True))

    def mixed(self, other: Self, part: float) -> Self:
        """The rates between these (`part` 0) and others (1): of a network with a part of its layers in another form."""
        values = ((1 - part) * a + part * b for a, b in zip(self._values(), other._values(), strict=True))
        return type(self)(**dict(zip(_COLUMNS, values, strict=True)))

    def _values(self) -> list[float]:
        return [getattr(self, name) for name in _COLUMNS]


class Residuals(BaseModel):
    """How far fitted rates are from `calls` timed calls, relative to their seconds: root mean square, and the worst."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    calls: int
    rms: NonNegativeFloat
    worst: NonNegativeFloat


class CostModel(BaseModel):
    """Rates by variant; `decisions` gives the cost of one decision by a policy's family (one not listed decides for free).

    Of a profile, `engine` says what was timed, `residuals` how well the rates explain it, `measured` where, when and by which
    command.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: str
    variants: Mapping[str, Rates]
    decisions: Mapping[str, NonNegativeFloat] = {}
    engine: str = ""
    residuals: Mapping[str, Residuals] = {}
    measured: Mapping[str, Any] = {}

    @classmethod
    def steps(cls, ladder: Sequence[str]) -> Self:
        """The paper's count of calls: a call of the highest variant costs 1, of the lowest 0, of those between evenly less.

        `ladder` is cheapest first. Raises ValueError for fewer than two variants or one named twice.
        """
        if len(ladder) < 2 or len(set(ladder)) < len(ladder):
            raise ValueError(f"a ladder needs at least two different variants, got {list(ladder)}")
        top = len(ladder) - 1
        return cls(unit="high steps", variants={name: Rates(call=i / top) for i, name in enumerate(ladder)})

    @classmethod
    def fit(cls, samples: Iterable[TimedCall], decisions: Mapping[str, float] | None = None, unit: str = "seconds") -> Self:
        """Rates by non-negative least squares of relative errors from timed calls, each variant by itself.

        `decisions` are mean seconds per decision by policy, measured elsewhere. Raises DataError when a variant's samples
        cannot tell the rates apart (too few, or two counts always in the same proportion) or hold a time that is not positive.
        """
        grouped: dict[str, list[TimedCall]] = {}
        for sample in samples:
            grouped.setdefault(sample.usage.variant, []).append(sample)
        if not grouped:
            raise DataError("cannot fit a cost model: no timed calls were given")
        rates = {name: _fit_rates(name, group) for name, group in grouped.items()}
        return cls(
            unit=unit,
            variants=rates,
            decisions=dict(decisions or {}),
            residuals={name: _residuals(rates[name], group) for name, group in grouped.items()},
        )

    def cost(self, usages: Iterable[Usage]) -> float:
        """The summed cost of calls, in `unit`. Raises CapabilityError for a variant without rates."""
        total = 0.0
        for usage in usages:
            rates = self.variants.get(usage.variant)
            if rates is None:
                known = ", ".join(self.variants)
                raise CapabilityError(f"the cost model has no rates for variant {usage.variant!r} (it knows {known})")
            total += rates.cost(usage)
        return total

    def episode(self, episode: Episode, policy: str | None = None) -> float:
        """The cost of a played episode: generation with what a variant had to catch up on, the router's probes and checks, and
        its decisions. `policy` is the name to look decisions up by, the episode's own when None.
        """
        usages = (usage for step in episode.steps for usage in (step.usage, *step.probe_usage))
        return self.cost(usages) + len(episode.steps) * self.decisions.get(policy or episode.policy, 0.0)

    def save(self, path: Path) -> None:
        """Write the model as JSON, whole or not at all."""
        write_atomic(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved model. Raises DataError naming the file and the field at fault; unknown keys are refused."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{path}: {field + ': ' if field else ''}{first['msg']}") from error


def _counts(usage: Usage) -> tuple[int, ...]:
    """What the rates multiply, in the order of _COLUMNS."""
    new = usage.prefill + usage.decode
    return 1, usage.prefill, usage.cached, usage.decode, new * usage.cached + new * (new + 1) // 2


def _fit_rates(name: str, samples: Sequence[TimedCall]) -> Rates:
    design = np.array([_counts(s.usage) for s in samples], dtype=np.float64)
    seconds = np.array([s.seconds for s in samples], dtype=np.float64)
    if not np.all(np.isfinite(seconds)) or np.any(seconds <= 0):
        raise DataError(f"cannot fit the rates of variant {name!r}: a timed call took no positive number of seconds")
    if not design[:, _COLUMNS.index("cached")].any():
        design[:, _COLUMNS.index("attention")] = 0  # nothing tells it from the tokens themselves
    used = np.flatnonzero(design.any(axis=0))
    # A call of a millisecond counts as much as one of a second. Columns of like size (pairs run to millions, calls are 1) keep
    # the rank test and the solver honest.
    weighted = design[:, used] / seconds[:, None]
    scale = weighted.max(axis=0)
    scaled = weighted / scale
    if np.linalg.matrix_rank(scaled, tol=1e-6 * np.sqrt(len(samples))) < len(used):
        raise DataError(
            f"cannot fit the rates of variant {name!r}: its {len(samples)} timed calls do not vary "
            f"{', '.join(_COLUMNS[i] for i in used)} independently"
        )
    solution, _ = nnls(scaled, np.ones(len(samples)))
    return Rates(**dict(zip((_COLUMNS[i] for i in used), (float(x) for x in solution / scale), strict=True)))


def _residuals(rates: Rates, samples: Sequence[TimedCall]) -> Residuals:
    errors = np.array([rates.cost(s.usage) / s.seconds - 1 for s in samples])
    return Residuals(calls=len(samples), rms=float(np.sqrt(np.mean(errors**2))), worst=float(np.abs(errors).max()))
