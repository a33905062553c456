"""What an episode costs: rates per token and per call of each variant, and per routing decision. It knows numbers, no clock.

The default is the paper's call count (a step at the highest precision costs 1, at the lowest 0). Measured models are fitted
from timed calls and saved as JSON, so that a table says which machine its costs hold for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError
from scipy.optimize import nnls

from bitroute.episode import Episode, Usage
from bitroute.errors import CapabilityError, DataError
from bitroute.store.files import write_atomic

_COLUMNS = ("call", "prefill", "cached", "decode")


@dataclass(frozen=True, slots=True)
class TimedCall:
    """One timed call of a variant: what it processed and the seconds that took."""

    usage: Usage
    seconds: float


class Rates(BaseModel):
    """The rates of one variant, in the cost model's unit: per call, and per token prefilled, found cached, decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    call: NonNegativeFloat = 0.0
    prefill: NonNegativeFloat = 0.0
    cached: NonNegativeFloat = 0.0
    decode: NonNegativeFloat = 0.0


class CostModel(BaseModel):
    """Rates by variant; `decisions` gives the cost of one decision by policy name (a policy not listed decides for free)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: str
    variants: Mapping[str, Rates]
    decisions: Mapping[str, NonNegativeFloat] = {}

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
        """Rates by non-negative least squares from timed calls, each variant by itself.

        `decisions` are mean seconds per decision by policy, measured elsewhere. Raises DataError when a variant's samples
        cannot tell the rates apart (too few, or two counts always in the same proportion) or hold a time that is not positive.
        """
        grouped: dict[str, list[TimedCall]] = {}
        for sample in samples:
            grouped.setdefault(sample.usage.variant, []).append(sample)
        if not grouped:
            raise DataError("cannot fit a cost model: no timed calls were given")
        return cls(
            unit=unit,
            variants={name: _fit_rates(name, group) for name, group in grouped.items()},
            decisions=dict(decisions or {}),
        )

    def cost(self, usages: Iterable[Usage]) -> float:
        """The summed cost of calls, in `unit`. Raises CapabilityError for a variant without rates."""
        total = 0.0
        for usage in usages:
            rates = self.variants.get(usage.variant)
            if rates is None:
                known = ", ".join(self.variants)
                raise CapabilityError(f"the cost model has no rates for variant {usage.variant!r} (it knows {known})")
            total += rates.call + rates.prefill * usage.prefill + rates.cached * usage.cached + rates.decode * usage.decode
        return total

    def episode(self, episode: Episode, policy: str | None = None) -> float:
        """The cost of a played episode: generation, the router's probes, and its decisions.

        `policy` is the name to look decisions up by, the episode's own when None.
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


def _fit_rates(name: str, samples: Sequence[TimedCall]) -> Rates:
    design = np.array([(1, s.usage.prefill, s.usage.cached, s.usage.decode) for s in samples], dtype=np.float64)
    seconds = np.array([s.seconds for s in samples], dtype=np.float64)
    if not np.all(np.isfinite(seconds)) or np.any(seconds <= 0):
        raise DataError(f"cannot fit the rates of variant {name!r}: a timed call took no positive number of seconds")
    used = np.flatnonzero(design.any(axis=0))
    # Columns of like size (cached tokens run to thousands, calls are 1) keep the rank test and the solver honest.
    scale = design[:, used].max(axis=0)
    scaled = design[:, used] / scale
    if np.linalg.matrix_rank(scaled, tol=1e-6 * np.sqrt(len(samples))) < len(used):
        raise DataError(
            f"cannot fit the rates of variant {name!r}: its {len(samples)} timed calls do not vary "
            f"{', '.join(_COLUMNS[i] for i in used)} independently"
        )
    solution, _ = nnls(scaled, seconds)
    return Rates(**dict(zip((_COLUMNS[i] for i in used), (float(x) for x in solution / scale), strict=True)))
