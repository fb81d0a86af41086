"""
Spinning: who calls one at a time polls a little for the answer before the loop goes to sleep.

To sleep and be woken costs more than a near server needs for its answer: on 2 virtual cores a round trip took 71 to
120 us asleep and 26 to 50 us awake. Polling for as long as a sleep costs is never worse than twice the best choice
(Karlin, Li, Manasse, Owicki: Empirical Studies of Competitive Spinning for a Shared-Memory Multiprocessor, SOSP 1991),
and a server too far away or too slow for it is soon polled for once in many calls. Awaited steps, one after another:
95 -> 52 us, at the same CPU; awaited sends a second, by 0, 50, 100, 200 us of polling: 7,400, 8,200, 11,400, 11,000 on
a unix socket and 6,400, 7,000, 9,500, 8,500 by TCP (medians of ten turns). Tried and left: the first call after a rest
(the server sleeps too, and somebody else may need this core: a lone intent took 30 us more).
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["Spin"]

LONGEST = 100e-6  # s of polling
_ROW = 200e-6  # s from an answer to the next call, within which calls follow one another
_RAREST = 6  # as a power of two: calls left out at most after one whose polling was in vain


class Spin:
    """Whether to poll for the answer to a call, learnt from the last ones."""

    __slots__ = ("_missed", "_possible", "_skip")

    def __init__(self) -> None:
        self._missed = self._skip = 0
        self._possible = _cores() > 1  # on a single core whoever polls keeps the server from answering

    def worth(self, rested: float) -> bool:
        """Whether to poll for a call that was made *rested* seconds after the last answer."""
        if rested > _ROW or not self._possible:
            return False
        if self._skip:
            self._skip -= 1
            return False
        return True

    def poll(self, read: Callable[[float], bool]) -> None:
        """Poll by *read*, which is given the seconds to poll for and tells whether anything came."""
        if read(LONGEST):
            self._missed = 0
        else:
            self._missed = min(self._missed + 1, _RAREST)
            self._skip = (1 << self._missed) - 1


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
