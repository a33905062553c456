"""Records as a gateway would have written them: an hour of made-up traffic on two arms, the same for the same seed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert

from bitroute.cost import CostModel
from bitroute.gateway.records.tables import episodes, open_database, steps
from bitroute.gateway.upstreams.replicas import ReplicaStatus

LADDER = ("low", "high")
NOW = 1_760_000_000.0  # when the records end


def fill(url: str, played: int = 40, *, seed: int = 0, now: float = NOW, content: bool = False) -> None:
    """Write `played` episodes, the last of which begins shortly before `now`; every third of them is on the arm `trial`."""
    rng = random.Random(seed)
    opened, taken = [], []
    for index in range(played):
        started = now - 3600 + 3550 * index / played
        arm, threshold = ("trial", 0.4) if index % 3 == 2 else ("main", 0.6)
        episode = f"ep-{index:04d}"
        count = rng.randint(4, 14)
        reported = index < played - 3
        opened.append(opening(episode, started, arm, success=rng.random() < 0.8 if reported else None))
        for step in range(count):
            score = round(rng.random(), 3)
            variant = "high" if score >= threshold else "low"
            more = {"message": f"observation {step}", "action": f"go to shelf {step}"} if content else {}
            taken.append(
                row(episode, step, started + 3.5 * step, variant, arm=arm, score=score, threshold=threshold, seed=rng, **more)
            )
    write(url, opened, taken)


def write(url: str, opened: list[dict[str, Any]], taken: list[dict[str, Any]]) -> None:
    """Insert rows of episodes and of steps."""
    engine = open_database(url)
    with engine.begin() as connection:
        if opened:
            connection.execute(insert(episodes), opened)
        if taken:
            connection.execute(insert(steps), taken)
    engine.dispose()


def opening(id_: str, started: float, arm: str = "main", *, success: bool | None = None, **more: Any) -> dict[str, Any]:
    """The row of an episode."""
    common = {"scope": "", "session": f"session-{id_}", "explicit": True, "source": "x-session-id", "first": 0}
    made = {"policy": "signals@1", "arm": arm, "ladder": ",".join(LADDER), "seed": 7, "started": started, "success": success}
    return {**common, "id": id_, **made, **more}


def row(
    episode: str, step: int, at: float, variant: str | None, *, seed: random.Random | None = None, **more: Any
) -> dict[str, Any]:
    """The row of a step; with `seed` its times and tokens vary."""
    vary = seed.random() if seed else 0.5
    prefill, cached, decode = (int(40 + 40 * vary), 300 * step, int(10 + 20 * vary)) if variant else (None, None, None)
    common = {"scope": "", "episode": episode, "step": step, "at": at, "endpoint": "/v1/chat/completions", "model": "auto"}
    decided = {"stream": False, "retry": False, "variant": variant, "decision": variant, "intended": variant, "score": None}
    why = {"threshold": None, "propensity": 1.0, "policy": "signals@1", "arm": "main", "budget": 0.3, "flipped": False}
    used = {"reason": "router", "source": "x-session-id", "prefill": prefill, "cached": cached, "decode": decode}
    times = {"router": 0.0003, "overhead": 0.0008, "first_token": 0.05 + 0.1 * vary, "total": 0.2 + 0.6 * vary}
    attempt = {"variant": variant, "replica": "http://a", "status": 200, "seconds": 0.2, "error": None}
    end = {"status": 200, "ended": "complete", "attempts": json.dumps([attempt]), "digest": "00", "chain": "00", "turns": 1}
    kept = {"cost": 1.0 if variant == "high" else 0.0, "newest": "00", "answer": "00" if variant else None}
    text = {"message": None, "action": None}
    return {**common, **decided, **why, **used, **times, **end, **kept, **text, **more}


@dataclass
class FakePolicy:
    """What the admin port asks of a policy."""

    switched: str | None = None
    alarm: bool = False
    asked: list[str | None] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        arm = {"name": "main", "policy": "signals@1", "budget": 0.3, "realised": 0.41, "steps": 300, "alarm": self.alarm}
        counts = {"router_errors": 2, "late": 1, "saturated": 0, "fell_to_high": 3, "reloads": 1, "reload_errors": 0}
        return {**arm, "mode": "split", "switch": self.switched, **counts, "arms": [arm, {**arm, "name": "trial"}]}

    def switch(self, variant: str | None) -> None:
        self.asked.append(variant)
        self.switched = variant


class FakeUpstreams:
    """What the admin port asks of the upstreams: one replica of low is down."""

    def status(self) -> list[ReplicaStatus]:
        return [
            ReplicaStatus("low", "http://127.0.0.1:8001", True, 3, 0),
            ReplicaStatus("low", "http://127.0.0.1:8002", False, 0, 17),
            ReplicaStatus("high", "http://127.0.0.1:9001", True, 1, 2),
        ]


@dataclass
class FakeRecorder:
    """What the admin port asks of the recorder."""

    cost: CostModel = field(default_factory=lambda: CostModel.steps(LADDER))
    pending: int = 5
    dropped: int = 0
    failures: int = 1


@dataclass
class FakeKeys:
    """What the admin port asks of the keys."""

    open: bool = False
