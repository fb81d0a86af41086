"""
Calls inside a step's body: they need no place in the journal's order, only leave to start.

Once a cancel was asked for, and until the handler has met it, no call starts there either: the body is given a
`Canceled`, and ends; what was recorded inside it stays. A step so cut short has failed for good, which is recorded as
any failure is, so that a replay comes to the cancel in the same way.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redurable.clock import now_ms
from redurable.journal.cursor import INSIDE, RUNNING, Call

if TYPE_CHECKING:
    from redurable.runtime.conductor import Conductor

__all__ = ["cut_short", "may_start"]


async def may_start(conductor: Conductor, call: Call) -> None:
    """
    Return when *call*, inside a body, may start: at once, or at its next try.

    Raises:
        Canceled: The intent is to end.
    """
    delay = (call.due - now_ms()) / 1000 if call.due is not None else 0.0
    if delay > 0:
        await asyncio.sleep(delay)
    conductor.check()
    if conductor.cancellation.pending:
        conductor.cancellation.refused = True
        raise conductor.cancellation.error()
    call.state = RUNNING


def cut_short(conductor: Conductor, call: Call) -> bool:
    """Tell whether the body of *call*, which ends cancelled, does so because a call inside it may not start."""
    if conductor.signal is not None or not conductor.cancellation.refused or not conductor.cancellation.pending:
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None  # a thread
    # a step in a step passes it on to the outermost
    return INSIDE not in call.identity[0] and not (task is not None and task.cancelling())
