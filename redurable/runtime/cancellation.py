"""
A cancel, or a passed deadline, on its way into a handler.

It comes from outside as a `CancelRequested` entry. From there no call starts; once the steps that run have ended, the
attempt records the entry a second time: that is the place where the handler meets it. So what came before is the
same live and on replay, however long the steps took, and a step's result is never lost to the cancel after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from redurable.clock import now_ms
from redurable.errors import Canceled
from redurable.journal.cursor import INSIDE, Call
from redurable.model import CancelRequested

__all__ = ["Cancellation"]


class Cancellation:
    """
    The cancel of one attempt.

    Attributes:
        entry: What was asked, once its place is reached.
        delivered: Whether the handler has met it.
        owed: Whether a thread has still to meet it, at its next durable call.
    """

    __slots__ = ("_announced", "delivered", "entry", "owed")

    def __init__(self) -> None:
        self.entry: CancelRequested | None = None
        self.delivered = False
        self.owed = False
        self._announced = False

    @property
    def pending(self) -> bool:
        """Whether it was asked and not met yet: calls must not start."""
        return self.entry is not None and not self.delivered

    def error(self) -> Canceled:
        """Return what a thread that waits is given; a task is cancelled as asyncio does it."""
        return Canceled(self.entry.note if self.entry is not None and self.entry.note else "the intent was cancelled")

    def announcement(self, bodies: Iterable[Call]) -> CancelRequested | None:
        """Return, once, the entry at which the handler is to meet it; None while *bodies* are to finish first."""
        if self.entry is None or self._announced or any(b.finish and INSIDE not in b.identity[0] for b in bodies):
            return None
        self._announced = True
        return CancelRequested(now_ms(), self.entry.status, self.entry.note)
