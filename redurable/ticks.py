"""
When a schedule is due: the ticks of a cron expression in its time zone, or of an interval, and which of them to fire.

Pure: no store and no clock. Invariant: ticks depend on nothing but the rhythm, so whoever looks finds the same ones.

Where a time zone changes its clocks: a cron expression with fixed minutes and hours ("30 2 * * *") runs once a day.
What would fall into the hour that is left out runs right after it; what falls into the hour that comes twice runs in
the first of the two. One whose minute or hour begins with a star ("*/15 * * * *"), and one of six fields, follows the
time that passes: it runs in both of the hours, and in none that is left out. (So does Debian's cron.) An interval knows
no time zone: its ticks are the multiples of it since 1970.
"""

from __future__ import annotations

import hashlib
import zoneinfo
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Literal

import msgspec
from cronsim import CronSim, CronSimError

from redurable.errors import ConfigurationError

__all__ = ["LOOK", "MOST", "CatchUp", "Due", "Rhythm", "due", "zone"]

CatchUp = Literal["all", "one", "none"]
MOST = 1000  # ticks that are made up at most, the newest
LOOK = 2 * MOST  # ticks that one look goes through
_NAMED = {
    "@YEARLY": "0 0 1 1 *", "@ANNUALLY": "0 0 1 1 *", "@MONTHLY": "0 0 1 * *", "@WEEKLY": "0 0 * * 0",
    "@DAILY": "0 0 * * *", "@MIDNIGHT": "0 0 * * *", "@HOURLY": "0 * * * *",
}  # fmt: skip
_FIELDS = "minute hour day-of-month month day-of-week, with seconds before them if you like"
_SHORTEST = 100  # ms
_RHYTHMS = 64  # whose ticks are kept at a time


def zone(name: str) -> tzinfo:
    """Return the time zone called *name*; ConfigurationError BAD_TIMEZONE when there is none."""
    try:
        return UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise ConfigurationError(
            f"there is no time zone {name!r}", code="BAD_TIMEZONE",
            hint='use a name of the IANA list: "Europe/Berlin", "America/New_York", "UTC"',
        ) from None  # fmt: skip


class Rhythm(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    When ticks are: by a *cron* expression in time zone *tz*, or every *every* ms; each up to *jitter* ms later.

    The jitter of a tick is drawn from its schedule's name and its time: it is the same whoever looks.
    """

    cron: str = ""
    every: int = 0
    tz: str = "UTC"
    jitter: int = 0

    def check(self) -> None:
        """
        Refuse what has no ticks.

        Raises:
            ConfigurationError: BAD_CRON, BAD_TIMEZONE, or BAD_ARGUMENT for the rest.
        """
        if bool(self.cron) == bool(self.every):
            raise ConfigurationError(
                "a schedule has either a cron expression or an interval",
                hint='write cron="0 9 * * MON-FRI", or every=300',
            )
        if self.every and self.every < _SHORTEST:
            raise ConfigurationError(f"every= is {_SHORTEST / 1000} s or more, not {max(self.every, 0) / 1000:g} s")
        if self.every and self.tz != "UTC":
            raise ConfigurationError("an interval knows no time zone: tz= goes with cron=")
        zone(self.tz)
        if self.cron:
            self._check_cron()

    def _check_cron(self) -> None:
        try:
            first = next(self.after(0), None)
        except CronSimError as error:
            raise ConfigurationError(
                f"{self.cron!r} is no cron expression: {str(error).lower()}", code="BAD_CRON",
                hint=f"the fields are {_FIELDS}: '0 9 * * MON-FRI'",
            ) from None  # fmt: skip
        if first is None:
            raise ConfigurationError(f"{self.cron!r} never comes", code="BAD_CRON", hint="check its day and month")

    def after(self, ms: int) -> Iterator[int]:
        """Give the ticks after *ms*, in ms since 1970."""
        if self.every:
            tick = ms // self.every * self.every
            while True:
                tick += self.every
                yield tick
        text = self.cron.strip()
        # an expression with fixed hours is looked up by the clock on the wall, on which an hour comes twice
        for at in CronSim(_NAMED.get(text.upper(), text), datetime.fromtimestamp(ms // 1000, zone(self.tz))):
            tick = int(at.timestamp()) * 1000
            if tick > ms:
                yield tick
                ms = tick

    def next(self, ms: int) -> int | None:
        """Return the first tick after *ms*; None if there is none any more."""
        return next(self.after(ms), None)

    def late(self, name: str, tick: int) -> int:
        """Return how many ms after *tick* the schedule *name* fires, by its jitter."""
        if not self.jitter:
            return 0
        digest = hashlib.blake2b(f"{name}@{tick}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % (self.jitter + 1)


class Due(msgspec.Struct, frozen=True):
    """What is to be done about a schedule: the tick to fire now, how many before it are missed, the one after it."""

    tick: int | None
    missed: int
    next: int | None


def due(rhythm: Rhythm, name: str, first: int, now: int, catch_up: CatchUp, window: int) -> Due | None:
    """
    Return what to do about the ticks from *first* on that are due by *now*, one at a time; None if none is.

    *window* says how many ms late a tick may still be fired. A long backlog is gone through in several looks, each of
    which moves the first tick on.
    """
    if first + rhythm.late(name, first) > now:
        return None
    ticks: list[int] = []  # those that are due, and the one after them
    for tick in islice(_from(rhythm, first), LOOK + 1):
        ticks.append(tick)
        if tick + rhythm.late(name, tick) > now:
            break
    passed = len(ticks) - (ticks[-1] + rhythm.late(name, ticks[-1]) > now)
    after = ticks[passed] if passed < len(ticks) else None
    if passed > LOOK:  # more are due than one looks at: the older half is not among those that are kept
        return Due(None, MOST, ticks[MOST])
    least = max(0, passed - (MOST if catch_up == "all" else 1))
    found = next((i for i in range(least, passed) if ticks[i] >= now - window), None)
    if found is None:
        return Due(None, passed, after)
    return Due(ticks[found], found, ticks[found + 1] if found + 1 < len(ticks) else None)


# What has been found of a rhythm from its last look on: a backlog is fired a tick at a time, and each look goes through
# all of it. A tick of a cron expression costs up to a millisecond.
_known: dict[Rhythm, list[int]] = {}


def _from(rhythm: Rhythm, first: int) -> Iterator[int]:
    """Give *first*, which is a tick, and those after it."""
    known = _known.pop(rhythm, [])
    at = bisect_left(known, first)
    known = known[at:] if at < len(known) and known[at] == first else [first]
    _known[rhythm] = known
    if len(_known) > _RHYTHMS:
        del _known[next(iter(_known))]
    yield from known
    for tick in rhythm.after(known[-1]):
        known.append(tick)
        yield tick
