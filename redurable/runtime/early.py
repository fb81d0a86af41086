"""
Entries that are reached before their call was asked for: something else must happen first, or the code is another one.

A handler that waits for something foreign (or was given up by a timer of the process before) has time; one that waits
for durable things alone would never ask: that is a mismatch.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redurable.events import emit
from redurable.journal.left import pass_by
from redurable.journal.rest import DURABLE, FOREIGN, SHARED, foreign_wait, where
from redurable.tasks import later

if TYPE_CHECKING:
    from redurable.runtime.conductor import Conductor

__all__ = ["Early"]

_HOLD = 0.02
_LONG = 5.0
_PATIENCE = 30.0  # s that an entry is held for a handler that waits for nothing but what it may share with others


class Early:
    """What one conductor does with such an entry."""

    __slots__ = ("_conductor", "_named", "_since", "_timer")

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._since: float | None = None
        self._named = False
        self._timer: asyncio.TimerHandle | None = None

    def over(self) -> None:
        """Another entry was reached."""
        self._since = None

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look_soon(self) -> None:
        """Look again in a while."""
        if self._timer is None:
            self._timer = later(asyncio.get_running_loop(), _HOLD, self._look_again)

    def hold(self, entry: Any) -> None:
        """Wait for the call of *entry*, or unwind the handler with the mismatch."""
        conductor, now = self._conductor, asyncio.get_running_loop().time()
        self._since = self._since or now
        # a call that was given up before waits until the handler gives it up again, by a timer of the process
        timed = any(s.armed() for s in conductor.scopes)
        if not conductor.cursor.unended(timed):
            ours = {*conductor.futures, *(s.task for s in conductor.scopes)}
            kinds = {s: s.waits_for(ours) for s in conductor.scopes}
            # what is shared may be held by others for a while: another intent that uses the same semaphore
            patience = _PATIENCE if SHARED in kinds.values() or timed else 0.0
            if FOREIGN not in kinds.values() and now - self._since >= patience:
                if pass_by(conductor.cursor, entry):
                    later(asyncio.get_running_loop(), 0.0, conductor.kick)
                else:
                    conductor.unwind(conductor.cursor.mismatch(entry))
                return
            if now - self._since > _LONG and not self._named:
                self._named, lease = True, conductor.recorder.lease
                places = [where(s.task) for s, kind in kinds.items() if s.task is not None and kind != DURABLE]
                emit("handler.foreign_wait", intent=lease.id, attempt=lease.attempt, where=places, entry=entry.name)
                if conductor.main.attempt.spec.strict:
                    conductor.unwind(foreign_wait(places))
                    return
        self.look_soon()

    def _look_again(self) -> None:
        self._timer = None
        if not self._conductor.over and self._conductor.signal is None:
            self._conductor.kick()
