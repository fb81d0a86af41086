"""
When a handler that only waits is put down: at once for a person, a promise or a child, else if a clock is far off.

It looks again while something goes on that is not durable (a foreign wait, a timer of the process), ever less often,
and wakes the conductor itself for what is due soon. Invariant: one timer at most is armed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redurable.clock import now_ms
from redurable.journal.cursor import Call
from redurable.journal.rest import FOREIGN
from redurable.model import Reason
from redurable.tasks import later

if TYPE_CHECKING:
    from redurable.runtime.conductor import Conductor

__all__ = ["Parking"]

SHORT = 1.0  # s; a wait under this stays in the process
_LOOK = 0.001  # s until an attempt that waits is first looked at
_SELDOM = 1.0
_CHILDREN = 60_000, 3_600_000  # ms from one look at open children to the next: doubled with their age, in these bounds
# of several waits the first of these is told
_ORDER = (Reason.LIMIT, Reason.HUMAN, Reason.PROMISE, Reason.INTENT, Reason.RETRY, Reason.TIME)


class Parking:
    """The parking of one conductor's handler."""

    __slots__ = ("_conductor", "_pause", "_timer")

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._pause = _LOOK
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed(self) -> bool:
        """Whether the conductor will be kicked by the clock."""
        return self._timer is not None

    def moved(self) -> None:
        """The handler asked for something: look soon."""
        self._pause = _LOOK

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def consider(self, due: list[Call], held: list[Call]) -> None:
        """Nothing is left to start: *due* calls wait for the clock, *held* ones for news alone."""
        times = [call.due for call in (*due, *held) if call.due is not None]
        first = min(times, default=None)
        wait = _SELDOM if first is None else (first - now_ms()) / 1000
        if first is None or wait >= SHORT:
            if self._possible():
                reasons = {call.reason for call in (*due, *held)}
                if Reason.LIMIT in reasons:  # these are called up, by whoever makes room
                    times = [c.due for c in due if c.due is not None and c.reason is not Reason.LIMIT]
                    first = min(times, default=None)
                first = _recheck(first, held)
                self._conductor.main.attempt.park(first, next(reason for reason in _ORDER if reason in reasons))
                self._pause = _SELDOM  # the answer ends it, or brings news
            # whoever asked last has not come to rest yet, or something foreign goes on
            wait = min(wait, self._pause)
            self._pause = min(self._pause * 2, _SELDOM)
        self.cancel()
        self._timer = later(asyncio.get_running_loop(), wait, self._conductor.kick)

    def _possible(self) -> bool:
        """Whether nothing is left but durable waits: no body, no record, no foreign wait, no process timer."""
        conductor = self._conductor
        if conductor.bodies or not conductor.recorder.idle or conductor.draining or conductor.main.step is not None:
            return False
        ours = {*conductor.futures, *(scope.task for scope in conductor.scopes)}
        return not any(
            scope.waits_for(ours) == FOREIGN or scope.armed()
            for scope in conductor.scopes
            if scope.durable or scope is conductor.main
        )


def _recheck(first: int | None, held: list[Call]) -> int | None:
    """Return when to wake: a failover may lose a child, or its outcome, so parents look at them now and then."""
    born = [call.since for call in held if call.reason is Reason.INTENT]
    if not born:
        return first
    now, (least, most) = now_ms(), _CHILDREN
    look = now + min(most, max(least, now - max(born)))
    return look if first is None else min(first, look)
