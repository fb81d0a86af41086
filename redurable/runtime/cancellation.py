"""
A cancel, or a passed deadline, on its way into a handler.

It comes from outside as a `CancelRequested` entry. From there no call starts; once the steps that run have ended, the
attempt records the entry a second time: that is the place where the handler meets it. So what came before is the
same live and on replay, however long the steps took, and a step's result is never lost to the cancel after it.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

from redurable.clock import now_ms
from redurable.errors import Canceled
from redurable.journal.cursor import INSIDE
from redurable.model import CancelRequested, ErrorInfo, Status

if TYPE_CHECKING:
    from redurable.runtime.conductor import Conductor

__all__ = ["NOT_ASKED", "Cancellation", "told"]


def told(asked: CancelRequested) -> ErrorInfo:
    """Return the error of an intent that ended as it was *asked*."""
    code = "CANCELED" if asked.status is Status.CANCELED else "DEADLINE"
    return ErrorInfo(type=f"redurable.{code}", message=asked.note or code.lower(), code=code)


class Cancellation:
    """
    The cancel of one attempt.

    Attributes:
        entry: What was asked, once its place is reached.
        delivered: Whether the handler has met it.
        owed: Whether a thread has still to meet it, at its next durable call.
        refused: Whether a call inside a step's body was not started because of it.
        felt: Whether the handler was given the failure of a step that was cut short so.
    """

    __slots__ = ("_announced", "delivered", "entry", "felt", "owed", "refused")

    def __init__(self, entry: CancelRequested | None = None) -> None:
        self.entry = entry
        self.delivered = False
        self.owed = False
        self.refused = False
        self.felt = False
        self._announced = False

    @property
    def pending(self) -> bool:
        """Whether it was asked and not met yet: calls must not start."""
        return self.entry is not None and not self.delivered

    def error(self) -> Canceled:
        """Return what a thread that waits is given; a task is cancelled as asyncio does it."""
        return Canceled(self.entry.note if self.entry is not None and self.entry.note else "the intent was cancelled")

    def announce(self, conductor: Conductor) -> None:
        """Record, once, where the handler is to meet it; not while bodies are to finish first."""
        if self._announced or any(b.finish and INSIDE not in b.identity[0] for b in conductor.bodies):
            return
        assert self.entry is not None

        def landed(future: asyncio.Future[None]) -> None:
            if future.exception() is None and not conductor.over:
                conductor.kick()

        self._announced = True
        entry = CancelRequested(now_ms(), self.entry.status, self.entry.note)
        conductor.recorder.append(entry).add_done_callback(landed, context=Context())

    def deliver(self, conductor: Conductor) -> None:
        """The handler is at rest where it was cancelled before, or is to be now."""
        self.delivered = True
        if conductor.main.task is not None:
            conductor.main.task.cancel()
            return
        waiting = [call.future for call in conductor.cursor.calls if call.future is not None and not call.future.done()]
        for future in waiting:
            future.set_exception(self.error())
        self.owed = not waiting


NOT_ASKED = Cancellation()  # of all attempts that were not cancelled: nobody changes it
