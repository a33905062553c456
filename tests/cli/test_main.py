import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import bitroute
from bitroute.cli.main import app, main
from bitroute.engines import loading
from bitroute.envs.registry import load_suite
from bitroute.experiment.config import ExperimentConfig
from bitroute.nn.tokenizer import Tokenizer
from bitroute.quantization.scheme import Scheme
from bitroute.rollout import workers as workers_module
from bitroute.rollout.workers import Hosting, Play, Shard, Workers
from bitroute.routers.encoder.network import EncoderNetwork, encoder_config
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.kinds import BUILT_IN, GROUP
from bitroute.store.traces import read_traces
from bitroute.training import language_model
from support.checkpoint import CONFIG
from support.players import here
from support.plugins import install

Run = Callable[..., tuple[int, str, str]]
LOW = ExperimentConfig().low


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("play", "--tasks", 3) is (exit code, stdout, stderr) of the command, given in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFWORLD_DATA", "")  # whatever this machine has, no official games here

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Shard]:
    """Episodes are played in this process; the shards that were."""
    log: list[Shard] = []

    @contextmanager
    def one_process(load: Callable[[Hosting], Play], host: Hosting, count: int | None = None) -> Iterator[Workers]:
        yield Workers(here(load(host), log))

    monkeypatch.setattr(workers_module, "workers", one_process)
    return log


def commands(group: Any = None, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every command with its name's words, groups included."""
    group = group or typer.main.get_command(app)
    found = [(path, group)]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*path, name))
    return found


def bad_input(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """The command failed with `code` and one line that says all of `parts`."""
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].startswith("bitroute: ") and result[2].count("\n") == 1, result[2]
    for part in parts:
        assert part in result[2]


# Help


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_help_teaches_every_option_by_example(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words, "--help")
    assert (code, err) == (0, "")
    command = dict(commands())[words]
    for parameter in command.params:
        assert parameter.name in ("help", "version") or parameter.help
        assert parameter.opts[0] in out
    if not hasattr(command, "commands"):
        assert f"\n    bitroute {' '.join(words)}" in out.partition("Examples:")[2]


def test_commands_follow_the_flow(run: Run) -> None:
    flow = [
        "quantize",
        "profile",
        "play",
        "sensitivity",
        "train",
        "evaluate",
        "report",
        "demo",
        "serve",
        "keys",
        "export",
        "estimate",
    ]
    listed = run("--help")[1].partition("Commands:\n")[2].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == flow
    assert set(typer.main.get_command(app).commands) == set(flow)  # type: ignore[attr-defined]
    assert not any(line.endswith("...") for line in listed)


def test_defaults_are_those_of_the_benchmark() -> None:
    defaults = {p.name: p.default for words, c in commands() if words in (("play",), ("sensitivity",)) for p in c.params}
    benchmark = ExperimentConfig()
    assert (defaults["suite"], defaults["cache_mode"]) == (benchmark.suite, benchmark.cache_mode)
    suited = load_suite(benchmark.suite).defaults
    for name in ("low", "model", "max_steps"):
        assert defaults[name] is None  # the suite's
        assert getattr(benchmark, name) == getattr(suited, name)


def test_help_of_play_explains_every_router(run: Run) -> None:
    text = run("play", "--help")[1].partition("Routers (--router):\n")[2]
    for kind in BUILT_IN.values():
        assert f"\n  {kind.form}" in "\n" + text
    assert " ".join(BUILT_IN["first-k"].help.split()) in " ".join(text.split())


def test_help_of_serve_explains_the_routers_that_a_gateway_can_ask(run: Run) -> None:
    text = "\n" + run("serve", "--help")[1].partition("Routers (--router):\n")[2]
    assert "\n  heuristic" in text and "\n  oracle" not in text


def test_help_explains_the_routers_of_other_packages(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "from bitroute.routers.kinds import Kind\nKIND = Kind(name='odd', form='odd:RUNG', help='one rung', load=print)\n"
    install(monkeypatch, tmp_path / "odd", "bitroute-odd", GROUP, "odd", "odd_router:KIND", kind)
    install(monkeypatch, tmp_path / "broken", "bitroute-broken", GROUP, "broken", "broken_router:KIND", "raise ValueError")
    code, out, err = run("play", "--help")
    assert code == 0 and "odd:RUNG" in out and "broken" not in out and not err


def test_without_a_command_there_is_help(run: Run) -> None:
    assert run() == run("--help")
    for group in ("train", "keys"):
        assert run(group) == run(group, "--help")


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"{bitroute.__version__}\n", "")


