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

__all__ = ["watch_growth"]

WARNING = 5  # a fifth of the limit


def watch_growth(attempt: Attempt, entries: int, size: int) -> None:
    """Warn of *attempt*'s journal in time, and end the attempt when it has more than *entries* or *size* bytes."""
    recorder = attempt.recorder

    def long(has: int, weighs: int) -> None:
        recorder.bound(entries, size, too_long)
        text = f"{has:,} entries, {weighs:,} bytes"
        emit("journal.long", intent=attempt.lease.id, queue=attempt.lease.queue, entries=has, bytes=weighs,
             most=entries, heaviest=size)  # fmt: skip
        attempt.lease.note("long", text)
        if has > entries or weighs > size:
            too_long(has, weighs)

    def too_long(has: int, weighs: int) -> None:
        recorder.bound(1 << 62, 1 << 62, too_long)
        conductor = attempt.conductor
        if conductor.undoing or conductor.ending is not None or attempt.ended:
            return
        conductor.unwind(
            UsageError(
                f"the journal has {has:,} entries of {weighs:,} bytes; the limits are {entries:,} and {size:,}",
                code="JOURNAL_LIMIT",
                hint="let the handler continue_as_new in time; or raise REDURABLE_MAX_JOURNAL_ENTRIES or _BYTES and "
                "`redurable intents retry` it",
            )
        )

    recorder.bound(entries // WARNING, size // WARNING, long)
