"""
Steps: functions whose results are journaled.

A call is opened (it is in the journal, or may start), its body runs, the result is recorded, and the call concludes
when its entry takes effect. The pieces are shared by the loop and by threads. The short way in `Step.__call__` is the
same for the commonest case, one branch at the end of its journal, without a call object: there a step costs one
record and no task, and 5 to 6 us of Python instead of 15.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import typing
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar, overload

import msgspec

from redurable import spans
from redurable.clock import Seconds, boottime, monotonic, now_ms
from redurable.errors import ConfigurationError, PayloadTooLarge, UsageError
from redurable.events import emit
from redurable.journal.cursor import RUNNING, Call
from redurable.model import StepDone
from redurable.retry import Retry
from redurable.runtime.bodies import awaited, in_process, in_thread, on_loop
from redurable.runtime.inside import cut_short
from redurable.runtime.limit import Limit
from redurable.runtime.scope import Scope, current_scope, scope_var
from redurable.runtime.seats import kept, leave, seated
from redurable.runtime.spec import OnCancel, RunIn, StepSpec, remember, step_spec
from redurable.runtime.threshold import enter, proven
from redurable.runtime.verdicts import concluded, failed, succeeded
from redurable.tasks import within

if typing.TYPE_CHECKING:
    from redurable.runtime.streams import Stream

__all__ = ["perform", "perform_sync", "step", "step_spec"]

P = ParamSpec("P")
R = TypeVar("R")


async def opened(scope: Scope, spec: StepSpec, n: int | str) -> Call:
    """Ask for the step; return when it is done before, or may run now."""
    conductor = scope.attempt.conductor
    place = scope.place_of(n)
    call = conductor.ask(scope, (place, spec.name, n))
    call.code = spec.code
    call.finish = spec.on_cancel == "finish" or scope.task is None  # a thread cannot be interrupted
    await conductor.wait(scope, call)
    return call


async def closed(spec: StepSpec, scope: Scope, call: Call, entry: Any) -> None:
    """Record *entry*; return when the call is done, or may be tried again."""
    conductor = scope.attempt.conductor
    if scope.attempt.telling is not None:
        try:
            await scope.attempt.telling.flush()  # what its body told would not be told again
        except asyncio.CancelledError:
            if conductor.signal is None:
                conductor.give_up(call)
            raise
    try:
        await conductor.record(scope, call, entry)
    except PayloadTooLarge as error:  # by what an entry is more than its value
        entry, entry.abandoned = failed(spec, scope, call, error), entry.abandoned
        await conductor.record(scope, call, entry)
    await conductor.wait(scope, call)


def _exit(spec: StepSpec, scope: Scope, call: Call, before: tuple[str, Any]) -> None:
    scope.path, scope.step = before
    if spec.limits:
        leave(scope, call)


async def _body(spec: StepSpec, scope: Scope, call: Call, args: Any, kwargs: Any) -> Any:
    if boottime() > scope.attempt.lease.until:
        await proven(scope.attempt)
    before = enter(spec, scope, call)
    emit("step.started", intent=scope.attempt.lease.id, step=spec.name, n=call.identity[2], tries=call.tries + 1)
    begun = 0.0 if scope.attempt.timed is None else monotonic()
    try:
        async with within(spec.timeout):
            if spec.name in scope.attempt.stand_ins:
                return await scope.attempt.stand_ins[spec.name](*args, **kwargs)
            if spec.run_in == "loop":
                return await spec.function(*args, **kwargs)
            if spec.run_in == "process":
                return await in_process(spec.function, args, kwargs, spec.typed.annotation)
            return await awaited(await in_thread(scope, kept(scope, call, spec.function), args, kwargs))
    except (KeyboardInterrupt, SystemExit) as error:  # in a branch it would end the loop
        raise RuntimeError(f"the step raised {type(error).__name__}") from error
    except asyncio.CancelledError:
        begun = 0.0
        raise
    finally:
        _exit(spec, scope, call, before)
        scope.ran(spec.name, begun)


async def perform(scope: Scope, spec: StepSpec, n: int | str, args: Any, kwargs: Any) -> Any:
    """Make a step's call from a task: in any gait, replayed or live, tried as often as its policy says."""
    return await _persist(scope, spec, await opened(scope, spec, n), args, kwargs)


