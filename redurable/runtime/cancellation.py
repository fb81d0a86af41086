"""
A cancel, or a passed deadline, on its way into a handler.

It takes effect at its place in the journal, but only once the steps that were in flight there have ended; until then
no other call starts. Which steps those are is the same live and on replay: live they run, on replay their entries lie
ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from redurable.journal.cursor import Call, Identity
from redurable.model import CancelRequested
from redurable.runtime.scope import Scope

__all__ = ["Cancellation"]


class Cancellation:
    """
    The cancel of one attempt.

    Args:
        deliver: Called once, when the handler is to meet it.

    Attributes:
        entry: What was asked, once its place is reached.
        delivered: Whether the handler has met it.
        owed: Threads that meet it at their next durable call.
    """

    __slots__ = ("_deliver", "_in_flight", "delivered", "entry", "owed")

    def __init__(self, deliver: Callable[[], None]) -> None:
        self.entry: CancelRequested | None = None
        self.delivered = False
        self.owed: set[Scope] = set()
        self._deliver = deliver
        self._in_flight: set[Identity] = set()

    @property
    def holds(self) -> bool:
        """Whether calls must not start: steps in flight are to end first."""
        return bool(self._in_flight)

    def reached(self, entry: CancelRequested, in_flight: Iterable[Identity]) -> None:
        """The cancel's place is reached while the steps of *in_flight* run."""
        self.entry = entry
        self._in_flight = set(in_flight)
        self._meet()

    def ended(self, identity: Identity) -> None:
        """A step has ended, for now or for good."""
        if self._in_flight:
            self._in_flight.discard(identity)
            self._meet()

    def _meet(self) -> None:
        if not self._in_flight and not self.delivered:
            self.delivered = True
            self._deliver()

    def to_threads(self, scopes: Iterable[Scope], calls: Iterable[Call]) -> None:
        """Cancel what the threads of a plain handler wait for; one that is between two calls meets it at its next."""
        waiting = {c.identity[0]: c.future for c in calls if c.future is not None and not c.future.done()}
        for future in waiting.values():
            future.cancel()
        threads = [s for s in scopes if s.task is None]
        # one that has started others waits for them, and is told by them
        joining = {s for s in threads if any(t is not s and t.path.startswith(s.path) for t in threads)}
        self.owed.update(s for s in threads if s not in joining and s.path not in waiting)