def script(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_help_imports_nothing_that_is_slow_or_an_extra(tmp_path: Path) -> None:
    code = "import sys; from bitroute.cli.main import main; main(['play', '--help']); print(*sys.modules)"
    done = script(code, tmp_path)
    assert done.returncode == 0
    loaded = set(done.stdout.rpartition("\n\n")[2].split())
    assert not loaded & {"torch", "numpy", "scipy", "tokenizers", "safetensors", "msgspec"}


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [("torch", "play", "torch"), ("tokenizers", "sensitivity", "torch"), ("matplotlib", "demo", "report")],
)
def test_a_missing_extra_is_one_line_that_says_how_to_install_it(
    tmp_path: Path, missing: str, command: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom bitroute.cli.main import main; sys.exit(main([{command!r}]))"
    done = script(code, tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("bitroute: ") and done.stderr.count("\n") == 1
    assert missing in done.stderr and f"pip install 'bitroute[{extra}]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


NOWHERE = "model nowhere: no such directory, nor one of the bundled models alfworld-agent, alfworld-agent-goals, "


@pytest.mark.parametrize(
    "command",
    [
        "play --model nowhere",
        "sensitivity --model nowhere",
        "quantize w4g64-rtn --model nowhere",
        "demo --model nowhere",
        "train lm --tokenizer nowhere",
        "train router --traces traces.jsonl --model nowhere --low w2g128-rtn",
        "train router --config model.json",
        "train router --config backbone.json",
        "evaluate run",
        "report run",
    ],
)
def test_a_missing_model_is_told_in_one_way_and_before_torch_is_imported(tmp_path: Path, command: str) -> None:
    (tmp_path / "traces.jsonl").write_text('{"schema":1,"episode":{}}\n')
    (tmp_path / "model.json").write_text('{"model": "nowhere"}')
    (tmp_path / "backbone.json").write_text('{"backbone": "nowhere"}')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": "nowhere", "budgets": [0.1]}')
    code = f"import sys; sys.modules['torch'] = None\nfrom bitroute.cli.main import main; sys.exit(main({command.split()!r}))"
    done = script(code, tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"bitroute: {NOWHERE}") and done.stderr.count("\n") == 1, done.stderr


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--tasks", "0"], 2, ["--tasks", "greater than or equal to 1"]),
        (["--task", "3"], 2, ["No such option: --task"]),
        (["--cache-mode", "both"], 2, ["--cache-mode", "'own', 'shared'"]),
        (["--data", "nowhere"], 2, ["--data", "nowhere"]),
        (["--low", "w5g64-rtn"], 2, ["w5g64-rtn", "5 bits are not offered"]),
        (["--low", "int4"], 2, ["unknown scheme 'int4'"]),
        (["--split", "test"], 2, ["unknown split 'test'", "router-train", "official-valid_seen"]),
        (["--split", "official-valid_seen"], 2, ["ALFWORLD_DATA"]),
        (["--router", "best"], 2, ["--router best: unknown router", "uncertainty"]),
        (["--router", "random:1.5"], 2, ["--router random:1.5", "outside 0..1"]),
        (["--router", "periodic:-1"], 2, ["--router periodic:-1", "outside 0..1"]),
        (["--router", "random:often"], 2, ["bitroute: --router random:often: write it as random:SHARE"]),
        (["--router", "always:w4g64-rtn"], 4, ["unknown variant 'w4g64-rtn'", f"{LOW}, bf16"]),
        (["--router", "routers/none"], 3, ["bitroute: --router routers/none: no such file or directory"]),
        (["--router", "random:0.3", "--threshold", "1"], 2, ["--threshold 1.0", "does not score"]),
        (["--router", "oracle", "--threshold", "nan"], 2, ["thresholds (nan,)"]),
        (["--model", "nowhere"], 3, ["model nowhere"]),
        (["--engine", "steam"], 2, ["unknown engine 'steam'; want one of torch"]),
        (["--device", "gpu"], 2, ["unknown device 'gpu'"]),
        (["--device", "cuda:99"], 4, ["device cuda:99: torch sees", "use --device auto or cpu"]),
        (["--dtype", "int8"], 2, ["--dtype", "'bfloat16'"]),
    ],
)
def test_wrong_flags_are_named_and_nothing_is_written(
    run: Run, tiny_model: Path, tmp_path: Path, arguments: list[str], code: int, parts: Sequence[str]
) -> None:
    bad_input(run("play", "--model", tiny_model, *arguments), code, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["evaluate", "nowhere"], ["report", "nowhere"]])
