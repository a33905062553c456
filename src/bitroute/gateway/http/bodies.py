"""What the public port's own endpoints take and give. The published description is made of the same structs."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class OutcomeReport(Struct, forbid_unknown_fields=True):
    """How an episode ended: success, a reward, or both."""

    success: bool | None = None
    reward: float | None = None


class RecordedOutcome(Struct):
    """What was kept of a report."""

    episode: str
    success: bool | None
    reward: float | None


class Model(Struct):
    """A name that a request may give as its model; `created` is in Unix seconds."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Struct):
    """All names that a request may give."""

    object: Literal["list"]
    data: list[Model]


class Health(Struct):
    """That the process lives."""

    status: Literal["ok"]


class Readiness(Struct):
    """Whether requests can be answered, and whether the gateway is about to stop."""

    ready: bool
    draining: bool
