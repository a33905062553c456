"""Packages as users install them: a module and the metadata that registers it, in a directory on the path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


def install(
    monkeypatch: pytest.MonkeyPatch, directory: Path, package: str, group: str, name: str, value: str, code: str
) -> None:
    """Install `package` into `directory` for the length of a test: `code` is the module before the colon of `value`."""
    module = value.partition(":")[0]
    monkeypatch.delitem(sys.modules, module, raising=False)  # another test's package of the same name
    metadata = directory / f"{package.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (directory / f"{module}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(directory))
    importlib.invalidate_caches()
