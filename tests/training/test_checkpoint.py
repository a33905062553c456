"""A training's files: what comes back, what is refused and leaves the weights alone, what a kill leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitroute.errors import ConfigError, DataError
from bitroute.training.checkpoint import CURVE, PROGRESS, Checkpoint

RATE = 0.1


def training(directory: Path, shape: tuple[int, ...] = (3, 2), *, fused: bool = False) -> Checkpoint:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(shape))
    optimizer = torch.optim.AdamW([weight], lr=RATE)
    optimizer.defaults["fused"] = fused
    return Checkpoint(directory, {"weight": weight}, {"adamw": optimizer})


def learn(checkpoint: Checkpoint, steps: int = 2) -> None:
    for _ in range(steps):
        weight = checkpoint.parameters["weight"]
        weight.grad = weight.detach() - 1.0
        checkpoint.optimizers["adamw"].step()


def about(steps: int, recipe: str = "ours") -> dict[str, Any]:
    return {"recipe": recipe, "progress": {"steps": steps, "tokens": 10 * steps}}


def accept(stored: dict[str, Any]) -> list[str]:
    return [] if stored["recipe"] == "ours" else ["recipe"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    first = training(tmp_path)
    learn(first)
    for tokens in (10, 20, 30):
        first.tell({"tokens": tokens})
    first.save(2, about(2), lambda: None)
    return tmp_path


def test_a_training_goes_on_as_if_it_had_not_stopped(saved: Path) -> None:
    whole, again = training(saved), training(saved)
    learn(whole, 5)
    again.restore(accept)
    learn(again, 3)
    assert torch.equal(whole.parameters["weight"], again.parameters["weight"])
    assert [json.loads(line)["tokens"] for line in (saved / CURVE).read_text().splitlines()] == [10, 20]
    training(saved / "elsewhere").restore(accept)  # nothing is there


@pytest.mark.parametrize("fused", [False, True])
def test_the_count_of_steps_goes_where_the_optimizer_keeps_it(saved: Path, fused: bool) -> None:
    """AdamW keeps it on the processor whatever the parameter's device, a fused one beside the parameter."""
    again = training(saved, fused=fused)
    on_meta = torch.nn.Parameter(torch.empty(3, 2, device="meta"))
    optimizer = again.optimizers["adamw"]
    moved = Checkpoint(saved, {"weight": on_meta}, {"adamw": optimizer})
    moved.restore(accept)
    state = optimizer.state[on_meta]
    assert state["exp_avg"].device.type == "meta"
    assert state["step"].device.type == ("meta" if fused else "cpu")


def broken_state(directory: Path) -> None:
    (directory / "state-2.safetensors").write_bytes(b"no tensors")


def foreign_state(directory: Path) -> None:
    state = load_file(directory / "state-2.safetensors")
    save_file({key.removeprefix("adamw."): value for key, value in state.items()}, directory / "state-2.safetensors")


def broken_curve(directory: Path) -> None:
    (directory / CURVE).write_text("{\n")


def broken_progress(directory: Path) -> None:
    (directory / PROGRESS).write_text('{"recipe": "ours"}')


@pytest.mark.parametrize("damage", [broken_state, foreign_state, broken_curve, broken_progress])
def test_a_damaged_checkpoint_is_told_by_its_name_and_changes_nothing(saved: Path, damage: Any) -> None:
    damage(saved)
    again = training(saved)
    with pytest.raises(DataError, match=r"progress\.json: cannot continue from this checkpoint"):
        again.restore(accept)
    assert torch.equal(again.parameters["weight"], training(saved).parameters["weight"])


def test_what_another_training_made_is_refused_before_its_state_is_looked_at(saved: Path) -> None:
    broken_state(saved)
    (saved / PROGRESS).write_text(json.dumps(about(2, "theirs")))
    with pytest.raises(ConfigError, match="was made with another recipe; choose another directory"):
        training(saved).restore(accept)


def test_parameters_of_another_shape_are_refused(saved: Path) -> None:
    with pytest.raises(ConfigError, match="was made with another weight"):
        training(saved, (2, 3)).restore(accept)


def test_a_kill_before_progress_is_written_leaves_the_checkpoint_before(saved: Path) -> None:
    later = training(saved)
    later.restore(accept)
    learn(later)

    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        later.save(4, about(4), killed)
    again = training(saved)
    again.restore(accept)
    learn(again)
    assert torch.equal(again.parameters["weight"], later.parameters["weight"])
    again.save(4, about(4), lambda: None)
    assert [path.name for path in saved.glob("state-*")] == ["state-4.safetensors"]