def test_a_run_that_is_not_there(run: Run, tmp_path: Path, command: list[str]) -> None:
    bad_input(run(*command), 3, "nowhere: no run is here (config.json is missing)", "bitroute train router")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command(run: Run) -> None:
    bad_input(run("plau"), 2, "No such command 'plau'", "play")


@pytest.mark.parametrize(
    ("config", "code", "parts"),
    [
        ({"budgets": [1.3]}, 2, ["my.json: budgets.0"]),
        ({"bugdets": [0.3]}, 2, ["my.json: bugdets: no such field"]),
        ({"splits": {"test": 3}}, 2, ["my.json: splits: unknown split"]),
        ({"model": "nowhere"}, 3, ["model nowhere"]),
        ({"splits": {"official-valid_seen": 3}}, 2, ["ALFWORLD_DATA"]),
        ("{", 2, ["my.json: Invalid JSON"]),
        ({"data": "/nonexistent"}, 2, ["data: /nonexistent: no such directory"]),
        (None, 3, ["my.json: No such file"]),
    ],
)
def test_a_wrong_configuration_is_named_and_nothing_is_written(
    run: Run, tiny_model: Path, tmp_path: Path, config: Any, code: int, parts: Sequence[str]
) -> None:
    mine = tmp_path / "my.json"
    if config is not None:
        mine.write_text(
            config if isinstance(config, str) else json.dumps({"model": str(tiny_model), "backbone": None, **config})
        )
    bad_input(run("train", "router", "--config", "my.json"), code, *parts)
    assert [p.name for p in tmp_path.iterdir()] == ["my.json"] * (config is not None)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_truncated_model_is_named(run: Run, tiny_model: Path, tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / name).write_bytes((model / name).read_bytes()[:200])
    bad_input(run("play", "--model", model), 3, f"model/{name}")
    bad_input(run("sensitivity", "--model", model), 3, f"model/{name}")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_router_of_another_model_or_other_variants_is_refused(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    network = EncoderNetwork(encoder_config(tokenizer.vocab_size), use_signals=False)
    own = loading.identity(tiny_model)
    for name, model, low in (("other", "another", LOW), ("low", own, "w3g64-rtn"), ("cut", own, LOW)):
        EncoderRouter(network, tokenizer, (low, "bf16"), 0.0, model=model).save(tmp_path / name)
    bad_input(run("play", "--model", tiny_model, "--router", tmp_path / "other"), 3, "was trained for model another, this is ")
    bad_input(
        run("play", "--model", tiny_model, "--router", tmp_path / "low"), 3, "was trained for the variants w3g64-rtn, bf16"
    )
    (tmp_path / "cut" / "network.safetensors").write_bytes(b"")
    bad_input(run("play", "--model", tiny_model, "--router", tmp_path / "cut"), 3, "cut: not a readable encoder router")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "low", "other"]