async def _persist(scope: Scope, spec: StepSpec, call: Call, args: Any, kwargs: Any) -> Any:
    if call.state == RUNNING:
        with spans.step(scope.attempt.lease, call.identity) as seen:
            await _tried(scope, spec, call, args, kwargs)
            seen.done("", tries=getattr(call.entry, "tries", call.tries + 1))
    return concluded(spec, scope, call)


async def _tried(scope: Scope, spec: StepSpec, call: Call, args: Any, kwargs: Any) -> None:
    conductor = scope.attempt.conductor
    while call.state == RUNNING and (not spec.limits or await seated(scope, spec, call, args, kwargs)):
        entry: Any
        conductor.bodies.add(call)
        try:
            entry = succeeded(spec, scope, call, await _body(spec, scope, call, args, kwargs))
        except Exception as error:
            entry = failed(spec, scope, call, error)
        except asyncio.CancelledError:
            if not cut_short(conductor, call):
                if conductor.signal is None:
                    conductor.give_up(call)
                raise
            entry = failed(spec, scope, call, conductor.cancellation.error())
        await closed(spec, scope, call, entry)


def perform_sync(scope: Scope, spec: StepSpec, n: int | str, args: Any, kwargs: Any) -> Any:
    """Make a step's call from the scope's thread; the body runs in this very thread."""
    call = on_loop(scope.attempt.loop, opened(scope, spec, n))
    if call.state == RUNNING:
        with spans.step(scope.attempt.lease, call.identity) as seen:
            _tried_sync(scope, spec, call, args, kwargs)
            seen.done("", tries=getattr(call.entry, "tries", call.tries + 1))
    return concluded(spec, scope, call)


def _tried_sync(scope: Scope, spec: StepSpec, call: Call, args: Any, kwargs: Any) -> None:
    loop, conductor = scope.attempt.loop, scope.attempt.conductor
    while call.state == RUNNING and (not spec.limits or on_loop(loop, seated(scope, spec, call, args, kwargs))):
        entry: Any
        conductor.bodies.add(call)
        if boottime() > scope.attempt.lease.until:
            on_loop(loop, proven(scope.attempt))
        before = enter(spec, scope, call)
        begun = monotonic()
        try:
            if spec.name in scope.attempt.stand_ins:
                value = on_loop(loop, scope.attempt.stand_ins[spec.name](*args, **kwargs))
            elif spec.run_in == "process":
                value = on_loop(loop, in_process(spec.function, args, kwargs, spec.typed.annotation))
            else:
                value = kept(scope, call, spec.function)(*args, **kwargs)
            entry = succeeded(spec, scope, call, value)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not cut_short(conductor, call):
                if conductor.signal is None:
                    loop.call_soon_threadsafe(conductor.give_up, call)
                raise
            entry = failed(spec, scope, call, error)
        finally:
            _exit(spec, scope, call, before)
        scope.ran(spec.name, begun)
        on_loop(loop, closed(spec, scope, call, entry))


async def _short_failed(
    scope: Scope, spec: StepSpec, n: int | str, error: Exception, args: Any, kwargs: Any, begun: float
) -> Any:
    """A body failed on the short way: go on with it in the general one."""
    scope.ran(spec.name, begun)
    call, scope.step = scope.attempt.conductor.take_fast_call(), None
    await closed(spec, scope, call, failed(spec, scope, call, error))
    return await _persist(scope, spec, call, args, kwargs)


async def _short_canceled(scope: Scope, spec: StepSpec, error: asyncio.CancelledError) -> Any:
    """A body ended cancelled on the short way: it was cut short, and has failed, or it is given up."""
    conductor = scope.attempt.conductor
    if conductor.signal is None and not conductor.over:
        call, scope.step = conductor.take_fast_call(), None
        if cut_short(conductor, call):
            await closed(spec, scope, call, failed(spec, scope, call, conductor.cancellation.error()))
            return concluded(spec, scope, call)
        conductor.give_up(call)
    raise error


