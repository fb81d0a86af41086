"""
The threshold of user code: nothing begins under a lease that may have run out while this process stood still.

A process that was stopped, suspended or starved for longer than its lease finds the answer to its last record when it
goes on, and would begin the step behind it, though another has the intent by now. So each body, undo work too, and each
handler's first line is begun within `lease.until`; behind that the store is asked first. What was begun goes on.
The price is one reading of a clock: 65 ns a step. `until` is moved on by every renewal that was answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redurable.clock import boottime
from redurable.errors import StoreError
from redurable.runtime.scope import Scope
from redurable.store.keeper import renew

if TYPE_CHECKING:
    from redurable.journal.cursor import Call
    from redurable.runtime.attempt import Attempt
    from redurable.runtime.spec import StepSpec

__all__ = ["enter", "proven"]


async def proven(attempt: Attempt) -> None:
    """
    Return at once within the lease of *attempt*; else when the store has renewed it.

    Raises:
        Suspended: It is refused (Fenced), or is over, or the store gave no answer: it is being unwound.
    """
    lease = attempt.lease
    while (asked := boottime()) > lease.until:
        try:
            word = (await renew(lease, lease.worker)).decode()
        except StoreError as error:
            word = f"STORE_ERROR: {error}"
        attempt.conductor.check()
        if word not in ("OK", "NEWS", "PAUSED"):  # of news the next renewal tells
            attempt.lost(word)
            attempt.conductor.check()
        lease.until = asked + lease.term


def enter(spec: StepSpec, scope: Scope, call: Call) -> tuple[str, Any]:
    """The scope is in the step's body from here on; return where it was."""
    before = scope.path, scope.step
    scope.path, scope.step = call.identity[0], (spec.name, call.identity[2])
    if call.tries:
        scope.try_again()
    return before
