"""
Journals that grow: a warning in time, and an end before they are too long to be replayed.

A handler that would go on for ever starts anew with `continue_as_new` instead. Invariant: an intent over its limit
fails with what it was doing in its journal, so that an operator's retry goes on from there once the limit is raised;
its undo work is not held to the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redurable.errors import UsageError
from redurable.events import emit

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt
    from redurable.runtime.recorder import Recorder

__all__ = ["NO_LIMITS", "grown", "watch_growth"]

WARNING = 5  # a fifth of the limit
NO_LIMITS = 1 << 62, 1 << 62


def watch_growth(recorder: Recorder, limits: tuple[int, int]) -> None:
    """Have the owner of *recorder* told when its journal gets long; *limits* are entries and bytes."""
    recorder.bound(limits[0] // WARNING, limits[1] // WARNING)


def grown(attempt: Attempt, limits: tuple[int, int], has: int, weighs: int) -> None:
    """*attempt*'s journal has grown beyond what it was bound to: tell it, and end the attempt if it is too long."""
    entries, size = limits
    over = has > entries or weighs > size
    attempt.recorder.bound(*(NO_LIMITS if over else limits))
    emit("journal.long", intent=attempt.lease.id, queue=attempt.lease.queue, entries=has, bytes=weighs,
         most=entries, heaviest=size)  # fmt: skip
    attempt.lease.note("long", f"{has:,} entries, {weighs:,} bytes")
    conductor = attempt.conductor
    if not over or conductor.undoing or conductor.ending is not None or attempt.ended:
        return
    conductor.unwind(
        UsageError(
            f"the journal has {has:,} entries of {weighs:,} bytes; the limits are {entries:,} and {size:,}",
            code="JOURNAL_LIMIT",
            hint="let the handler continue_as_new in time; or raise REDURABLE_MAX_JOURNAL_ENTRIES or _BYTES and "
            "`redurable intents retry` it",
        )
    )
