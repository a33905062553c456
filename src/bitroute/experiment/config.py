"""The configuration of an experiment: one JSON file, unknown keys refused. Every default is the full-size benchmark's.

It knows what may be written there, and runs nothing. docs/reference/config.md explains every field.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from bitroute.engines.registry import check_scheme, find_engine_kind
from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.envs.suite import Demonstrating, Role, Suite, split_for
from bitroute.errors import ConfigError, DataError
from bitroute.nn.device_names import Dtype, check_device
from bitroute.training.recipes import GrpoRecipe, SupervisedRecipe

DEMO_TASKS: Final = 512  # that `bitroute demo` evaluates

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]  # K = 0 and K = 1 are the all-low and all-high rows of every table
T = TypeVar("T", str, tuple[str, ...])
Recipe = TypeVar("Recipe", SupervisedRecipe, GrpoRecipe)
Baseline = Literal[
    "random",
    "periodic",
    "first-k",
    "repetition",
    "entropy",
    "margin",
    "past-entropy",
    "past-margin",
    "verify",
    "signals",
    "oracle",
]

Ablation = Literal["kl-st", "grpo", "paper"]


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """Lets `check` look at a value; its ConfigError becomes a complaint about the field."""

    def validate(value: str) -> str:
        try:
            check(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    return AfterValidator(validate)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a value that stands there twice: two rows of a table would have one name."""
    if len(set(values)) < len(values):
        raise ValueError("holds a value twice")
    return values


def _suited(field: str, description: str) -> Any:
    """A field whose default is the suite's, by the name of `SuiteDefaults`."""
    return Field(default_factory=lambda known: getattr(load_suite(known["suite"]).defaults, field), description=description)


def _other_quantiser(suite: str, low: str) -> tuple[str, ...]:
    """The scheme of the same bits and groups by the other quantiser; none where `low` is another engine's, or nothing shows
    GPTQ what the model reads.
    """
    stem, _, method = low.rpartition("-")
    other = {"rtn": "gptq", "gptq": "rtn"}.get(method)
    return (f"{stem}-{other}",) if other and isinstance(load_suite(suite), Demonstrating) else ()


def _recipe(**least: int) -> AfterValidator:
    """Refuse a recipe with a field below its least value."""

    def validate(recipe: Recipe) -> Recipe:
        for name, bound in least.items():
            if getattr(recipe, name) < bound:
                raise ValueError(f"{name} is {getattr(recipe, name)}, at least {bound} is needed")
        return recipe

    return AfterValidator(validate)


