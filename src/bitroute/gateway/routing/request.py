"""What a request asks for by its model's name, a header or its key: a budget or a variant. It knows names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bitroute.gateway.core.values import GatewayError

AUTO: Final = "auto"
_BUDGET: Final = re.compile(r"auto-(\d{1,9}(?:\.\d{0,18})?|\.\d{1,18})", re.ASCII)  # bounded: it is recorded as written


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What a request asks for: a budget to be routed within (`variant` None), or a variant by its name (`budget` None).

    `reason` is `auto` (the configured budget), `budget` (one of its own), `bypass` or `forced`. `floor` is the lowest variant
    that may serve it, whatever else is asked for.
    """

    budget: float | None
    variant: str | None
    reason: str
    floor: str | None = None


def read_request(model: str, forced: str | None, floor: str | None, *, ladder: Sequence[str], budget: float) -> RouteRequest:
    """What `model` and a forced variant (a header's or a key's) ask for; `budget` is the configured one.

    Raises GatewayError: 404 for a model that there is not, 400 for a forced variant that there is not.
    """
    requested = _of_model(model, floor, ladder, budget)
    if forced is None:
        return requested
    if forced not in ladder:
        raise GatewayError(
            400,
            f"There is no variant {forced!r} to force; there are {', '.join(ladder)}",
            code="invalid_value",
            param="x-bitroute-force",
        )
    return RouteRequest(None, forced, "forced", floor)


def _of_model(model: str, floor: str | None, ladder: Sequence[str], budget: float) -> RouteRequest:
    if model == AUTO:
        return RouteRequest(budget, None, AUTO, floor)
    if model in ladder:
        return RouteRequest(None, model, "bypass", floor)
    written = _BUDGET.fullmatch(model)
    if written and float(written[1]) <= 1.0:
        return RouteRequest(float(written[1]), None, "budget", floor)
    raise GatewayError(
        404,
        f"The model {model!r} does not exist; there are {AUTO}, {AUTO}-K with K in 0..1, and {', '.join(ladder)}",
        code="model_not_found",
        param="model",
    )
