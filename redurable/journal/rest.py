"""
When a handler is at rest, and when it waits for nothing but durable things: read from its tasks.

At rest: every task is blocked on a future that is not done (`Task._fut_waiter`, which anyio reads too). What a blocked
task waits for is told by that future and by the innermost frame of its await chain:
- DURABLE: a future of ours, a branch, or a combinator (gather, wait, wait_for, shield, a task group) of such;
- SHARED: a lock, event, queue or the like. Branches wake each other by these, but so may others of the process;
- FOREIGN: anything else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable
from types import CodeType
from typing import Any

from redurable.errors import UsageError

__all__ = [
    "DURABLE", "FOREIGN", "QUIET_TURNS", "SHARED", "foreign_wait", "is_blocked", "kind_of_wait", "more_turns", "where",
]  # fmt: skip

# combinators pass a result on by callbacks: gather needs one turn more than a plain await, wait_for two
QUIET_TURNS = 3
_COVERED = 2  # combinators, one in another, that this many turns are enough for
FOREIGN, SHARED, DURABLE = range(3)
_Gathering: type = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]  # what gather() returns

_LIBRARIES = (f"{os.sep}asyncio{os.sep}", f"{os.sep}anyio{os.sep}")
_GROUPS = {("asyncio", "TaskGroup.__aexit__"), ("anyio", "TaskGroup.__aexit__"), ("anyio", "TaskGroup._wait")}
_PRIMITIVES = {
    ("asyncio", name)
    for name in (
        "Event.wait", "Lock.acquire", "Condition.wait", "Semaphore.acquire", "Queue.get", "Queue.put", "Queue.join",
        "Barrier._wait", "Barrier._block", "_AsCompletedIterator._wait_for_one", "as_completed.<locals>._wait_for_one",
    )
} | {
    ("anyio", name)
    for name in (
        "Event.wait", "Lock.acquire", "Semaphore.acquire", "CapacityLimiter.acquire", "Condition.wait",
        "MemoryObjectReceiveStream.receive", "MemoryObjectSendStream.send", "checkpoint_if_cancelled",
    )
}  # fmt: skip


def is_blocked(task: asyncio.Task[Any]) -> bool:
    """Whether *task* is over or waits for a future that is not done."""
    if task.done():
        return True
    waiter = task._fut_waiter  # type: ignore[attr-defined]  # read as anyio reads it: there is no public way
    return waiter is not None and not waiter.done()


def more_turns(task: asyncio.Task[Any], ours: Collection[Any]) -> int:
    """Return how many quiet turns more than usual *task* asks for: a result takes one through each combinator."""
    waiter = task._fut_waiter  # type: ignore[attr-defined]  # as above
    if waiter is None or waiter in ours or isinstance(waiter, asyncio.Task):
        return 0
    depth = _depth(waiter)
    if not depth:
        frame, code, _ = _innermost(task)
        if code is not None and code.co_name in ("_wait", "wait_for") and "asyncio" in code.co_filename:
            inner = frame.f_locals.get("fs") or [f for f in (frame.f_locals.get("fut"),) if f is not None]
            depth = 1 + max(map(_depth, inner), default=0)
    return max(0, depth - _COVERED)


def _depth(future: Any) -> int:
    """Return how many gathers and shields lie one in another."""
    if isinstance(future, asyncio.Task):
        return 0
    if isinstance(future, _Gathering):
        return 1 + max(map(_depth, getattr(future, "_children", ())), default=0)
    inner = _shielded(future)
    return 0 if inner is None else 1 + _depth(inner)


def _innermost(task: asyncio.Task[Any], theirs: tuple[str, ...] = ()) -> tuple[Any, CodeType | None, int]:
    """Return (the innermost frame, its code, its line); of the frames that are not *theirs*, if there is one."""
    awaited: Any = task.get_coro()
    innermost: Any = None
    code: CodeType | None = None
    line = 0
    while awaited is not None:
        for frame_name, next_name in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            frame = getattr(awaited, frame_name, None)
            if frame is not None:
                if code is not None and any(name in frame.f_code.co_filename for name in theirs):
                    return innermost, code, line
                innermost, code, line = frame, frame.f_code, frame.f_lineno
                awaited = getattr(awaited, next_name)
                break
        else:
            break
    return innermost, code, line


def kind_of_wait(task: asyncio.Task[Any], ours: Collection[Any]) -> int:
    """Tell what the blocked *task* waits for; *ours* are the futures of durable calls, and the branches."""
    waiter = task._fut_waiter  # type: ignore[attr-defined]  # as above
    if waiter is None:
        return FOREIGN
    if _is_durable(waiter, ours):
        return DURABLE
    frame, code, _ = _innermost(task)
    if code is None:
        return FOREIGN
    package = "anyio" if "anyio" in code.co_filename else "asyncio" if "asyncio" in code.co_filename else ""
    what = (package, code.co_qualname)
    if what in _GROUPS:
        return DURABLE
    if what in _PRIMITIVES:
        return SHARED
    if what == ("asyncio", "_wait"):
        return _all_durable(frame.f_locals.get("fs", ()), ours)
    if what == ("asyncio", "wait_for"):  # before Python 3.12
        return _all_durable((frame.f_locals.get("fut"),), ours)
    return FOREIGN


def _all_durable(futures: Iterable[Any], ours: Collection[Any]) -> int:
    return DURABLE if all(f is not None and (f.done() or _is_durable(f, ours)) for f in futures) else FOREIGN


def _is_durable(future: Any, ours: Collection[Any]) -> bool:
    if future in ours:
        return True
    if isinstance(future, _Gathering):
        return _all_durable(getattr(future, "_children", ()), ours) == DURABLE
    inner = _shielded(future)
    return inner is not None and _is_durable(inner, ours)


def _shielded(future: Any) -> Any:
    """Return what *future* shields, if `asyncio.shield` made it: only its callback tells."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        if getattr(callback, "__qualname__", "") == "shield.<locals>._outer_done_callback":
            cells = zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=False)
            return next((cell.cell_contents for name, cell in cells if name == "inner"), None)
    return None


def where(task: asyncio.Task[Any]) -> str:
    """Return 'file:line' of the user's innermost frame that *task* waits in."""
    _, code, line = _innermost(task, _LIBRARIES)
    return f"{code.co_filename}:{line}" if code is not None else "?"


def foreign_wait(places: list[str]) -> UsageError:
    """Return the error of a strict handler that waited too long for what is not durable."""
    return UsageError(
        f"the handler waits for something that is not durable, at {', '.join(places) or 'a place unknown'}",
        code="FOREIGN_WAIT",
        hint="put it into a step, or wait by redurable's own calls",
    )
