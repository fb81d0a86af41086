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
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, overload

import msgspec

from redurable.clock import Seconds, now_ms, seconds
from redurable.codec import Typed, typed
from redurable.errors import ConfigurationError, SerialisationError, StepFailed, UsageError
from redurable.events import emit
from redurable.journal.cursor import RUNNING, UNSET, Call
from redurable.journal.fingerprint import changed, fingerprint
from redurable.model import ErrorInfo, StepDone, StepFailedEntry, StepTried
from redurable.retry import Retry
from redurable.runtime.bodies import in_process, in_thread, on_loop
from redurable.runtime.scope import Scope, current_scope, scope_var

__all__ = ["StepSpec", "perform", "perform_sync", "step"]

P = ParamSpec("P")
R = TypeVar("R")
RunIn = Literal["loop", "thread", "process"]
OnCancel = Literal["finish", "interrupt"]
_DEFAULT_RETRY = Retry()
# another try would only meet them again
_HOPELESS = (UsageError, ConfigurationError, SerialisationError)


class StepSpec:
    """What is known of a step before it is called."""

    __slots__ = ("_result", "_typed", "code", "function", "identify", "name", "on_cancel", "retry", "run_in", "timeout")

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        identify: Callable[..., str] | str | None = None,
        retry: Retry | None = None,
        timeout: Seconds | None = None,
        run_in: RunIn | None = None,
        on_cancel: OnCancel = "finish",
        result: Any = inspect.Parameter.empty,
    ) -> None:
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise ConfigurationError(
                f"{function.__qualname__} is a generator; a step returns one value", code="BAD_HANDLER",
                hint="collect the items in a list, or make a step of each",
            )  # fmt: skip
        if run_in not in (None, "loop", "thread", "process"):
            raise ConfigurationError(f"step(run_in=) is 'loop', 'thread' or 'process', not {run_in!r}")
        if on_cancel not in ("finish", "interrupt"):
            raise ConfigurationError(f"step(on_cancel=) is 'finish' or 'interrupt', not {on_cancel!r}")
        coroutine = inspect.iscoroutinefunction(function)
        if coroutine and run_in not in (None, "loop"):
            raise ConfigurationError(
                f"step {function.__qualname__} is async and runs on the loop", code="BAD_HANDLER",
                hint=f"make it a plain def to run it in a {run_in}",
            )  # fmt: skip
        self.function = function
        self.name: str = name or getattr(function, "__name__", type(function).__name__)
        self.identify = identify
        self.retry = retry or _DEFAULT_RETRY
        self.timeout = None if timeout is None else seconds(timeout, "step(timeout=)")
        self.run_in: RunIn = run_in or ("loop" if coroutine else "thread")
        self.on_cancel = on_cancel
        self.code = fingerprint(function)
        self._result = result
        self._typed: Typed | None = None

    @property
    def typed(self) -> Typed:
        """The codec of the result's annotation, resolved at first use (forward references)."""
        if self._typed is None:
            annotation = self._result
            if annotation is inspect.Parameter.empty:
                annotation = return_annotation(self.function)
            self._typed = typed(annotation)
        return self._typed

    def number(self, scope: Scope, args: Any, kwargs: Any) -> int | str:
        """Return the n of the next call in *scope*, or the caller's own id."""
        if self.identify is None:
            return scope.number(self.name)
        return str(self.identify(*args, **kwargs) if callable(self.identify) else self.identify)


def return_annotation(function: Callable[..., Any]) -> Any:
    """Return what *function* is annotated to return; Any without an annotation or where it cannot be resolved."""
    try:
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except (NameError, TypeError, AttributeError):
        return Any
    return hints.get("return", Any)


# --- the pieces -----------------------------------------------------------------------------------------------------


async def opened(scope: Scope, spec: StepSpec, n: int | str) -> Call:
    """Ask for the step; return when it is done before, or may run now."""
    conductor = scope.attempt.conductor
    place = "" if isinstance(n, str) and not scope.inside else scope.place()
    call = conductor.ask(scope, (place, spec.name, n))
    call.code = spec.code
    call.finish = spec.on_cancel == "finish"
    await conductor.wait(scope, call)
    return call


def succeeded(spec: StepSpec, scope: Scope, call: Call, value: Any) -> StepDone:
    """Return the entry of a body that returned; keep the value as a replay would give it."""
    data, call.value = spec.typed.settle(value, f"the result of step {spec.name!r}", scope.attempt.limit)
    place, name, n = call.identity
    return StepDone(place, name, n, now_ms(), spec.code, msgspec.Raw(data))


