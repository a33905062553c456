"""What a training of weights needs to go on where it stopped: parameters and optimizers' moments, progress, and its curve.

`progress.json` is written last and tells the number of steps, which names the state: a kill at any time leaves the checkpoint
before. Knows tensors and files, no model and no data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from bitroute.errors import ConfigError, DataError
from bitroute.store.files import write_atomic

PROGRESS: Final = "progress.json"
CURVE: Final = "curve.jsonl"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training's files in `directory`; `parameters` and `optimizers`, by name, are what its state consists of."""

    directory: Path
    parameters: Mapping[str, Tensor]
    optimizers: Mapping[str, torch.optim.Optimizer]

    def save(self, steps: int, about: Mapping[str, Any], result: Callable[[], None]) -> None:
        """Write the state after `steps`, then whatever `result` writes, and `about` as progress.json. Raises DataError when the
        disk refuses.
        """
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        state = {f"master.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for prefix, optimizer in self.optimizers.items():
            for parameter, values in optimizer.state.items():
                state |= {f"{prefix}.{key}.{names[id(parameter)]}": torch.as_tensor(value) for key, value in values.items()}
        current = self._state(steps)
        write_atomic(current, to_bytes({name: tensor.contiguous() for name, tensor in state.items()}))
        result()
        write_atomic(self.directory / PROGRESS, json.dumps(about, indent=2) + "\n")
        for old in self.directory.glob("state-*.safetensors"):
            if old != current:
                old.unlink()

    def restore(self, accept: Callable[[dict[str, Any]], list[str]]) -> None:
        """Bring parameters and optimizers to the stored state, where there is one.

        `accept` reads what progress.json holds, and names what of it another training says. Raises ConfigError for these, and
        for parameters of another shape, DataError when a file is damaged; no weight is changed then. Lines of the curve behind
        the checkpoint are taken back: they will be told again.
        """
        path, curve = self.directory / PROGRESS, self.directory / CURVE
        if not path.exists():
            return
        with _damaged(path):
            stored: dict[str, Any] = json.loads(path.read_text())
            other, steps, tokens = accept(stored), stored["progress"]["steps"], stored["progress"]["tokens"]
        _refuse(path, other)
        with _damaged(path):
            state = load_file(self._state(steps))
            master = {name: state.pop(f"master.{name}") for name in self.parameters}
            moments = []
            for key, value in state.items():
                prefix, field, name = key.split(".", 2)
                moments.append((self.optimizers[prefix], field, self.parameters[name], value))
            lines = curve.read_text().splitlines(keepends=True) if curve.exists() else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["tokens"] <= tokens]
        _refuse(path, [name for name, tensor in master.items() if tensor.shape != self.parameters[name].shape])
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(master[name])
        for optimizer, field, parameter, value in moments:
            # AdamW keeps its count of steps, a number, on the processor; a fused one keeps it where the parameter is
            moves = value.dim() > 0 or bool(optimizer.defaults.get("fused"))
            optimizer.state[parameter][field] = value.to(parameter.device) if moves else value
        if lines:
            write_atomic(curve, "".join(kept))

    def tell(self, row: Mapping[str, float]) -> None:
        """Add a line to the curve."""
        with (self.directory / CURVE).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _state(self, steps: int) -> Path:
        return self.directory / f"state-{steps}.safetensors"


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """JSON, key, type, OS and safetensors errors all mean the same to the user."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{path}: cannot continue from this checkpoint ({error}); remove the directory to start anew"
        ) from error


def _refuse(path: Path, other: Sequence[str]) -> None:
    if other:
        raise ConfigError(f"{path}: was made with another {', '.join(other)}; choose another directory or the same recipe")
