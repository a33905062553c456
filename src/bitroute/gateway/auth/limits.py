"""How much may still be asked for: requests and tokens a minute, cost a day. Numbers and times only: it knows no caller."""

from __future__ import annotations

import math
from typing import Final

MINUTE: Final = 60.0
DAY: Final = 86_400


class Bucket:
    """A token bucket: full at `limit`, refilled by `limit` a minute. Times are seconds of one clock; it may step back."""

    __slots__ = ("_at", "_level", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit, self._level, self._at = limit, float(limit), now

    def level(self, now: float) -> float:
        """What is left: negative after more was taken than there was."""
        self._level = min(float(self.limit), self._level + max(0.0, now - self._at) * self.limit / MINUTE)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, whether or not there is as much: tokens are only known when they were used."""
        self._level = self.level(now) - amount

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is left; 0 when it is."""
        # To the microsecond: who comes back then must not be turned away by the last bit.
        return max(0.0, round((min(amount, self.limit) - self.level(now)) * MINUTE / self.limit, 6))


class SpendingWindow:
    """What is spent in a day (UTC). One thread charges, another stores and learns what all processes spent; neither waits.

    `charged` is all that this process ever charged. `_known` is replaced as a whole: the day (days since 1970), what the
    database says was spent on it, and how much of `charged` that has in it.
    """

    __slots__ = ("_known", "charged")

    def __init__(self) -> None:
        self.charged = 0.0
        self._known = (0, 0.0, 0.0)

    def total(self, now: float) -> float:
        """Cost units spent on the day of `now`."""
        day, spent, stored = self._known
        return self.charged - stored + (spent if day == now // DAY else 0.0)

    def unstored(self) -> float:
        """What the database does not know yet."""
        return self.charged - self._known[2]

    def learn(self, day: int, spent: float, added: float) -> None:
        """The database now says `spent` for `day`, of which `added` was unstored until now."""
        self._known = (day, spent, self._known[2] + added)


def until_midnight(now: float) -> float:
    """Seconds to the next day in UTC, when a budget begins anew."""
    return DAY - now % DAY


def duration(seconds: float) -> str:
    """A time as OpenAI's reset headers write it: 120ms, 6s, 1m30s, 2h0m0s; rounded up, so that nobody comes too early."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