@pytest.fixture
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of two official games, both truncated."""
    root = tmp_path_factory.mktemp("alfworld")
    for number in (1, 2):
        game = root / "json_2.1.1" / "valid_seen" / "task" / f"trial_{number}"
        game.mkdir(parents=True)
        (game / "game.tw-pddl").write_text('{"pddl_domain": "(define (dom')
        (game / "traj_data.json").write_text("{}")
    return root


def test_official_games_are_found_counted_and_named_when_truncated(
    run: Run, tiny_model: Path, official: Path, played: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    play = ["play", "--model", tiny_model, "--split", "official-valid_seen", "--max-steps", 1]
    truncated = "valid_seen/task/trial_1/game.tw-pddl: not a complete official file"
    code, _, err = run(*play, "--tasks", 1, "--data", official)
    assert (code, truncated in err.splitlines()[-1]) == (3, True), err
    monkeypatch.setenv("ALFWORLD_DATA", str(official / "json_2.1.1"))
    assert truncated in run(*play, "--tasks", 1)[2]
    bad_input(run(*play, "--tasks", 3), 2, "split official-valid_seen has 2 tasks, fewer than the 3 asked for")
    bad_input(run(*play, "--tasks", 1, "--split", "official-valid_unseen"), 2, "no such split directory")


def test_a_full_disk_is_one_line_and_leaves_nothing(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        result = run("quantize", "w8g64-rtn", "--model", tiny_model, "--out", "variants")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    bad_input(result, 3, "cannot write variants/w8g64-rtn.safetensors: File too large")
    assert list((tmp_path / "variants").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "bitroute: stopped; the same command goes on from here\n"),
        (OSError(28, "No space left on device", "a/b"), 1, "bitroute: a/b: No space left on device\n"),
        (OSError(28, "No space left on device"), 1, "bitroute: file system: No space left on device\n"),
        (ModuleNotFoundError("no", name="textworld.core"), 1, "pip install 'bitroute[alfworld]'\n"),
    ],
)
def test_other_ends_are_one_line_too(
    run: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(loading, "quantize", fail)
    found, out, err = run("quantize", LOW, "--model", tiny_model)
    assert (found, out) == (code, "")
    assert err.endswith(message) and err.count("\n") == 1


def test_a_defect_is_not_hidden(run: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("no", name="bitroute.nonsense")

    monkeypatch.setattr(loading, "quantize", fail)
    with pytest.raises(ModuleNotFoundError):
        run("quantize", LOW, "--model", tiny_model)


# Work


def test_quantize_writes_variants_and_prints_their_sizes(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    code, out, _ = run("quantize", LOW, "w8n4g64-rtn", "--model", tiny_model, "--out", "v")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["checkpoint", LOW, "w8n4g64-rtn"]
    assert [row[3] for row in rows] == ["16", f"{Scheme.parse(LOW).bits_per_weight(256):g}", "8.5"]
    sizes = [int(row[4].replace(",", "")) for row in rows]
    assert sizes[1:] == [(tmp_path / "v" / f"{s}.safetensors").stat().st_size for s in (LOW, "w8n4g64-rtn")]


def test_play_stores_traces_and_plays_the_same_only_once(
    run: Run, tiny_model: Path, tmp_path: Path, played: list[Shard]
) -> None:
    command = ["play", "--model", tiny_model, "--router", "random:0.5", "--tasks", 3, "--max-steps", 4, "--show"]
    code, out, err = run(*command)
    assert code == 0 and len(played) == 1
    assert "3/3" in err and "episode/s" in err
    (directory,) = (tmp_path / "runs" / "play").iterdir()
    episodes = list(read_traces(directory / "traces.jsonl"))
    assert [e.task_id for e in episodes] == ["validation-0", "validation-1", "validation-2"]
    share = sum(s.decision.variant == "bf16" for e in episodes for s in e.steps) / 12
    assert out.count("] > ") == 4 and f"[{episodes[0].steps[0].decision.variant}] > {episodes[0].steps[0].action}\n" in out
    assert f"n 3), high precision on {share:.1%} of the steps, 4.0 steps an episode\n" in out
    metrics = json.loads((directory / "metrics.json").read_text())
    assert (metrics["episodes"], metrics["success"], metrics["share"], metrics["failures"]) == (3, 0, share, {})
    assert sorted(p.name for p in directory.iterdir()) == [
        *(".lock", "config.json", "metrics.json", "provenance.json", "traces.jsonl", "variants")
    ]
    assert run(*command) == (0, out, "") and len(played) == 1
    assert run(*command, "--seed", 1)[0] == 0 and len(played) == 2
    assert len(list((tmp_path / "runs" / "play").iterdir())) == 2
    assert run(*command, "--device", "cpu") == (0, out, "") and len(played) == 2  # where it is computed does not matter
    assert run(*command, "--dtype", "bfloat16")[0] == 0 and len(played) == 3  # how it is computed does


def test_free_decoding_writes_what_no_game_admits(run: Run, tiny_model: Path, tmp_path: Path, played: list[Shard]) -> None:
    assert run("play", "--model", tiny_model, "--tasks", 1, "--max-steps", 1, "--free", "--out", "free")[0] == 0
    (episode,) = read_traces(tmp_path / "free" / "traces.jsonl")
    assert not episode.steps[0].action.startswith(("go to ", "look", "inventory", "open ", "examine "))


def test_a_directory_holds_one_run(run: Run, tiny_model: Path, tmp_path: Path, played: list[Shard]) -> None:
    command = ["play", "--model", tiny_model, "--tasks", 1, "--max-steps", 1, "--out", "here"]
    assert run(*command)[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()}
    bad_input(run(*command, "--router", "random:0.5"), 2, "here: holds a run with another policy, router; choose another --out")
    assert {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()} == before


def test_a_router_that_was_trained_again_plays_again(run: Run, tiny_model: Path, tmp_path: Path, played: list[Shard]) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    command = ["play", "--model", tiny_model, "--router", "./mine", "--tasks", 1, "--max-steps", 2]
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = EncoderNetwork(encoder_config(tokenizer.vocab_size), use_signals=False)
        router = EncoderRouter(network, tokenizer, (LOW, "bf16"), 0.0, model=loading.identity(tiny_model))
        router.save(tmp_path / "mine")
        assert run(*command)[0] == run(*command)[0] == 0
        assert len(played) == seed + 1
    assert run(*command, "--threshold", -100)[1].count("100.0% of the steps") == 1


def test_sensitivity_labels_every_step_and_summarises(run: Run, tiny_model: Path, tmp_path: Path, played: list[Shard]) -> None:
    command = ["sensitivity", "--model", tiny_model, "--tasks", 2, "--max-steps", 3, "--out", "labels", "--low", "w3g64-rtn"]
    code, out, _ = run(*command)
    assert code == 0
    labels = [s.sensitivity for e in read_traces(tmp_path / "labels" / "traces.jsonl") for s in e.steps]
    assert len(labels) == 6 and all(label and label.kl_sum >= 0 for label in labels)
    assert out.startswith("6 steps, KL(high || low) in nats: median ")
    metrics = json.loads((tmp_path / "labels" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["episodes"]) == (6, 2)
    assert sum(verb["steps"] for verb in metrics["verbs"]) == 6


@pytest.mark.slow
def test_worker_processes_play_what_this_process_plays(
    run: Run, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = ["play", "--model", tiny_model, "--router", "random:0.5", "--tasks", 2, "--max-steps", 2, "--cores", 1, "--out"]
    assert run(*command, "processes")[0] == 0
    request.getfixturevalue("played")
    assert run(*command, "here")[0] == 0
    assert (tmp_path / "processes" / "traces.jsonl").read_bytes() == (tmp_path / "here" / "traces.jsonl").read_bytes()


def test_a_reader_that_goes_away_is_no_defect(tiny_model: Path, tmp_path: Path) -> None:
    code = "import sys; from bitroute.cli.main import main; sys.exit(main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait() in (0, 1)
    assert b"Traceback" not in errors


@pytest.mark.slow
def test_language_model_training_goes_on_where_it_stopped(
    run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "agent_config", lambda vocab_size: CONFIG)
    train = ["train", "lm", "--out", "lm", "--tokenizer", tiny_model]
    code, out, _ = run(*train, "--tokens", 1000)
    assert (code, out) == (0, "the model is in lm; next: bitroute play --model lm\n")
    first = json.loads((tmp_path / "lm" / "progress.json").read_text())["progress"]
    assert run(*train, "--tokens", first["tokens"] + 1000)[0] == 0
    second = json.loads((tmp_path / "lm" / "progress.json").read_text())["progress"]
    assert second["read"] == 2 * first["read"] and second["steps"] > first["steps"]
    bad_input(run(*train, "--seed", 1), 2, "lm/progress.json: was made with another seed")
    bad_input(run(*train, "--published"), 2, "ALFWORLD_DATA")
    assert json.loads((tmp_path / "lm" / "provenance.json").read_text())["version"] == bitroute.__version__
    assert os.environ["ALFWORLD_DATA"] == ""  # as the fixture set it: no flag travels by the environment
