import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitroute.cli.main import main
from bitroute.errors import ConfigError, DataError
from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.experiment import experiment
from bitroute.nn.checkpoint import config_json
from bitroute.nn.decoder import Decoder
from support.checkpoint import CONFIG, write_checkpoint


@pytest.mark.slow
def test_a_backbone_that_is_missing_or_too_small_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    missing = ExperimentConfig(model=model, backbone=tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere"), experiment(missing, tmp_path / "run", 1):
        pass
    small = tmp_path / "small"
    small.mkdir()
    shape = replace(CONFIG, vocab_size=64)
    (small / "config.json").write_text(json.dumps(config_json(shape, end_token=1, pad_token=0)))
    save_file({n: p.detach().to(torch.bfloat16) for n, p in Decoder(shape).named_parameters()}, small / "model.safetensors")
    few = ExperimentConfig(model=model, backbone=small)
    message = r"small: has 64 tokens, the tokenizer of .*model 7\d\d"
    with pytest.raises(ConfigError, match=message), experiment(few, tmp_path / "run", 1):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stored", ['{"router": "random:0.3", "split": "unseen"}', '{"model_type": "qwen3"}', "{}"])
def test_what_is_no_experiment_is_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: str) -> None:
    (tmp_path / "config.json").write_text(stored)
    for command in ("evaluate", "report"):
        assert main([command, str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"bitroute: {tmp_path}: holds no run of bitroute train router or bitroute demo\n"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (
            '{"budgets": ',
            "damaged (Expecting value: line 1 column 13 (char 12)); put a copy of it back, or start anew with another --out",
        ),
        ("[1]", "is no configuration of a run; choose another --out"),
        ("1", "is no configuration of a run; choose another --out"),
    ],
)
def test_a_damaged_configuration_of_a_run_is_told_in_one_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: str, told: str
) -> None:
    (tmp_path / "config.json").write_text(stored)
    for command in (["evaluate", str(tmp_path)], ["report", str(tmp_path)], ["train", "router", "--out", str(tmp_path)]):
        assert main(command) == 3
        assert capsys.readouterr().err == f"bitroute: {tmp_path / 'config.json'}: {told}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_training_without_end_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lm", "--tokens", "inf", "--out", str(tmp_path / "lm")]) == 2
    assert "--tokens inf: a training ends" in capsys.readouterr().err
    assert not (tmp_path / "lm").exists()
