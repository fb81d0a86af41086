"""
The event loop of a worker: every task started inside a handler becomes a scope, every timer it arms is seen.

uvloop is used where it is installed. The timers matter for parking only: a handler whose own tasks wait for the
process's clock (asyncio.timeout, wait_for, sleep) stays in the process.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any
from zlib import crc32

from redurable.runtime.scope import Scope, scope_var

__all__ = ["Loop", "install", "new_event_loop", "task_factory"]


def _armed_by(context: Context | None) -> Scope | None:
    """Return the scope whose timer one of *context* would be."""
    scope = scope_var.get() if context is None else context.get(scope_var)
    return None if scope is None or scope.inside else scope


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop, which also notes the timers that handlers arm; see `install`."""

    def call_at(  # type: ignore[override]  # the same, without typeshed's variadic tie of callback and args
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        scope, start = _armed_by(context), super().call_at
        if scope is None:
            return start(when, callback, *args, context=context)
        return scope.arm(lambda call: start(when, call, *args, context=context), callback)


def new_event_loop(uv: bool | None = None) -> asyncio.AbstractEventLoop:
    """Return a worker's loop: uvloop's if *uv*, asyncio's if not, the faster one at hand if None."""
    loop: asyncio.AbstractEventLoop
    if uv is not False:
        try:
            import uvloop
        except ImportError:
            if uv:
                raise
        else:

            class UvLoop(uvloop.Loop):
                def call_later(  # type: ignore[override]  # as above
                    self, delay: float, callback: Any, *args: Any, context: Context | None = None
                ) -> asyncio.TimerHandle:
                    scope, start = _armed_by(context), super().call_later
                    if scope is None:
                        return start(delay, callback, *args, context=context)
                    return scope.arm(lambda call: start(delay, call, *args, context=context), callback)

            loop = UvLoop()
            install(loop)
            return loop
    loop = Loop()
    install(loop)
    return loop


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Make *loop* name the branches of handlers."""
    loop.set_task_factory(task_factory)
    asyncio.as_completed = asyncio.tasks.as_completed = _as_completed


class Branch(asyncio.Task[Any]):
    """
    A task whose place in a set is a matter of its name and not of its address.

    So what `asyncio.wait` returns is walked in the same order on every run, and so is what a group cancels.
    """

    def __init__(self, coroutine: Any, scope: Scope, **options: Any) -> None:
        # of the intent too: asyncio keeps one set of all tasks, in which those of one name would collide
        self._place = crc32(scope.path.encode(), crc32(scope.attempt.lease.id.encode()))
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._place


_their_as_completed = asyncio.as_completed


@functools.wraps(_their_as_completed)
def _as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    # theirs makes the tasks in the order of a set of coroutines: it would name them by chance
    if scope_var.get() is None or asyncio.isfuture(fs) or asyncio.iscoroutine(fs):
        return _their_as_completed(fs, timeout=timeout)
    return _in_order(fs, timeout) if sys.version_info < (3, 13) else _their_as_completed(_started(fs), timeout=timeout)


def _in_order(fs: Iterable[Any], timeout: float | None) -> Iterator[Any]:
    yield from _their_as_completed(_started(fs), timeout=timeout)


def _started(fs: Iterable[Any]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(f) for f in dict.fromkeys(fs)]


def task_factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task; inside a handler it is a scope of its own, named after its parent and its coroutine."""
    context: Context | None = options.pop("context", None)
    scope = scope_var.get() if context is None else context.get(scope_var)
    if scope is None or scope.attempt.conductor.over:
        return asyncio.Task(coroutine, loop=loop, context=context, **options)
    child = scope.child(_name_of(coroutine))
    # a copy: a context that the caller shares between tasks must not share the scope
    context = copy_context() if context is None else context.copy()
    context.run(scope_var.set, child)
    task = Branch(coroutine, child, loop=loop, context=context, **options)
    conductor = scope.attempt.conductor
    child.task = task
    conductor.adopt(child)
    task.add_done_callback(lambda _: conductor.departed(child), context=Context())
    return task


def _name_of(coroutine: Any) -> str:
    """Return the qualified name of what the program started; newer releases of anyio wrap it in one of their own."""
    name: str = getattr(coroutine, "__qualname__", type(coroutine).__qualname__)
    if name.endswith("._run_coro") and (frame := getattr(coroutine, "cr_frame", None)) is not None:
        handle = frame.f_locals.get("self")
        name = getattr(getattr(handle, "_coro", None), "__qualname__", name)
    return name
