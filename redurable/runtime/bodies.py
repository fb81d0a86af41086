"""
Running the body of a step: on the loop, in a thread, in a spawned process; with its time limit.

Thread bodies keep their scope (`current()`, `checkpoint` and nested steps work in them). Process bodies are plain
functions in spawned children without our sockets; their arguments and results go by codec. Nothing here records.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import importlib
import inspect
import multiprocessing
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures.process import BrokenProcessPool
from contextvars import Context
from multiprocessing.reduction import ForkingPickler  # what the pool sends by
from typing import Any, TypeVar

import msgspec

from redurable.clock import boottime
from redurable.codec import encode, typed
from redurable.errors import ConfigurationError, StepProcessLost, Suspended
from redurable.runtime.scope import Body, Scope, scope_var
from redurable.runtime.threshold import proven
from redurable.tasks import background

__all__ = ["awaited", "close_pools", "in_process", "in_thread", "on_loop", "thread_pool"]

T = TypeVar("T")
_threads: concurrent.futures.ThreadPoolExecutor | None = None
_processes: concurrent.futures.ProcessPoolExecutor | None = None


def thread_pool(size: int | None = None) -> concurrent.futures.ThreadPoolExecutor:
    """Return the process's pool for sync handlers and thread steps; the first caller sets its size."""
    global _threads
    if _threads is None:
        _threads = concurrent.futures.ThreadPoolExecutor(size or 64, thread_name_prefix="redurable-body")
    return _threads


def close_pools() -> None:
    """End the pools without waiting for what still runs in them."""
    global _threads, _processes
    if _threads is not None:
        _threads.shutdown(wait=False, cancel_futures=True)
    if _processes is not None:
        _processes.shutdown(wait=False, cancel_futures=True)
    _threads = _processes = None


async def in_thread(scope: Scope, function: Callable[..., T], args: Any, kwargs: Any) -> T:
    """Run *function*, the handler or the body of a step, in a thread that may make synchronous durable calls."""
    context, attempt = contextvars.copy_context(), scope.attempt
    body = None if scope.step is None else Body(scope)
    inner = scope if body is None else body
    context.run(scope_var.set, inner)

    def run() -> T:
        if boottime() > attempt.lease.until:  # it may have waited for its thread
            on_loop(attempt.loop, proven(attempt))
        if body is not None and body.over:
            raise Suspended("nobody waits for it any more")
        inner.thread = threading.get_ident()
        try:
            return context.run(function, *args, **kwargs)
        finally:
            inner.thread = None

    scopes = attempt.conductor.scopes
    scopes.add(inner)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread_pool(), run)
    finally:
        if body is not None:
            scopes.discard(body)
            body.over, body.thread = True, None


async def awaited(value: Any) -> Any:
    """Return what a plain function gave; a coroutine (it was a lambda around an async call, say) is awaited first."""
    return await value if inspect.iscoroutine(value) else value


def on_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """From a thread: run *coroutine* on *loop* and return its result; signals pass through as they are."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    async def carry() -> None:
        try:
            done.set_result(await coroutine)
        except BaseException as error:
            # the waiting thread raises it; nothing is left to tell this task's own waiter
            done.set_exception(error)

    loop.call_soon_threadsafe(lambda: background(carry(), "durable call of a thread"), context=Context())
    return done.result()


def _callee(module: str, qualname: str) -> Any:
    target: Any = importlib.import_module(module)
    for part in qualname.split("."):
        target = getattr(target, part)
    # a step's public name is its wrapper
    return getattr(target, "__wrapped__", target)


def _child(module: str, qualname: str, data: bytes) -> bytes:
    args, kwargs = msgspec.msgpack.decode(data)
    try:
        return encode(_callee(module, qualname)(*args, **kwargs), f"the result of {qualname}", 1 << 30)
    except Exception as error:
        raise _portable(error) from None


class _Restored(Exception):
    """An exception on its way to another process, where it is made anew without its __init__."""

    def __init__(self, error: Exception, state: dict[str, Any]) -> None:
        super().__init__(*error.args)
        self.__traceback__ = error.__traceback__
        self._made = type(error), error.args, state

    def __reduce__(self) -> Any:
        return _restore, self._made


def _restore(kind: type[Exception], args: Any, state: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _portable(error: Exception) -> Exception:
    """Return *error* as the pool can send it: one that cannot be restored there would end the bodies of all others."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    for form in (error, _Restored(error, error.__dict__), _Restored(error, {})):
        with contextlib.suppress(Exception):
            there = ForkingPickler.loads(ForkingPickler.dumps(form))  # pyright: ignore[reportAttributeAccessIssue]  # typeshed errs
            if type(there) is type(error):
                return form
    return RuntimeError(f"{name}: {error}")


def _quiet() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


async def in_process(function: Callable[..., Any], args: Any, kwargs: Any, annotation: Any) -> Any:
    """
    Run *function* in a spawned process.

    Raises:
        ConfigurationError: It cannot be found by module and name there (a lambda, a local function).
        StepProcessLost: The process died; other bodies of the pool are told the same.
    """
    global _processes
    module, qualname = function.__module__, function.__qualname__
    if "<" in qualname or module == "__main__":
        raise ConfigurationError(
            f"{module}.{qualname} cannot run in a process: it is not importable by name",
            code="BAD_HANDLER",
            hint="move it to the top level of a module",
        )
    data = encode([args, kwargs], f"the arguments of {qualname}", 1 << 30)
    if _processes is None:
        _processes = concurrent.futures.ProcessPoolExecutor(
            max(1, os.cpu_count() or 1), multiprocessing.get_context("spawn"), initializer=_quiet
        )
    pool = _processes
    loop = asyncio.get_running_loop()
    try:
        result = await loop.run_in_executor(pool, functools.partial(_child, module, qualname, data))
    except BrokenProcessPool as error:
        if _processes is pool:
            _processes = None
        raise StepProcessLost(f"the process that ran {qualname} died") from error
    return typed(annotation).decode(result, f"the result of {qualname}")
