"""How devices and dtypes are called in options and configurations. Knows names; torch and the machine are nn/device.py's."""

from __future__ import annotations

from typing import Final, Literal, get_args

from bitroute.errors import ConfigError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: Final[tuple[str, ...]] = get_args(Dtype)


def check_device(device: str) -> None:
    """Raise ConfigError unless `device` has a known form; whether this machine has it is found out where it is used."""
    kind, colon, number = device.partition(":")
    numbered = kind == "cuda" and bool(colon) and number.isascii() and number.isdecimal()
    if device not in ("auto", "cpu", "cuda", "mps") and not numbered:
        raise ConfigError(f"unknown device {device!r}; want auto, cpu, cuda, cuda:N or mps")


def check_dtype(dtype: str) -> None:
    """Raise ConfigError unless `dtype` is one of DTYPES."""
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; want {', '.join(DTYPES)}")