def failed(spec: StepSpec, scope: Scope, call: Call, error: BaseException) -> StepTried | StepFailedEntry:
    """Return the entry of a body that raised: it is tried again, or has failed for good."""
    place, name, n = call.identity
    tries, now = call.tries + 1, now_ms()
    delay = None
    if scope.attempt.conductor.canceling is None and not isinstance(error, _HOPELESS):
        delay = spec.retry.delay(tries, error)
    info = ErrorInfo.of(error)
    emit("step.failed", intent=scope.attempt.lease.id, step=name, n=n, tries=tries, retry_in=delay, error=error)
    if delay is None:
        call.value = error
        return StepFailedEntry(place, name, n, now, spec.code, info, tries)
    return StepTried(place, name, n, now, info, tries, now + int(delay * 1000))


async def closed(scope: Scope, call: Call, entry: Any) -> None:
    """Record *entry*; return when the call is done, or may be tried again."""
    conductor = scope.attempt.conductor
    await conductor.record(scope, call, entry)
    await conductor.wait(scope, call)


def concluded(spec: StepSpec, scope: Scope, call: Call) -> Any:
    """Return or raise what the call's entry says."""
    entry = call.entry
    if entry.code is not spec.code and changed(entry.code, spec.code):
        scope.attempt.step_changed(spec.name, entry.n)
    live, call.value = call.value, UNSET
    if isinstance(entry, StepDone):
        if entry.code is spec.code and live is not UNSET:
            return live
        return spec.typed.decode(entry.value, f"the recorded result of step {spec.name!r}")
    info = entry.error
    failure = StepFailed(
        spec.name, info.type, info.message, code=info.code or None, bases=info.bases, details=info.details,
        traceback=info.traceback, tries=entry.tries,
    )  # fmt: skip
    raise failure from (live if isinstance(live, BaseException) else None)


def _enter(spec: StepSpec, scope: Scope, call: Call) -> tuple[str, Any]:
    """The scope is in the step's body from here on; return where it was."""
    before = scope.path, scope.step
    scope.path, scope.step = call.identity[0], (spec.name, call.identity[2])
    if call.tries:
        scope.try_again()
    return before


async def _body(spec: StepSpec, scope: Scope, call: Call, args: Any, kwargs: Any) -> Any:
    before = _enter(spec, scope, call)
    emit("step.started", intent=scope.attempt.lease.id, step=spec.name, n=call.identity[2], tries=call.tries + 1)
    try:
        async with asyncio.timeout(spec.timeout):
            if spec.run_in == "loop":
                return await spec.function(*args, **kwargs)
            if spec.run_in == "process":
                return await in_process(spec.function, args, kwargs, spec.typed.annotation)
            return await in_thread(scope, spec.function, args, kwargs)
    finally:
        scope.path, scope.step = before


async def perform(scope: Scope, spec: StepSpec, n: int | str, args: Any, kwargs: Any) -> Any:
    """Make a step's call from a task: in any gait, replayed or live, tried as often as its policy says."""
    return await _persist(scope, spec, await opened(scope, spec, n), args, kwargs)


async def _persist(scope: Scope, spec: StepSpec, call: Call, args: Any, kwargs: Any) -> Any:
    conductor = scope.attempt.conductor
    while call.state == RUNNING:
        entry: Any
        conductor.started(call)
        try:
            entry = succeeded(spec, scope, call, await _body(spec, scope, call, args, kwargs))
        except Exception as error:
            entry = failed(spec, scope, call, error)
        except asyncio.CancelledError:
            if conductor.signal is None:
                conductor.give_up(scope, call)
            raise
        await closed(scope, call, entry)
    return concluded(spec, scope, call)


def perform_sync(scope: Scope, spec: StepSpec, n: int | str, args: Any, kwargs: Any) -> Any:
    """Make a step's call from the scope's thread; the body runs in this very thread."""
    loop = scope.attempt.loop
    call = on_loop(loop, opened(scope, spec, n))
    while call.state == RUNNING:
        entry: Any
        scope.attempt.conductor.started(call)
        before = _enter(spec, scope, call)
        try:
            if spec.run_in == "process":
                value = on_loop(loop, in_process(spec.function, args, kwargs, spec.typed.annotation))
            else:
                value = spec.function(*args, **kwargs)
            entry = succeeded(spec, scope, call, value)
        except Exception as error:
            entry = failed(spec, scope, call, error)
        finally:
            scope.path, scope.step = before
        on_loop(loop, closed(scope, call, entry))
    return concluded(spec, scope, call)


