"""Tables of features: recorded steps without their text, as JSON Lines. It knows the rows, not who made or who reads them.

A line reads `{"schema":1,"step":{...}}` with the fields of `FeatureRow` by name, so files may be concatenated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from bitroute.errors import DataError

SCHEMA: Final = 1
_PREFIX: Final = b'{"schema":%d,"step":' % SCHEMA


class FeatureRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answered step. `features` are routers.features.FEATURES, `success` None where none was reported.

    `variant` is the one that was decided on with probability `propensity`, `answered` the one that answered, `intended` what
    the router chose by itself.
    """

    episode: str
    step: int
    policy: str
    arm: str
    ladder: tuple[str, ...]
    features: tuple[float, ...]
    variant: str
    answered: str
    intended: str
    propensity: float
    flipped: bool
    score: float | None
    cost: float
    success: bool | None
    reward: float | None


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal[1]
    step: FeatureRow


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)


def feature_line(row: FeatureRow) -> bytes:
    """The line of one step, with its end."""
    return _encoder.encode(_Line(SCHEMA, row)) + b"\n"


def is_features(path: Path) -> bool:
    """Whether a file begins as a table of features. Raises DataError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_PREFIX)) == _PREFIX
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def read_features(path: Path) -> Iterator[FeatureRow]:
    """The rows in order. Raises DataError naming file and line for what is none."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield _decoder.decode(line).step
            except msgspec.MsgspecError as error:
                raise DataError(f"{path}, line {number}: not a row of features ({error})") from error
