"""Stored episodes as their routers saw them, step by step: what offline training and evaluation show a router."""

from __future__ import annotations

from bitroute.episode import Episode, View


def views_of(episode: Episode) -> list[View]:
    """What the router saw before each step of a stored episode; a label tells what a probe would have seen."""
    steps = episode.steps
    probes = [s.probe or (s.sensitivity.low if s.sensitivity else None) for s in steps]
    return [
        View(
            tuple(s.message for s in steps[: t + 1]),
            tuple(s.action for s in steps[:t]),
            tuple(s.decision.variant for s in steps[:t]),
            tuple(s.signals for s in steps[:t]),
            probes[t],
        )
        for t in range(len(steps))
    ]
