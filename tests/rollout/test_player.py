"""Playing: what is charged, what the router sees, and that one broken episode does not break the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from bitroute.engines.caching import CachingEngine
from bitroute.engines.engine import CacheMode, Sampling
from bitroute.engines.torch import TorchEngine
from bitroute.envs.environment import Environment
from bitroute.episode import Decision, Episode, Usage, View
from bitroute.errors import CapabilityError, ConfigError, DataError
from bitroute.nn.decoder import Decoder, DecoderConfig
from bitroute.rollout.player import FORCED, Forced, Player, draw_seed, play, play_numbered
from bitroute.routers.oracle import Oracle
from bitroute.routers.router import Probe, Router
from bitroute.routers.rules import Always, FirstK, Random
from bitroute.routers.uncertainty import Uncertainty
from bitroute.routers.verify import Verify
from support.engine import LADDER_OF_THREE, FakeEngine
from support.toy import WORDS, ToyAgent, ToyEnvironment, ToyTask, toy_task

PAIR = ("low", "high")
MODES = pytest.mark.parametrize("mode", list(CacheMode))


def make_player(engine: FakeEngine | TorchEngine, router: Router, **options: object) -> Player:
    return Player(ToyEnvironment, ToyAgent(), engine, router, **options)  # type: ignore[arg-type]


def played(player: Player, tasks: Sequence[ToyTask], batch: int = 64, seed: int = 0) -> dict[str, Episode]:
    return {e.task_id: e for e in play(player, [(task, seed) for task in tasks], "policy", batch)}


def torch_engine(mode: CacheMode, scale: float = 1.0) -> TorchEngine:
    """Two different tiny random networks under one ladder: what they do is arbitrary, but it depends on every cached value.

    `scale` multiplies the weights of their blocks.
    """
    config = DecoderConfig(len(WORDS), 32, 64, 2, 2, 1, 16, max_position_embeddings=256)
    models = {}
    for seed, name in enumerate(PAIR):
        torch.manual_seed(seed)
        models[name] = Decoder(config).eval()
        torch.nn.init.normal_(models[name].model.embed_tokens.weight, std=1.0)
        for weight in models[name].model.layers.parameters():
            weight.data.mul_(scale if weight.ndim == 2 else 1.0)
    return TorchEngine(models, end_token=0, fingerprint="tiny", cache_mode=mode)


class Spy:
    """High at every step whose number is in `high`; remembers what it saw."""

    name = "spy"
    probes: frozenset[Probe] = frozenset()

    def __init__(self, variants: Sequence[str] = PAIR, high: Sequence[int] = ()) -> None:
        self.variants, self.high = tuple(variants), high
        self.views: list[View] = []

    def begin(self, seed: int) -> int:
        return seed

    def decide(self, views: Sequence[View], states: Sequence[int]) -> list[Decision]:
        self.views += views
        return [Decision(self.variants[-1 if len(v.actions) in self.high else 0], 0.5, self.name) for v in views]


def test_all_high_wins_and_all_low_fails_exactly_where_a_step_is_hard() -> None:
    tasks = [toy_task(i) for i in range(40)]
    high = played(make_player(FakeEngine(), Always(PAIR, "high")), tasks)
    low = played(make_player(FakeEngine(), Always(PAIR, "low")), tasks)
    assert all(e.success for e in high.values())
    assert [low[t.id].success for t in tasks] == [not any(t.hard) for t in tasks]
    assert 0 < sum(e.success for e in low.values()) < 40


def test_a_step_records_message_action_decision_reward_and_policy() -> None:
    task = ToyTask("t", "kind", "split", ("easy red", "hard blue"))
    episode = played(make_player(FakeEngine(), FirstK(PAIR, 1)), [task], seed=7)["t"]
    assert (episode.kind, episode.split, episode.policy, episode.seed, episode.failure) == ("kind", "split", "policy", 7, None)
    assert [s.message for s in episode.steps] == ["easy red\ngoal win", "hard blue\ngoal win"]
    assert [s.action for s in episode.steps] == ["press red", "press green"]
    assert [s.decision.variant for s in episode.steps] == ["high", "low"]
    assert [s.reward for s in episode.steps] == [0.0, 0.0]
    assert [len(s.signals.entropy) for s in episode.steps] == [1, 1]  # only the colour is a choice


def test_the_router_sees_the_episode_so_far() -> None:
    spy = Spy(high=[1])
    task = ToyTask("t", "", "", ("easy red", "hard blue", "easy green"))
    episode = played(make_player(FakeEngine(), spy), [task])["t"]
    view = spy.views[2]
    assert view.messages == tuple(s.message for s in episode.steps)
    assert view.actions == ("press red", "press blue")
    assert view.variants == ("low", "high")
    assert view.signals == tuple(s.signals for s in episode.steps[:2])
    assert view.probe is None and view.sensitivity is None


def test_usage_counts_each_variants_own_catching_up() -> None:
    task = ToyTask("t", "", "", ("easy red", "easy blue", "easy green"))
    steps = played(make_player(FakeEngine(), Spy(high=[1])), [task])["t"].steps
    # A prompt has 6 tokens (user, level, colour, goal, win, assistant), an action 3, of which the last is never read.
    assert steps[0].usage == Usage("low", prefill=6, cached=0, decode=2)
    assert steps[1].usage == Usage("high", prefill=15, cached=0, decode=2)
    assert steps[2].usage == Usage("low", prefill=16, cached=8, decode=2)


def test_with_a_shared_cache_a_switch_costs_no_prefill() -> None:
    task = ToyTask("t", "", "", ("easy red", "easy blue", "easy green"))
    steps = played(make_player(FakeEngine(cache_mode=CacheMode.SHARED), Spy(high=[1])), [task])["t"].steps
    assert [s.usage for s in steps] == [Usage("low", 6, 0, 2), Usage("high", 7, 8, 2), Usage("low", 7, 17, 2)]


@MODES
def test_a_probe_is_charged_where_high_takes_over_and_is_the_generation_where_low_stays(mode: CacheMode) -> None:
    task = ToyTask("t", "", "", ("easy red", "hard blue", "easy green"))
    router = Uncertainty(PAIR, 0.5, measure="entropy")  # the colour's entropy: 0.22 nats where easy, 0.51 where misread
    steps = played(make_player(FakeEngine(cache_mode=mode), router), [task])["t"].steps
    assert [s.decision.variant for s in steps] == ["low", "high", "low"]
    assert [s.decision.score for s in steps] == pytest.approx([0.2151, 0.5134, 0.2151], abs=1e-4)
    assert [len(s.probe_usage) for s in steps] == [0, 1, 0]
    assert steps[0].usage == Usage("low", 6, 0, 2)
    assert steps[1].probe_usage == (Usage("low", 7, 8, 2),)
    if mode is CacheMode.OWN:
        assert steps[1].usage == Usage("high", 15, 0, 2)
        assert steps[2].usage == Usage("low", 9, 15, 2)  # the undone probe's prompt is still in low's cache
    else:
        assert steps[1].usage == Usage("high", 7, 8, 2)
        assert steps[2].usage == Usage("low", 7, 17, 2)


@MODES
def test_a_probe_changes_nothing_for_a_router_that_does_not_heed_it(mode: CacheMode) -> None:
    class Probing(Spy):
        probes = frozenset({Probe.LOW_GENERATION})

    tasks = [toy_task(i, steps=8, hard=0.5) for i in range(8)]
    for make in (FakeEngine, torch_engine):
        runs = []
        for router in (Spy(high=[1, 2, 5]), Probing(high=[1, 2, 5])):
            engine = FakeEngine(cache_mode=mode) if make is FakeEngine else torch_engine(mode)
            runs.append(played(make_player(engine, router), tasks))
        plain, probing = ([[(s.action, s.usage) for s in r[t.id].steps] for t in tasks] for r in runs)
        if mode is CacheMode.SHARED:
            assert plain == probing
        else:  # low's catching up on a high step's prompt is charged to the probe instead
            assert [[a for a, _ in e] for e in plain] == [[a for a, _ in e] for e in probing]


@MODES
@pytest.mark.parametrize("make", ["fake", "torch"])
def test_labels_change_neither_what_is_played_nor_what_is_charged(mode: CacheMode, make: str) -> None:
    tasks = [toy_task(i, steps=8, hard=0.5) for i in range(12)]
    runs: list[list[Episode]] = []
    for label in (False, True):
        engine = FakeEngine(cache_mode=mode) if make == "fake" else torch_engine(mode)
        episodes = played(make_player(engine, Random(PAIR, 0.5), label=label), tasks)
        assert all((s.sensitivity is not None) is label for e in episodes.values() for s in e.steps)
        runs.append([episodes[t.id] for t in tasks])
    assert {s.decision.variant for e in runs[0] for s in e.steps} == {"low", "high"}
    for plain, labelled in zip(*runs, strict=True):
        for one, other in zip(plain.steps, labelled.steps, strict=True):
            assert (one.action, one.decision, one.usage) == (other.action, other.decision, other.usage)
            assert one.signals.entropy == pytest.approx(other.signals.entropy, abs=1e-4)


def test_labels_find_the_hard_steps() -> None:
    task = ToyTask("t", "", "", ("easy red", "hard blue"))
    steps = played(make_player(FakeEngine(), Always(PAIR, "high"), label=True), [task])["t"].steps
    labels = [s.sensitivity for s in steps]
    assert labels[0] is not None and labels[1] is not None
    assert labels[0].kl_sum == pytest.approx(0.0, abs=1e-6) and labels[0].agrees
    # 0.95 log(0.95 / 0.2) + 0.05 log(0.05 / 0.8) up to the two per cent that the rule spreads over all words
    assert labels[1].kl_sum == pytest.approx(1.34, abs=0.03) and not labels[1].agrees
    assert labels[1].action == "press blue"


@MODES
def test_an_oracle_reads_the_label_and_is_charged_nothing_for_it(mode: CacheMode) -> None:
    tasks = [toy_task(i) for i in range(20)]
    oracle = played(make_player(FakeEngine(cache_mode=mode), Oracle(PAIR, 0.5)), tasks)
    assert all(oracle[t.id].success for t in tasks)
    assert all([s.decision.variant == "high" for s in oracle[t.id].steps] == t.hard for t in tasks)
    assert all(s.probe_usage == () for e in oracle.values() for s in e.steps)
    for task in tasks:
        spy = Spy(high=[i for i, hard in enumerate(task.hard) if hard])
        same = played(make_player(FakeEngine(cache_mode=mode), spy), [task])[task.id]
        assert [s.usage for s in same.steps] == [s.usage for s in oracle[task.id].steps]


def test_a_draft_is_checked_in_one_pass_and_high_writes_on_where_it_would_have_chosen_otherwise() -> None:
    task = ToyTask("t", "", "", ("easy red", "hard blue", "easy green"))
    engine = FakeEngine()
    steps = played(make_player(engine, Verify(PAIR)), [task])["t"].steps
    assert [s.action for s in steps] == ["press red", "press blue", "press green"]
    assert [s.decision.variant for s in steps] == ["low", "high", "low"]
    # The colour is the one choice: high gives blue 0.95 and green, as low reads it, 0.05, but for two per cent over all words.
    best, other = 0.98 * 0.95 + 0.02 / len(WORDS), 0.98 * 0.05 + 0.02 / len(WORDS)
    assert [s.decision.score for s in steps] == pytest.approx([0, math.log(best / other), 0], abs=1e-5)
    # A prompt has 6 tokens and an action 3, of which the last is never read by whoever checks it.
    assert steps[0].usage == Usage("low", prefill=6, cached=0, decode=2)
    assert steps[0].probe_usage == (Usage("high", prefill=8, cached=0),)
    assert steps[1].probe_usage == (Usage("low", 7, 8, 2), Usage("high", prefill=9, cached=8))
    assert steps[1].usage == Usage("high", prefill=0, cached=16, decode=1)  # "press" was right, "blue" is read off the check
    assert steps[2].usage == Usage("low", 9, 15, 2)
    assert steps[2].probe_usage == (Usage("high", prefill=9, cached=17),)
    assert engine.alive == 0


def test_a_tolerance_accepts_what_high_finds_little_less_likely() -> None:
    task = ToyTask("t", "", "", ("hard blue",))
    for tolerance, accepted in ((2.5, False), (3.5, True)):  # the gap is 2.9 nats
        (step,) = played(make_player(FakeEngine(), Verify(PAIR, tolerance)), [task])["t"].steps
        assert step.action == ("press green" if accepted else "press blue")
        assert len(step.probe_usage) == (1 if accepted else 2)


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("caching", [False, True])
def test_what_is_verified_without_tolerance_is_what_high_would_have_written(constrained: bool, caching: bool) -> None:
    tasks = [toy_task(i, steps=8, hard=0.5) for i in range(8)]
    runs = []
    for router in (Always(PAIR, "high"), Verify(PAIR)):
        hosted = torch_engine(CacheMode.OWN, scale=10.0)  # what they write must hang on more than the last token
        engine = CachingEngine(hosted) if caching else hosted
        player = Player(ToyEnvironment, ToyAgent(), engine, router, constrained=constrained)
        runs.append(played(player, tasks))
    high, verified = ([[s.action for s in run[t.id].steps] for t in tasks] for run in runs)
    assert verified == high
    taken = {s.decision.variant for t in tasks for s in runs[1][t.id].steps}
    assert taken == set(PAIR) if constrained else "high" in taken
    for task in tasks:
        read = 0
        for step in runs[1][task.id].steps:
            (check,) = (usage for usage in step.probe_usage if usage.variant == "high")
            assert check.cached == read or check.cached == read - 1
            own = step.usage if step.usage.variant == "high" else None
            read = check.cached + check.prefill if own is None else own.cached + own.decode


def test_verification_needs_caches_of_their_own_and_greedy_choices() -> None:
    for options in ({"cache_mode": CacheMode.SHARED}, {}):
        sampling = Sampling(temperature=0.0 if options else 1.0)
        with pytest.raises(CapabilityError, match="draft and verify compares greedy choices, and needs a cache per variant"):
            make_player(FakeEngine(**options), Verify(PAIR), sampling=sampling)


def test_a_ladder_of_three_plays_the_cheapest_variant_that_can_read_the_step() -> None:
    ladder = tuple(LADDER_OF_THREE)
    tasks = [toy_task(i, levels=("hard", "brutal"), hard=0.5) for i in range(20)]

    class Reader(Spy):
        def decide(self, views: Sequence[View], states: Sequence[int]) -> list[Decision]:
            wanted = {"easy": "low", "hard": "middle", "brutal": "high"}
            return [Decision(wanted[v.messages[-1].split()[0]]) for v in views]

    episodes = played(make_player(FakeEngine(LADDER_OF_THREE), Reader(ladder)), tasks)
    assert all(e.success for e in episodes.values())
    assert Counter(s.decision.variant for e in episodes.values() for s in e.steps).keys() == set(ladder)


def test_a_broken_environment_is_recorded_and_the_others_go_on() -> None:
    screens = ("easy red",) * 4
    tasks = [
        ToyTask("fine", "", "", screens),
        ToyTask("late", "", "", screens, breaks="2"),
        ToyTask("never", "", "", screens, breaks="reset"),
        ToyTask("fine too", "", "", screens),
    ]
    engine = FakeEngine()
    episodes = played(make_player(engine, Always(PAIR, "high")), tasks, batch=2)
    assert episodes["fine"].success and episodes["fine too"].success
    assert episodes["late"].failure == "environment: RuntimeError: the screen went dark"
    assert not episodes["late"].success and len(episodes["late"].steps) == 3
    assert episodes["never"].failure == "environment: RuntimeError: no such room"
    assert episodes["never"].steps == ()
    assert engine.alive == 0


def test_an_observation_that_the_agent_cannot_read_is_recorded() -> None:
    tasks = [ToyTask("odd", "", "", ("easy red", "dark red")), ToyTask("fine", "", "", ("easy red",))]
    episodes = played(make_player(FakeEngine(), Always(PAIR, "high")), tasks)
    assert episodes["odd"].failure == "agent: ValueError: nothing to read"
    assert len(episodes["odd"].steps) == 1
    assert episodes["fine"].success


def test_bad_input_ends_the_run_with_its_own_error() -> None:
    class Missing(ToyEnvironment):
        def reset(self, task: ToyTask) -> object:  # type: ignore[override]
            raise DataError("game.tw-pddl: truncated")

    make: Callable[[], Environment[ToyTask]] = Missing  # type: ignore[assignment]
    player = Player(make, ToyAgent(), FakeEngine(), Always(PAIR, "low"))
    with pytest.raises(DataError, match="truncated"):
        played(player, [toy_task(0)])


def test_an_episode_that_outgrows_the_model_fails_alone() -> None:
    tasks = [ToyTask("long", "", "", ("easy red",) * 12), ToyTask("short", "", "", ("easy red",) * 3)]
    engine = FakeEngine(max_length=40)
    player = make_player(engine, Always(PAIR, "high"), sampling=Sampling(max_tokens=4))
    episodes = played(player, tasks)
    # 9 tokens a step: the prompt of step 4 ends at token 42, beyond 40 - 4.
    assert episodes["long"].failure == "engine: the episode outgrew the model's 40 positions"
    assert len(episodes["long"].steps) == 4
    assert episodes["short"].success
    assert engine.alive == 0


def test_max_steps_ends_an_episode_without_a_failure() -> None:
    episode = played(make_player(FakeEngine(), Always(PAIR, "high"), max_steps=4), [toy_task(0)])["toy-0-0"]
    assert (len(episode.steps), episode.success, episode.failure) == (4, False, None)


def test_playing_is_deterministic_and_independent_of_the_batch() -> None:
    tasks = [toy_task(i, steps=3 + i % 5) for i in range(30)]
    runs = [played(make_player(FakeEngine(), Random(PAIR, 0.5)), tasks, batch) for batch in (64, 64, 7, 1)]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    other = played(make_player(FakeEngine(), Random(PAIR, 0.5)), tasks, seed=1)
    assert {k: replace(e, seed=0) for k, e in other.items()} != runs[0]


def test_no_more_than_a_batch_runs_at_once_and_contexts_are_given_back() -> None:
    engine = FakeEngine()
    played(make_player(engine, Random(PAIR, 0.5)), [toy_task(i, steps=2 + i % 4) for i in range(20)], batch=6)
    assert engine.largest_batch == 6
    assert engine.alive == 0


def test_stopping_early_gives_the_contexts_back() -> None:
    engine = FakeEngine()
    episodes = play(make_player(engine, Always(PAIR, "low")), [(toy_task(i), 0) for i in range(8)], "p", batch=4)
    next(episodes)
    episodes.close()
    assert engine.alive == 0


def test_a_forced_branch_takes_its_variant_once_and_leaves_the_original_alone() -> None:
    engine = FakeEngine()
    player = make_player(engine, Spy(high=[]))
    running = player.start(ToyTask("t", "", "", ("easy red", "hard blue", "hard green")), 0)
    player.advance([running])
    high = player.branch(running, "high")
    player.advance([running, high])
    assert [s.decision.variant for s in high.steps] == ["low", "high"]
    assert high.steps[1].decision == Decision("high", 0.5, "forced")
    assert (high.steps[1].action, running.steps[1].action) == ("press blue", "press green")
    player.advance([high])
    assert high.steps[2].decision.variant == "low"
    assert high.steps[2].usage == Usage("low", prefill=16, cached=8, decode=2)
    assert len(running.steps) == 2
    player.finish(high, "p")
    player.finish(running, "p")
    assert engine.alive == 0


def test_a_branch_on_which_nothing_is_forced_plays_what_the_original_plays() -> None:
    player = make_player(FakeEngine(), Random(PAIR, 0.5))
    running = player.start(toy_task(3, steps=12), 5)
    for _ in range(4):
        player.advance([running])
    branch = player.branch(running, None)
    while not running.done:
        player.advance([running, branch])
    assert branch.steps == running.steps


def test_a_replay_differs_from_its_origin_in_the_forced_decision_and_what_follows() -> None:
    router = Random(PAIR, 0.4)
    tasks = [toy_task(i) for i in range(3)]
    origins = played(make_player(FakeEngine(), router), tasks)
    jobs = [(task, 0, Forced(step, variant)) for task in tasks for step in (0, 2, 5) for variant in PAIR]
    found = dict(play_numbered(make_player(FakeEngine(), router), jobs, "policy", batch=5))
    assert sorted(found) == list(range(len(jobs)))
    for number, (task, _, forced) in enumerate(jobs):
        origin, replay = origins[task.id], found[number]
        assert replay.task_id == task.id and replay.steps[: forced.step] == origin.steps[: forced.step]
        decision = replay.steps[forced.step].decision
        assert (decision.variant, decision.reason, decision.propensity) == (forced.variant, FORCED, 1.0)
        if forced.variant == origin.steps[forced.step].decision.variant:  # nothing is changed, so nothing changes
            assert replay.success == origin.success
            assert [s.decision.variant for s in replay.steps] == [s.decision.variant for s in origin.steps]


def test_without_a_constraint_the_model_writes_freely() -> None:
    episode = played(make_player(FakeEngine(), Always(PAIR, "high"), constrained=False), [toy_task(1)])["toy-0-1"]
    assert episode.success
    assert all(len(s.signals.entropy) == 3 for s in episode.steps)  # every token was a choice


@MODES
@pytest.mark.parametrize("make", ["fake", "torch"])
@pytest.mark.parametrize("constrained", [True, False])
def test_what_is_labelled_is_what_is_played(mode: CacheMode, make: str, constrained: bool) -> None:
    """The label's action is the one that high plays there, constrained or free, and `agrees` tells what low plays."""
    engine = FakeEngine(cache_mode=mode) if make == "fake" else torch_engine(mode)
    player = make_player(engine, Random(PAIR, 0.5), constrained=constrained, label=True)
    steps = [s for e in played(player, [toy_task(i, hard=0.5) for i in range(12)]).values() for s in e.steps]
    for step in steps:
        assert step.sensitivity is not None
        same = step.action == step.sensitivity.action
        assert same if step.decision.variant == "high" else same or not step.sensitivity.agrees
        if not constrained:
            assert step.sensitivity.kl_sum == step.sensitivity.raw_sum
    assert any(s.sensitivity and s.sensitivity.agrees for s in steps)


def test_tasks_draw_different_numbers_from_the_same_seed() -> None:
    assert len({draw_seed(toy_task(i), seed) for i in range(50) for seed in range(4)}) == 200


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_player(FakeEngine(), Always(("w4", "high"), "w4")), CapabilityError, "w4, high; the engine hosts"),
        (lambda: make_player(FakeEngine(), Always(("high", "low"), "low")), CapabilityError, "engine hosts"),
        (lambda: make_player(FakeEngine({"high": ()}), Always(("high",), "high"), label=True), CapabilityError, "two variants"),
        (lambda: make_player(FakeEngine(), Always(PAIR, "low"), max_steps=0), ConfigError, "max_steps 0"),
        (lambda: played(make_player(FakeEngine(), Always(PAIR, "low")), [], batch=0), ConfigError, "batch 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_refused_before_it_starts(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
