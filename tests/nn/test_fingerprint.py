import hashlib
import struct
import weakref
from collections.abc import Iterator, Mapping

import pytest
import torch

from bitroute.nn import fingerprint as module
from bitroute.nn.fingerprint import fingerprint


def state() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "empty": torch.zeros(0, 4)}


def test_it_is_the_hash_of_names_types_shapes_and_bytes() -> None:
    digest = hashlib.sha256(b"a torch.float32 (2, 3)\n" + struct.pack("<6f", 0, 1, 2, 3, 4, 5))
    digest.update(b"b torch.int64 ()\n" + struct.pack("<q", 7) + b"empty torch.float32 (0, 4)\n")
    assert fingerprint(state()) == digest.hexdigest()


def test_order_layout_and_lossless_casts_play_no_part() -> None:
    expected = fingerprint(state())
    assert fingerprint(dict(reversed(state().items()))) == expected
    assert fingerprint(state() | {"a": torch.arange(6.0).view(2, 3).T.contiguous().T}) == expected
    assert fingerprint(state() | {"a": state()["a"].bfloat16()}) == expected
    assert fingerprint(state() | {"a": state()["a"].half()}) == expected
    assert fingerprint(state() | {"a": torch.nn.Parameter(state()["a"])}) == expected


def test_names_shapes_types_and_values_do() -> None:
    original = state()
    changed = original["a"].clone()
    changed[1, 2] = 5.0000005
    renamed = {"c": original["a"], "b": original["b"], "empty": original["empty"]}
    others = [
        original | {"a": changed},
        original | {"a": original["a"].view(3, 2)},
        original | {"a": original["a"].int()},
        original | {"extra": torch.zeros(1)},
        renamed,
    ]
    assert len({fingerprint(other) for other in [original, *others]}) == 6


def test_a_lossy_cast_is_another_set_of_weights() -> None:
    weights = {"a": torch.tensor([0.1, 0.2])}
    assert fingerprint({"a": weights["a"].bfloat16()}) != fingerprint(weights)


class Watched(Mapping[str, torch.Tensor]):
    """Makes each tensor when it is asked for, and refuses while the one before is still held."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.asked = names, list[str]()
        self.last: weakref.ref[torch.Tensor] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        assert self.last is None or self.last() is None, "the tensor before is still held"
        self.asked.append(name)
        tensor = torch.full((3, 5), float(len(name)), dtype=torch.bfloat16)
        self.last = weakref.ref(tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_tensors_are_asked_for_one_at_a_time_and_once() -> None:
    state = Watched(["ccc", "a", "bb"])
    found = fingerprint(state)
    assert state.asked == ["a", "bb", "ccc"]
    assert found == fingerprint({name: torch.full((3, 5), float(len(name))) for name in state.names})


@pytest.mark.parametrize("chunk", [1, 2, 5, 6, 7])
def test_the_size_of_the_pieces_plays_no_part(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state().items()}
    expected = fingerprint(state())
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert fingerprint(state()) == fingerprint(half) == expected
