"""
What handlers and steps tell those who watch: `emit` and `progress`.

Both are plain functions that return at once: what they are given is written in the background, a few calls' worth at a
time, and neither a slow reader nor one that is not there keeps the handler waiting.
"""

from __future__ import annotations

import math
from typing import Any

from redurable.codec import encode
from redurable.errors import ConfigurationError
from redurable.news import Progress
from redurable.runtime.scope import current_scope
from redurable.runtime.telling import telling_of

__all__ = ["LARGEST", "emit", "progress"]

LARGEST = 65_536  # bytes of an event
_NOTE = 200


def emit(event: Any) -> None:
    """
    Tell *event*, any plain data, to whoever watches the intent, now or later: `Client.observe`, `Client.stream`.

    In a handler it is told once, whatever dies. What a step's body told is told again, after a reset, should the body
    have to run again. Events are kept as long as the intent, a week after the last at most; beyond 10,000
    (REDURABLE_MAX_EVENTS) the oldest go. Outside an intent it does nothing.

    Raises:
        SerialisationError: It cannot be stored.
        PayloadTooLarge: It is more than 64 KiB.
    """
    scope = current_scope("emit()")
    if scope is not None:
        scope.attempt.conductor.check()
        telling_of(scope).event(scope, encode(event, "an event", min(LARGEST, scope.attempt.limit)))


def progress(done: float, total: float | None = None, note: str = "") -> None:
    """
    Tell how far the intent is: *done* of *total* (None: nobody knows), with a *note* for people.

    The last one told stands, at most ten a second are written. What an open step or called child tells counts as a
    fraction of one on top of what the handler told; if that told nothing, the step's own numbers stand, or how many of
    the children that told something are done. Outside an intent it does nothing.

    Raises:
        ConfigurationError: They are no such numbers, or the note is no text.
    """
    for name, value in (("done", done), ("total", total)):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if not (number or (name == "total" and value is None)):
            raise ConfigurationError(f"progress({name}=) is a number, 0 or more, not {value!r}")
    if not isinstance(note, str):
        raise ConfigurationError(f"progress(note=) is a text, not {type(note).__name__}")
    if len(note) > _NOTE:
        note = note[: _NOTE - 1] + "…"
    scope = current_scope("progress()")
    if scope is not None:
        scope.attempt.conductor.check()
        telling_of(scope).progress(scope, Progress(done, total, note))
