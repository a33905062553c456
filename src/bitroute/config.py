"""The configuration of an experiment: one JSON file, unknown keys refused. Every default is the full-size benchmark's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitroute.errors import ConfigError
from bitroute.training.grpo import GrpoRecipe
from bitroute.training.supervised import SupervisedRecipe

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ExperimentConfig(BaseModel):
    """The whole method on ALFWorld: which model, which precisions, how many tasks for what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path = Field(Path("models/alfworld-agent"), description="directory of the agent's language model")
    low: str = Field("w2g64-rtn", description="scheme of the low variant, fixed on `validation` before any routing")
    cache_mode: Literal["own", "shared"] = Field("own", description="one KV cache per variant, or one for all")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the products; weights are as stored")
    max_steps: Count = Field(30, description="an episode that has not succeeded by then has failed")
    budgets: tuple[Share, ...] = Field((0.1, 0.2, 0.3), description="K: mean share of steps at high precision")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="router training seeds")
    label_tasks: Count = Field(1600, description="tasks of `router-train` whose steps are labelled, in each of two rounds")
    holdout_tasks: Count = Field(300, description="tasks of `validation` labelled for the choice of tau and of the epoch")
    calibration_tasks: Count = Field(400, description="tasks of `validation` played per trial threshold")
    quantiles: tuple[Share, ...] = Field((0.7, 0.8, 0.9), description="candidates for tau, as quantiles of the divergence")
    splits: dict[str, Count] = Field({"unseen": 2000}, description="evaluated splits and their numbers of tasks")
    supervised: SupervisedRecipe = SupervisedRecipe()
    grpo: GrpoRecipe = GrpoRecipe()
    use_signals: bool = Field(True, description="give the encoder summaries of past log-probabilities besides the text")
    probe: bool = Field(True, description="train a second router that also sees the low variant's own next action, at a cost")
    baselines: tuple[str, ...] = Field(
        ("random", "periodic", "uncertainty", "past-uncertainty", "signals", "oracle"),
        description="what the router is compared with",
    )
    ablations: bool = Field(True, description="evaluate KL-ST alone and GRPO alone beside both stages")

    @classmethod
    def load(cls, path: Path) -> ExperimentConfig:
        """Read a JSON file. Raises ConfigError naming the file and each field that is wrong."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"{path}: {wrong}") from error


def demo_config(model: Path) -> ExperimentConfig:
    """Sized for minutes on two cores: one seed, one budget's ablations left out, a few hundred tasks."""
    return ExperimentConfig(
        model=model,
        budgets=(0.15, 0.3),
        seeds=(0,),
        label_tasks=320,
        holdout_tasks=96,
        calibration_tasks=128,
        quantiles=(0.8,),
        splits={"unseen": 384},
        supervised=SupervisedRecipe(epochs=5),
        grpo=GrpoRecipe(iterations=8),
        baselines=("random", "signals", "oracle"),
        probe=False,
        ablations=False,
    )
