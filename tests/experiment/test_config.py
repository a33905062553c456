import json
from pathlib import Path
from typing import Any

import pytest

from bitroute.errors import ConfigError, DataError
from bitroute.experiment.config import ExperimentConfig, demo_config


def load(directory: Path, value: Any) -> ExperimentConfig:
    path = directory / "my.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return ExperimentConfig.load(path)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, {}) == ExperimentConfig()


def test_fields_are_read_at_every_level(tmp_path: Path) -> None:
    config = load(tmp_path, {"budgets": [0.25], "splits": {"official-valid_seen": 140}, "grpo": {"price": 1, "group": 4}})
    assert config.budgets == (0.25,)
    assert config.splits == {"official-valid_seen": 140}
    assert (config.grpo.price, config.grpo.group, config.grpo.tasks) == (1.0, 4, ExperimentConfig().grpo.tasks)


@pytest.mark.parametrize(
    "config", [ExperimentConfig(), demo_config(model=Path("elsewhere")), demo_config("alfworld-2", low="w3g64-gptq", free=True)]
)
def test_what_a_run_stores_is_read_back(tmp_path: Path, config: ExperimentConfig) -> None:
    assert load(tmp_path, config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"budget": [0.1]}, "budget: no such field"),
        ({"grpo": {"iteration": 3}}, "grpo.iteration: no such field"),
        ({"supervised": {"epoch": 3}}, "supervised.epoch: no such field"),
        ({"budgets": [0.1, 1.5]}, "budgets.1: Input should be less than 1"),
        ({"budgets": [-0.1]}, "budgets.0: Input should be greater than 0"),
        ({"budgets": [1]}, "budgets.0: Input should be less than 1"),
        ({"budgets": []}, "budgets: Tuple should have at least 1 item"),
        ({"budgets": "0.3"}, "budgets: Input should be a valid array"),
        ({"quantiles": [2]}, "quantiles.0: Input should be less than 1"),
        ({"seeds": [0.5]}, "seeds.0: Input should be a valid integer"),
        ({"seeds": [0, -1]}, "seeds.1: Input should be greater than or equal to 0"),
        ({"seeds": [0, 1, 0]}, "seeds: holds a value twice"),
        ({"budgets": [0.3, 0.3]}, "budgets: holds a value twice"),
        ({"budgets": [0.03], "budget_mode": "episode"}, "budget_mode: K 0.03 of 30 steps is less than one step"),
        ({"budget_mode": "hard"}, "budget_mode: Input should be 'mean' or 'episode'"),
        ({"quantiles": [0.8, 0.8]}, "quantiles: holds a value twice"),
        ({"supervised": {"epochs": 0}}, "supervised: epochs is 0, at least 1 is needed"),
        ({"grpo": {"group": 1}}, "grpo: group is 1, at least 2 is needed"),
        ({"grpo": {"tasks": 0}}, "grpo: tasks is 0, at least 1 is needed"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"max_steps": "30"}, "max_steps: Input should be a valid integer"),
        ({"max_steps": 0}, "max_steps: Input should be greater than or equal to 1"),
        ({"label_tasks": -1}, "label_tasks: Input should be greater than or equal to 1"),
        ({"splits": {}}, "splits: Dictionary should have at least 1 item"),
        ({"splits": {"unseen": 0}}, "splits.unseen: Input should be greater than or equal to 1"),
        ({"splits": {"test": 9}}, "splits: unknown split 'test'; want lm-train, seen, "),
        ({"low": "w5g64-rtn"}, "low: scheme w5g64-rtn: 5 bits are not offered"),
        ({"low": "int4"}, "low: unknown scheme 'int4'"),
        ({"cache_mode": "both"}, "cache_mode: Input should be 'own' or 'shared'"),
        ({"dtype": "float64"}, "dtype: Input should be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ({"device": "gpu"}, "device: unknown device 'gpu'; want auto, cpu, cuda, cuda:N or mps"),
        ({"engine": "steam"}, "engine: unknown engine 'steam'; want one of torch"),
        ({"baselines": ["random", "best"]}, "baselines.1: Input should be 'random', "),
        ({"ablations": ["both"]}, "ablations.0: Input should be 'kl-st', 'grpo' or 'paper'"),
        ({"grpo": {"tasks": "many"}}, "grpo.tasks: Input should be a valid integer"),
        ([], "Input should be an object"),
        ("{", "Invalid JSON: "),
    ],
)
def test_what_is_wrong_is_named_with_its_file_in_one_line(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, value)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'my.json'}: {message}"), text
    assert "\n" not in text


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"low: .*; max_steps: .*; foo: no such field"):
        load(tmp_path, {"foo": 1, "low": "x", "max_steps": 0})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"budgets": [1.5]}, "budgets.0: Input should be less than 1"),
        ({"splits": {"seen": 0}}, "splits.seen: Input should be greater than or equal to 1"),
        ({"budgets": []}, "budgets: Tuple should have at least 1 item after validation, not 0"),
    ],
)
def test_a_wrong_item_is_not_told_of_as_a_missing_one(tmp_path: Path, value: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, value)
    assert str(caught.value) == f"{tmp_path / 'my.json'}: {told}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: No such file or directory"):
        ExperimentConfig.load(tmp_path / "none.json")


def test_an_experiment_goes_on_elsewhere() -> None:
    config = ExperimentConfig()
    assert (config.device, config.dtype, config.engine) == ("auto", "float32", "torch")
    assert config.on(None) is config
    assert config.on("cuda:1") == config.model_copy(update={"device": "cuda:1"})
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        config.on("gpu")


def test_a_hard_budget_is_in_whole_steps(tmp_path: Path) -> None:
    config = load(tmp_path, {"budgets": [0.1, 0.29], "budget_mode": "episode"})
    assert [config.limit(k) for k in config.budgets] == [3, 8]  # 0.1 * 30 is 3 exactly, or a little less
    assert load(tmp_path, {}).limit(0.1) is None
