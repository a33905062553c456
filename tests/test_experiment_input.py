import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitroute.config import ExperimentConfig
from bitroute.engines.qwen3 import Qwen3
from bitroute.errors import ConfigError, DataError
from bitroute.experiment import experiment
from support.checkpoint import CONFIG, write_checkpoint


def test_a_backbone_that_is_missing_or_too_small_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    missing = ExperimentConfig(model=model, backbone=tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere"), experiment(missing, tmp_path / "run", 1):
        pass
    small = tmp_path / "small"
    small.mkdir()
    shape = replace(CONFIG, vocab_size=64)
    (small / "config.json").write_text(json.dumps(shape.to_json(end_token=1, pad_token=0)))
    save_file({n: p.detach().to(torch.bfloat16) for n, p in Qwen3(shape).named_parameters()}, small / "model.safetensors")
    few = ExperimentConfig(model=model, backbone=small)
    message = r"small: has 64 tokens, the tokenizer of .*model 7\d\d"
    with pytest.raises(ConfigError, match=message), experiment(few, tmp_path / "run", 1):
        pass
    assert not (tmp_path / "run").exists()