async def _short_failed(scope: Scope, spec: StepSpec, n: int | str, error: Exception, args: Any, kwargs: Any) -> Any:
    """A body failed on the short way: go on with it in the general one."""
    conductor = scope.attempt.conductor
    conductor.leave_fast()
    call = conductor.take_fast_call()
    scope.step = None
    await closed(scope, call, failed(spec, scope, call, error))
    return await _persist(scope, spec, call, args, kwargs)


def _async_step(spec: StepSpec, function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    name, code = spec.name, spec.code
    plain = spec.timeout is None and spec.identify is None and spec.on_cancel == "finish"
    what = f"the result of step {name!r}"
    get_scope = scope_var.get

    @functools.wraps(function)
    async def call_step(*args: P.args, **kwargs: P.kwargs) -> R:
        scope = get_scope() or current_scope(f"step {name!r}")
        if scope is None:
            return await function(*args, **kwargs)
        attempt = scope.attempt
        conductor = attempt.conductor
        if not (plain and conductor.fast) or scope is not conductor.main or scope.step is not None:
            return await perform(scope, spec, spec.number(scope, args, kwargs), args, kwargs)  # type: ignore[no-any-return]  # typed by the wrapper
        counts = scope.counts
        n = counts[name] = counts.get(name, 0) + 1
        scope.durable = True
        scope.step = (name, n)
        cursor = conductor.cursor
        try:
            value: Any = await function(*args, **kwargs)
            data, value = spec.typed.settle(value, what, attempt.limit)
            if conductor.fast:
                entry = StepDone(scope.path, name, n, now_ms(), code, msgspec.Raw(data))
                if scope.abandoned:
                    entry.abandoned, scope.abandoned = scope.abandoned, []
                await attempt.recorder.append(entry)
                if conductor.fast:
                    cursor.applied = len(cursor)
                    cursor.last_at = entry.at
                    return value  # type: ignore[no-any-return]  # settled to the annotation
                recorded = True
            else:
                recorded = False
        except Exception as error:
            return await _short_failed(scope, spec, n, error, args, kwargs)  # type: ignore[no-any-return]  # typed by the wrapper
        except asyncio.CancelledError:
            if conductor.signal is None and not conductor.over:
                conductor.leave_fast()
                conductor.give_up(scope, conductor.take_fast_call())
            raise
        finally:
            scope.step = None
        # news came meanwhile: the call is like any other now
        call = conductor.take_fast_call()
        call.value = value
        if recorded:
            await conductor.wait(scope, call)
        else:
            await closed(scope, call, StepDone(scope.path, name, n, now_ms(), code, msgspec.Raw(data)))
        return concluded(spec, scope, call)  # type: ignore[no-any-return]  # typed by the wrapper

    return call_step


class SyncStep(typing.Generic[P, R]):
    """A plain function as a step: it blocks where it is called; `aio` awaits it from async code."""

    def __init__(self, spec: StepSpec, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._spec = spec
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
                hint="use redurable.sync.gather for parallel branches of a plain def handler",
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
        return self if instance is None else functools.partial(self, instance)


@overload
def step(function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
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
) -> Any:
    """
    Make *function* a step: within an intent its result is recorded before the next line runs, and replayed after.

    The body runs at least once and, once its result is recorded, never again. Called outside any worker it is an
    ordinary call.

    Args:
        name: Its name in the journal; the function's by default. Renaming breaks running intents.
        id: Given the call's arguments, returns the call's own id (an LLM's tool_call_id); instead of counting.
        retry: When to try a body that raised again; 4 tries by default.
        timeout: Seconds for one try, after which it fails with TimeoutError (and is retried).
        run_in: "loop" (async def), "thread" (plain def) or "process" (a spawned one, for CPU-bound work).
        on_cancel: When the intent is cancelled: let the body "finish", or "interrupt" it.

    Raises:
        StepFailed: (from the call) the body failed for good; the same live and on replay.
        SerialisationError: (from the call) the result cannot be stored or restored as annotated.
    """

    def decorate(target: Any) -> Any:
        spec = StepSpec(
            target, name=name, identify=id, retry=retry, timeout=timeout, run_in=run_in, on_cancel=on_cancel
        )
        if inspect.iscoroutinefunction(target):
            return _async_step(spec, target)
        return SyncStep(spec, target)

    return decorate if function is None else decorate(function)


class _Decorator(typing.Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncStep[P, R]: ...
