"""
Background tasks and timers of redurable itself.

They run in an empty context: made while user code runs, they must not be taken for a branch of its handler. A task
that fails is reported once as the event `task.failed`, never lost in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Any

from redurable.events import emit

__all__ = ["background", "later", "soon", "within"]

_ENDLESS = contextlib.nullcontext()


def background(coroutine: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
    """Run *coroutine* as a task of redurable's own."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine, name=name or getattr(coroutine, "__qualname__", None), context=Context())
    task.add_done_callback(_report, context=Context())
    return task


def later(loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
    """Call in *seconds*, as `loop.call_later`, in an empty context."""
    return loop.call_later(max(0.0, seconds), call, *args, context=Context())


def soon(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *args: Any) -> asyncio.Handle:
    """Call in the next turn, in an empty context."""
    return loop.call_soon(call, *args, context=Context())


def within(seconds: float | None) -> AbstractAsyncContextManager[Any]:
    """Give what is done inside *seconds*, then TimeoutError; as `asyncio.timeout`, which for None costs 2 us."""
    return _ENDLESS if seconds is None else asyncio.timeout(seconds)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        emit("task.failed", task=task.get_name(), error=error)