def _async_step(spec: StepSpec, function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    name, code = spec.name, spec.code
    plain = spec.timeout is None and spec.identify is None and spec.on_cancel == "finish" and not spec.limits
    what = f"the result of step {name!r}"
    get_scope = scope_var.get

    @functools.wraps(function)
    async def call_step(*args: P.args, **kwargs: P.kwargs) -> R:
        scope = get_scope() or current_scope(f"step {name!r}")
        if scope is None:
            return await function(*args, **kwargs)
        attempt = scope.attempt
        conductor = attempt.conductor
        # an observer stands around calls, and the short way has none; nor has it a place to wait for the lease
        slow = spans.observer is not None or boottime() > attempt.lease.until
        if slow or not (plain and conductor.fast) or scope is not conductor.main or scope.step is not None:
            return await perform(scope, spec, spec.number(scope, args, kwargs), args, kwargs)  # type: ignore[no-any-return]  # typed by the wrapper
        counts = scope.counts
        n = counts[name] = counts.get(name, 0) + 1
        scope.durable = True
        scope.step = (name, n)
        cursor = conductor.cursor
        begun = 0.0 if attempt.timed is None else monotonic()
        try:
            value: Any = await function(*args, **kwargs)
            if begun:
                begun = scope.ran(name, begun)
            data, value = spec.typed.settle(value, what, attempt.limit)
            if conductor.still_fast():
                entry = StepDone(scope.path, name, n, now_ms(), code, msgspec.Raw(data))
                if conductor.abandoned:
                    entry.abandoned, conductor.abandoned = conductor.abandoned, []
                await attempt.recorder.append(entry)
                if conductor.still_fast():
                    cursor.applied = len(cursor)
                    cursor.last_at = entry.at
                    return value  # type: ignore[no-any-return]  # settled to the annotation
                recorded = True
            else:
                recorded = False
        except Exception as error:
            return await _short_failed(scope, spec, n, error, args, kwargs, begun)  # type: ignore[no-any-return]  # typed by the wrapper
        except asyncio.CancelledError as error:
            return await _short_canceled(scope, spec, error)  # type: ignore[no-any-return]  # it raises
        finally:
            scope.step = None
        # news came meanwhile: the call is like any other now
        call = conductor.take_fast_call()
        call.value = value
        if recorded:
            await conductor.wait(scope, call)
        else:
            await closed(spec, scope, call, StepDone(scope.path, name, n, now_ms(), code, msgspec.Raw(data)))
        return concluded(spec, scope, call)  # type: ignore[no-any-return]  # typed by the wrapper

    remember(call_step, spec)
    call_step.__redurable_step__ = True  # type: ignore[attr-defined]  # our own mark: a step is no handler
    return call_step


class SyncStep(typing.Generic[P, R]):
    """A plain function as a step: it blocks where it is called; `aio` awaits it from async code."""

    def __init__(self, spec: StepSpec, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._spec = spec
        remember(self, spec)
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """
        Run the step and wait for it.

        Raises:
            UsageError: BLOCKING_STEP on the event loop (use `aio`); OUTSIDE_INTENT in a thread that is no branch.
        """
        spec = self._spec
        scope = current_scope(f"step {spec.name!r}")
        if scope is None:
            return self._function(*args, **kwargs)
        if scope.thread != threading.get_ident():
            if threading.get_ident() == scope.attempt.thread:
                raise UsageError(
                    f"step {spec.name!r} is a plain function and would block the event loop",
                    code="BLOCKING_STEP",
                    hint=f"write `await {spec.name}.aio(...)`, or make the handler a plain def",
                )
            raise UsageError(
                f"step {spec.name!r} was called in a thread that is no branch of the handler",
                hint=f"in async code `await {spec.name}.aio(...)`; in a plain def handler redurable.sync.gather",
            )
        return perform_sync(scope, spec, spec.number(scope, args, kwargs), args, kwargs)  # type: ignore[no-any-return]  # typed by the wrapper

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step in a thread (or process, by `run_in`) and await it."""
        spec = self._spec
        scope = current_scope(f"step {spec.name!r}")
        if scope is None:
            return await asyncio.to_thread(self._function, *args, **kwargs)
        return await perform(scope, spec, spec.number(scope, args, kwargs), args, kwargs)  # type: ignore[no-any-return]  # typed by the wrapper

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound: Any = functools.partial(self, instance)
        bound.aio = functools.partial(self.aio, instance)
        return bound


# A coroutine function also is a function: the first form that fits is meant. It gives Coroutine[object, None, R]: with
# Any in its place mypy loses the types of asyncio.gather(step_a(), step_b()).
@overload
def step(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]  # as said
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> Callable[P, Coroutine[object, None, R]]: ...
@overload
def step(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]  # as said
    function: Callable[P, AsyncIterator[R]], /
) -> Callable[P, Stream[R]]: ...
@overload
def step(function: Callable[P, R], /) -> SyncStep[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    id: Callable[..., str] | None = None,
    retry: Retry | None = None,
    timeout: Seconds | None = None,
    run_in: RunIn | None = None,
    on_cancel: OnCancel = "finish",
    limit: Limit | Sequence[Limit] | None = None,
    resume: bool = False,
) -> _Decorator: ...
def step(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    id: Callable[..., str] | None = None,
    retry: Retry | None = None,
    timeout: Seconds | None = None,
    run_in: RunIn | None = None,
    on_cancel: OnCancel = "finish",
    limit: Limit | Sequence[Limit] | None = None,
    resume: bool = False,
) -> Any:
    """
    Make *function* a step: within an intent its result is recorded before the next line runs, and replayed after.

    The body runs at least once and, once its result is recorded, never again. Outside an intent, in a program that is
    no worker, it is an ordinary call: no retry, no timeout, the body's own exception. In a worker a step that has
    lost its intent raises UsageError OUTSIDE_INTENT.

    An async generator becomes a stream step: `async for item in generate(...)`. Watchers see its items as they come;
    they are recorded, and given to the handler, when its body has ended, or with *resume* in chunks as they come.

    Args:
        name: Its name in the journal; the function's by default. Renaming breaks running intents.
        id: Given the call's arguments, returns the call's own id (an LLM's tool_call_id); instead of counting.
        retry: When to try a body that raised again; 4 tries by default.
        timeout: Seconds for one try, after which it fails with TimeoutError (and is retried).
        run_in: "loop" (async def), "thread" (plain def) or "process" (a spawned one, for CPU-bound work).
        on_cancel: When the intent is cancelled: let the body "finish", or "interrupt" it.
        limit: How many bodies may run at a time, or begin within a time, over all workers; see `Limit`. Each try asks
            anew.
        resume: Of an async generator: a body that has to run again goes on, see `resume_offset`, and does not begin
            anew. Each chunk of its items is a step of its own, with its tries and its timeout.

    Raises:
        StepFailed: (from the call) the body failed for good; the same live and on replay.
        SerialisationError: (from the call) the result cannot be stored or restored as annotated.
    """

    def decorate(target: Any) -> Any:
        if inspect.isasyncgenfunction(target):
            from redurable.runtime.streams import stream_step

            return stream_step(target, resume, run_in, name=name, identify=id, retry=retry, timeout=timeout,
                               on_cancel=on_cancel, limit=limit)  # fmt: skip
        if resume:
            raise ConfigurationError("step(resume=True) is for async generators", code="BAD_HANDLER")
        spec = StepSpec(target, name=name, identify=id, retry=retry, timeout=timeout, run_in=run_in,
                        on_cancel=on_cancel, limit=limit)  # fmt: skip
        if inspect.iscoroutinefunction(target):
            return _async_step(spec, target)
        return SyncStep(spec, target)

    return decorate if function is None else decorate(function)


class _Decorator(typing.Protocol):
    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]  # as above
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[object, None, R]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]  # as above
        self, function: Callable[P, AsyncIterator[R]], /
    ) -> Callable[P, Stream[R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncStep[P, R]: ...
