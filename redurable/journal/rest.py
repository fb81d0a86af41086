"""
When a handler is at rest, and when it waits for nothing but durable things: read from its tasks.

At rest: every task is blocked on a future that is not done (`Task._fut_waiter`, which anyio reads too). A task is
*durably blocked* when that future is ours, another task, or belongs to one of asyncio's and anyio's combinators,
told by the innermost frame of its await chain. Every other wait is foreign.
"""

from __future__ import annotations

import asyncio
from types import CodeType
from typing import Any

__all__ = ["QUIET_TURNS", "is_blocked", "waits_durably", "where"]

# combinators pass a result on by callbacks: gather needs one turn more than a plain await, wait_for two
QUIET_TURNS = 3
_Gathering: type = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]  # what gather() returns

_COMBINATORS = {
    ("asyncio", name)
    for name in (
        "TaskGroup.__aexit__", "_wait", "wait", "Event.wait", "Lock.acquire", "Condition.wait", "Semaphore.acquire",
        "Queue.get", "Queue.put", "Queue.join", "Barrier._wait", "Barrier._block", "_AsCompletedIterator._wait_for_one",
        "as_completed.<locals>._wait_for_one", "wait_for", "TaskGroup._wait", "Runner.run", "timeout",
    )
} | {
    ("anyio", name)
    for name in (
        "TaskGroup.__aexit__", "TaskGroup._wait", "Event.wait", "Lock.acquire", "Semaphore.acquire",
        "CapacityLimiter.acquire", "Condition.wait", "MemoryObjectReceiveStream.receive",
        "MemoryObjectSendStream.send", "checkpoint_if_cancelled",
    )
}  # fmt: skip


def is_blocked(task: asyncio.Task[Any]) -> bool:
    """Whether *task* is over or waits for a future that is not done."""
    if task.done():
        return True
    waiter = task._fut_waiter  # type: ignore[attr-defined]  # read as anyio reads it: there is no public way
    return waiter is not None and not waiter.done()


def _innermost(task: asyncio.Task[Any]) -> tuple[Any, CodeType | None, int]:
    """Return (what the innermost frame awaits, its code, its line)."""
    awaited: Any = task.get_coro()
    code: CodeType | None = None
    line = 0
    while awaited is not None:
        for frame_name, next_name in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            frame = getattr(awaited, frame_name, None)
            if frame is not None:
                code, line = frame.f_code, frame.f_lineno
                awaited = getattr(awaited, next_name)
                break
        else:
            break
    return awaited, code, line


def waits_durably(task: asyncio.Task[Any], ours: set[Any]) -> bool:
    """Whether *task* waits for a future in *ours*, for another task, or in a known combinator."""
    waiter = task._fut_waiter  # type: ignore[attr-defined]  # as above
    if waiter is None:
        return False
    if waiter in ours or isinstance(waiter, asyncio.Task | _Gathering):
        return True
    if _is_shield(waiter):
        return True
    _, code, _ = _innermost(task)
    if code is None:
        return False
    package = "anyio" if "anyio" in code.co_filename else "asyncio" if "asyncio" in code.co_filename else ""
    return (package, code.co_qualname) in _COMBINATORS


def _is_shield(waiter: Any) -> bool:
    """Whether *waiter* is what `asyncio.shield` returned for a task: only its callback tells."""
    for callback, _ in getattr(waiter, "_callbacks", None) or ():
        if getattr(callback, "__qualname__", "") == "shield.<locals>._outer_done_callback":
            cells = callback.__closure__ or ()
            return any(isinstance(cell.cell_contents, asyncio.Task) for cell in cells)
    return False


def where(task: asyncio.Task[Any]) -> str:
    """Return 'file:line' of the innermost frame that *task* waits in."""
    _, code, line = _innermost(task)
    return f"{code.co_filename}:{line}" if code is not None else "?"
