"""
A cancel, or a passed deadline, on its way into a handler.

It takes effect at its place in the journal, but only once the steps that were in flight there have ended; until then
no other call starts. Which steps those are is the same live and on replay: live they run, on replay their entries lie
ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from redurable.journal.cursor import Identity
from redurable.model import CancelRequested

__all__ = ["Cancellation"]


class Cancellation:
    """
    The cancel of one attempt.

    Args:
        deliver: Called once, when the handler is to meet it.

    Attributes:
        entry: What was asked, once its place is reached.
        delivered: Whether the handler has met it.
    """

    __slots__ = ("_deliver", "_in_flight", "delivered", "entry")

    def __init__(self, deliver: Callable[[], None]) -> None:
        self.entry: CancelRequested | None = None
        self.delivered = False
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
