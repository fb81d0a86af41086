"""
Time and durations as redurable takes them: seconds in, milliseconds stored.

Scripts use the server's clock; a process's clock only ever schedules waits inside that process, or, in
`redurable.testing`, passes as fast as the tests do.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from redurable.errors import ConfigurationError

__all__ = ["Moment", "Seconds", "boottime", "deadline_ms", "monotonic", "now_ms", "read_by", "seconds", "to_datetime"]

Seconds = float | int | timedelta
Moment = datetime | timedelta | float | int

monotonic = time.monotonic
# As monotonic, but it goes on while the machine sleeps; MONOTONIC does so everywhere but on Linux.
boottime: Callable[[], float] = functools.partial(
    time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)
_reader: Callable[[], int] | None = None


def now_ms() -> int:
    """Return this process's wall clock in ms since 1970."""
    return time.time_ns() // 1_000_000 if _reader is None else _reader()


def read_by(reader: Callable[[], int]) -> None:
    """Let *reader* tell the time in this process from now on; for tests, see `redurable.testing.clock`."""
    global _reader
    _reader = reader


def seconds(value: Seconds, name: str = "value") -> float:
    """Return *value* as seconds; a negative or non-numeric one is a ConfigurationError naming *name*."""
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        result = float(value)
    else:
        raise ConfigurationError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    if not 0 <= result < 1e11:
        raise ConfigurationError(f"{name} must be 0 or more and less than 3,000 years, got {value!r}")
    return result


def deadline_ms(value: Moment, now: int, name: str = "deadline") -> int:
    """Return *value* (an aware datetime, or seconds or a timedelta from *now*) as ms since 1970."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ConfigurationError(
                f"{name} is a datetime without a time zone", hint="use datetime.now(UTC) + ..., or a timedelta"
            )
        return round(value.timestamp() * 1000)
    return now + round(seconds(value, name) * 1000)


def to_datetime(ms: int) -> datetime:
    """Return the aware UTC datetime of *ms* since 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC)