class ExperimentConfig(BaseModel):
    """The whole method on one suite: which model, which precisions, how many tasks for what.

    What is not said is the suite's default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: Annotated[str, _checked(load_suite)] = Field(DEFAULT, description="environment with its tasks, agent and models")
    data: Path | None = Field(
        None, description="directory of the files that the suite's publisher offers; by default where the suite looks itself"
    )
    model: Path = _suited("model", "the agent's language model: a bundled one's name, or a directory")
    engine: Annotated[str, _checked(find_engine_kind)] = Field(
        "torch", description="kind of engine that hosts the model: torch, or one that an installed package adds"
    )
    low: str = _suited("low", "scheme of the low variant, fixed on validation before any routing")
    beside: Annotated[tuple[str, ...], AfterValidator(_distinct)] = Field(
        default_factory=lambda known: _other_quantiser(known["suite"], known["low"]),
        description="schemes whose variants play alone beside the others; by default the other quantiser's at low's bits",
    )
    cost: str = Field(
        "auto",
        description="what costs are measured with: a profile's file, engine (this run's own is timed), or auto, the profile "
        "for llama.cpp that comes with the model, engine where none does",
    )
    cache_mode: Literal["own", "shared"] = Field("own", description="one KV cache per variant, or one for all")
    dtype: Dtype = Field(
        "float32",
        description="arithmetic of the products, weights are as stored; auto measures which of float32 and bfloat16 is faster",
    )
    device: Annotated[str, _checked(check_device)] = Field(
        "auto", description="where to play and train: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps"
    )
    free: bool = Field(
        False, description="let the model write freely wherever it plays, not only admissible commands; labels follow"
    )
    max_steps: Count = _suited("max_steps", "an episode that has not succeeded by then has failed")
    budgets: Annotated[tuple[Share, ...], Field(min_length=1), AfterValidator(_distinct)] = _suited(
        "budgets", "K: mean share of steps at high precision, strictly between 0 and 1"
    )
    budget_mode: Literal["mean", "episode"] = Field(
        "mean", description="K bounds the mean over episodes; or besides each episode, at K * max_steps steps, rounded down"
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_distinct)] = Field(
        (0, 1, 2), min_length=1, description="whole pipelines, each on tasks of its own: labels, tau, routers, thresholds"
    )
    label_tasks: Count = Field(
        1600, description="tasks of the training split whose steps are labelled, in each of two rounds, per seed"
    )
    holdout_tasks: Count = Field(300, description="tasks of the validation split labelled to choose tau and the epoch")
    calibration_tasks: Count = Field(400, description="tasks of the validation split played per trial threshold")
    quantiles: Annotated[tuple[Share, ...], AfterValidator(_distinct)] = Field(
        (0.7, 0.8, 0.9), min_length=1, description="candidates for tau, as quantiles of the divergence"
    )
    branches: Annotated[int, Field(ge=0)] = Field(
        3000, description="states of low's own episodes where one step at high is played out, per seed; 0: none"
    )
    mixes: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], AfterValidator(_distinct)] = Field(
        (0.0, 0.5, 1.0), min_length=1, description="candidates for the part of the targets that is the measured effect"
    )
    splits: Annotated[dict[str, Count], Field(min_length=1)] = Field(
        default_factory=lambda known: {split_for(load_suite(known["suite"]), Role.TEST): 2000},
        description="evaluated splits and their numbers of tasks; by default 2000 of the test split",
    )
    supervised: Annotated[SupervisedRecipe, _recipe(epochs=1, batch=1, seed=0)] = Field(
        SupervisedRecipe(), description="stage 1, KL-ST"
    )
    grpo: Annotated[GrpoRecipe, _recipe(iterations=0, tasks=1, group=2, screen=0, passes=1, seed=0)] = Field(
        GrpoRecipe(), description="stage 2, GRPO"
    )
    backbone: Path | None = _suited(
        "backbone", "small language model of trajectories that the encoder starts from: a bundled one's name, or a directory"
    )
    use_signals: bool = Field(True, description="give the encoder summaries of past log-probabilities besides the text")
    use_features: bool = Field(
        True,
        description="give the encoder the features that a rule would look at (repetition, failure, novelty, progress) as well",
    )
    probe: bool = Field(True, description="train a second router that also sees the low variant's own next action, at a cost")
    baselines: tuple[Baseline, ...] = Field(get_args(Baseline), description="what the router is compared with")
    ablations: Annotated[tuple[Ablation, ...], AfterValidator(_distinct)] = Field(
        ("kl-st", "grpo"),
        description="what is trained and evaluated beside both stages: kl-st and grpo, each alone; paper, its form of stage 2",
    )

    @field_validator("low", "beside")
    @classmethod
    def _hosted(cls, value: T, known: ValidationInfo) -> T:
        """Refuse a variant that the engine does not know."""
        if "engine" in known.data:
            for scheme in (value,) if isinstance(value, str) else value:
                try:
                    check_scheme(known.data["engine"], scheme)
                except ConfigError as error:
                    raise ValueError(str(error)) from error
        return value

    @field_validator("splits")
    @classmethod
    def _known(cls, splits: dict[str, int], known: ValidationInfo) -> dict[str, int]:
        """Refuse a split that the suite does not have."""
        if "suite" in known.data:
            suite = load_suite(known.data["suite"])
            for split in splits:
                try:
                    suite.check(split)
                except ConfigError as error:
                    raise ValueError(str(error)) from error
        return splits

    @field_validator("budget_mode")
    @classmethod
    def _affordable(cls, mode: str, known: ValidationInfo) -> str:
        """Refuse a hard budget of no step at all."""
        if mode == "episode":
            for budget in known.data.get("budgets", ()):
                if not whole_steps(budget, known.data.get("max_steps", 0)):
                    raise ValueError(f"K {budget:g} of {known.data.get('max_steps', 0)} steps is less than one step")
        return mode

    def limit(self, budget: float) -> int | None:
        """Steps at high precision that an episode may have at most under the budget; None where only the mean counts."""
        return whole_steps(budget, self.max_steps) if self.budget_mode == "episode" else None

    def on(self, device: str | None) -> ExperimentConfig:
        """The same experiment on another device; None leaves it where it is. Raises ConfigError for an unknown form."""
        if device is None:
            return self
        check_device(device)
        return self.model_copy(update={"device": device})

    def open_suite(self) -> Suite:
        """The suite with its data."""
        return load_suite(self.suite, self.data)

    @classmethod
    def load(cls, path: Path) -> ExperimentConfig:
        """Read a JSON file. Raises ConfigError naming the file and each field that is wrong, DataError where it is missing."""
        try:
            return cls.model_validate_json(path.read_bytes(), strict=True)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            problems = [p for p in error.errors() if p["type"] != "default_factory_not_called"]
            problems = [p for p in problems if p["type"] != "too_short" or not p["input"]]  # all of it is wrong, and told of
            raise ConfigError(f"{path}: {'; '.join(map(_sentence, problems))}") from error


def whole_steps(budget: float, max_steps: int) -> int:
    """The whole steps in a share of `max_steps`; 0.1 of 30 are 3, whatever floating point says."""
    return int(budget * max_steps + 1e-9)


def _sentence(problem: ErrorDetails) -> str:
    """Field and complaint, e.g. "budgets.0: Input should be less than 1"."""
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: no such field"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def demo_config(
    suite: str = DEFAULT,
    model: Path | None = None,
    tasks: int = DEMO_TASKS,
    dtype: Dtype = "float32",
    low: str | None = None,
    *,
    free: bool = False,
) -> ExperimentConfig:
    """Sized for minutes on two cores with the suite's model: one seed, one budget, a few hundred tasks, no ablations.

    `model` and `low` None are the suite's. Raises ConfigError for a scheme that the engine does not know.

    `tasks` are evaluated; the stages before take tasks in proportion, and never none.
    """

    def share(count: int) -> int:
        return max(1, round(count * tasks / DEMO_TASKS))

    if low is not None:
        check_scheme("torch", low)

    return ExperimentConfig(
        suite=suite,
        model=model or load_suite(suite).defaults.model,
        low=low or load_suite(suite).defaults.low,
        free=free,
        dtype=dtype,
        budgets=(0.3,),
        seeds=(0,),
        label_tasks=share(320),
        holdout_tasks=share(96),
        calibration_tasks=share(192),
        quantiles=(0.8,),
        splits={split_for(load_suite(suite), Role.TEST): tasks},
        supervised=SupervisedRecipe(epochs=4),
        branches=share(600),
        mixes=(1.0,),
        grpo=GrpoRecipe(iterations=8, tasks=max(2, share(8)), screen=share(320)),
        baselines=("random", "repetition", "margin", "signals", "oracle"),
        ablations=(),
    )
