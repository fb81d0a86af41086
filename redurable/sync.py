"""
The blocking twin: a thread-safe `Client`, and the durable calls of plain `def` handlers.

The client drives an asynchronous one on a loop in a thread of its own, made at the first call and again after a fork.
In a plain handler steps are called as they are; what else would be awaited is here under the same name.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar, Unpack

from redurable import client as _client
from redurable.blocking import Operating
from redurable.clock import Moment, Seconds
from redurable.codecs.base import Codec
from redurable.errors import UsageError
from redurable.following import Following
from redurable.ids import IntentId
from redurable.model import Entry, IntentInfo, Status
from redurable.options import SendOptions
from redurable.runtime import approvals as _approvals
from redurable.runtime import calls as _calls
from redurable.runtime import children as _children
from redurable.runtime import promises as _promises
from redurable.runtime.bodies import on_loop
from redurable.runtime.calls import scope_of_thread
from redurable.runtime.scope import Scope, scope_var
from redurable.runtime.spec import StepSpec
from redurable.runtime.state import state as _state
from redurable.runtime.steps import perform_sync
from redurable.store.depths import QueueInfo
from redurable.store.inspection import WorkerInfo
from redurable.store.limits import LimitInfo

__all__ = [
    "Client", "Promise", "approval", "call", "checkpoint", "gather", "last_checkpoint", "promise", "run",
    "send", "sleep", "sleep_until", "state",
]  # fmt: skip

R = TypeVar("R")
T = TypeVar("T")


class Client(Operating, Following):
    """The blocking twin of `redurable.Client`: the same methods and guarantees, for any thread."""

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        patience: Seconds = 30.0,
        codec: Codec | Sequence[Codec] | str | None = None,
    ) -> None:
        self._client = _client.Client(url, namespace=namespace, patience=patience, codec=codec)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._lock = threading.Lock()
        self.sessions = _Blocking(self._client.sessions, self._wait)
        self.schedules = _Blocking(self._client.schedules, self._wait)
        self.deployments = _Blocking(self._client.deployments, self._wait)
        self.state: Callable[[str, str], Any] = lambda queue, key: _Blocking(self._client.state(queue, key), self._wait)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections and end the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._pid == os.getpid():
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    async def _end(self) -> None:
        """Close, and leave nothing pending on the loop: a wait that an interrupt ended, say."""
        await self._client.close()
        late = asyncio.all_tasks() - {asyncio.current_task()}
        if late:
            _, late = await asyncio.wait(late, timeout=0.2)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _wait(self, coroutine: Coroutine[Any, Any, R]) -> R:
        scope = scope_var.get()
        if scope is not None and not scope.inside:
            coroutine.close()
            raise UsageError(
                "a handler uses a client outside of a step: a replay would do it again",
                code="USE_DURABLE_SEND",
                hint="put the call into a step",
            )
        with self._lock:  # so that `close` waits for it
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=_turn, args=(self._loop,), name="redurable-client", daemon=True).start()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl+C ends this wait, and with it what was waited for
            raise

    def send(self, to: Any, payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[Any]:
        """Store an intent for *to* and return its id; see `redurable.Client.send`."""
        return self._wait(self._client.send(to, payload, **options))

    def send_many(
        self, to: Any, payloads: Iterable[Any], **options: Unpack[SendOptions]
    ) -> builtins.list[IntentId[Any]]:
        """Store an intent for each of *payloads*; *options* as `redurable.Client.send_many`."""
        return self._wait(self._client.send_many(to, payloads, **options))

    def call(self, to: Any, payload: Any = None, *, timeout: Seconds | None = None, **o: Unpack[SendOptions]) -> Any:
        """Send and wait for the result; see `redurable.Client.call`."""
        return self._wait(self._client.call(to, payload, timeout=timeout, **o))

    def wait_for(self, intent: str, timeout: Seconds | None = None, *, of: Any = None) -> Any:
        """Return the result of *intent* (0: if it is there already), or raise IntentFailed, TimeoutError, NotFound."""
        return self._wait(self._client.wait_for(intent, timeout, of=of))

    def get(self, intent: str) -> IntentInfo:
        """Return what is known of *intent*."""
        return self._wait(self._client.get(intent))

    def history(self, intent: str, since: int = 0) -> builtins.list[tuple[int, Entry]]:
        """Return (seq, entry) of its journal after seq *since*."""
        return self._wait(self._client.history(intent, since))

    def list(
        self,
        *,
        queue: str | None = None,
        status: Status | str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = 100,
    ) -> builtins.list[IntentInfo]:
        """Return up to *limit* intents that fit."""
        return self._wait(self._client.list(queue=queue, status=status, label=label, limit=limit))

    def queues(self) -> builtins.list[QueueInfo]:
        """Return every queue that ever held an intent."""
        return self._wait(self._client.queues())

    def limits(self) -> builtins.list[LimitInfo]:
        """Return every limit that is in use now; see `redurable.Client.limits`."""
        return self._wait(self._client.limits())

    def workers(self) -> builtins.list[WorkerInfo]:
        """Return the registered worker processes."""
        return self._wait(self._client.workers())

    def cancel(self, intent: str, note: str = "") -> str:
        """Ask *intent* to end; see `redurable.Client.cancel`."""
        return self._wait(self._client.cancel(intent, note))

    def retry(self, intent: str) -> None:
        """Continue a failed intent with its journal; see `redurable.Client.retry`."""
        self._wait(self._client.retry(intent))


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


class _Blocking:
    def __init__(self, target: Any, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._target, self._wait = target, wait

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        return lambda *args, **kwargs: self._wait(method(*args, **kwargs))


def _durable(what: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    scope = scope_of_thread(what)
    if scope is None:
        return asyncio.run(make())

    async def in_scope() -> T:
        scope_var.set(scope)
        return await make()

    return on_loop(scope.attempt.loop, in_scope())


def sleep(delay: Seconds) -> None:
    """Wait, durably; see `redurable.sleep`."""
    _durable("sync.sleep()", lambda: _calls.sleep(delay))


def sleep_until(when: Moment) -> None:
    """Wait, durably, until *when*; see `redurable.sleep_until`."""
    _durable("sync.sleep_until()", lambda: _calls.sleep_until(when))


def call(to: Any, payload: Any = None, **options: Unpack[SendOptions]) -> Any:
    """Run another intent as a child and return its result; see `redurable.call`."""
    return _durable("sync.call()", lambda: _children.call(to, payload, **options))


def send(to: Any, payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[Any]:
    """Send an intent, once, and return its id; see `redurable.send`."""
    return _durable("sync.send()", lambda: _children.send(to, payload, **options))


class Promise(Generic[T]):
    """A promise of a plain handler; see `redurable.promise`."""

    def __init__(self, promise: _promises.Promise[T]) -> None:
        self._promise = promise

    @property
    def token(self) -> str:
        """A text that resolves it by itself; it is a secret."""
        return self._promise.token

    def wait(self, timeout: Seconds | None = None) -> T:
        """Return the value; see `redurable.Promise.wait`."""
        return _durable("sync.promise()", lambda: self._promise.wait(timeout))


def promise(name: str, of: Any = Any, index: int = 0, *, token_expires: Seconds = _promises.TOKEN_LIFE) -> Promise[Any]:
    """Return a handle on a value that somebody outside will give; see `redurable.promise`."""
    return Promise(_promises.promise(name, of, index, token_expires=token_expires))


def approval(name: str, **options: Any) -> Promise[Any]:
    """Ask people, and wait for their answer; see `redurable.approval`."""
    return Promise(_approvals.approval(name, **options))


def checkpoint(value: Any) -> None:
    """Keep *value* as the cursor of the step that runs now; see `redurable.checkpoint`."""
    _durable("sync.checkpoint()", lambda: _calls.checkpoint(value))


def last_checkpoint(of: Any = Any, default: Any = None) -> Any:
    """Return the cursor that an earlier try of this step kept; see `redurable.last_checkpoint`."""
    return _durable("sync.last_checkpoint()", lambda: _calls.last_checkpoint(of, default))


class _State:
    """The state of the intent's session, for plain handlers; see `redurable.state`."""

    def get(self, name: str, *, of: Any = Any, default: Any = None) -> Any:
        """Return the value of *name*, or *default*; see `redurable.state`."""
        return _durable(f"sync.state.get({name!r})", lambda: _state.get(name, of=of, default=default))

    def set(self, name: str, value: Any) -> None:
        """Write *value* under *name*; see `redurable.state`."""
        _durable(f"sync.state.set({name!r})", lambda: _state.set(name, value))

    def delete(self, name: str) -> None:
        """Remove *name*; see `redurable.state`."""
        _durable(f"sync.state.delete({name!r})", lambda: _state.delete(name))

    def keys(self) -> builtins.list[str]:
        """Return the names that have a value; see `redurable.state`."""
        return _durable("sync.state.keys()", _state.keys)


state = _State()


def run(name: str, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
    """Call *function* as a step named *name*, in this thread."""
    scope = scope_of_thread(f"sync.run({name!r})")
    if scope is None:
        return function(*args, **kwargs)
    spec = StepSpec(function, name=name)
    return perform_sync(scope, spec, spec.number(scope, args, kwargs), args, kwargs)  # type: ignore[no-any-return]  # by the function's annotation


def gather(*thunks: Callable[[], Any]) -> list[Any]:
    """
    Call every thunk in a thread of its own, each a branch of the handler, and return their results in order.

    The first error is raised once all have ended.
    """
    scope = scope_of_thread("sync.gather()")
    results: list[Any] = [None] * len(thunks)
    errors: dict[int, BaseException] = {}
    children: list[Scope | None] = [None] * len(thunks)
    at_work = set[Scope | None]()

    def depart(child: Scope) -> None:
        at_work.discard(child)
        if scope is not None and not at_work:
            scope.waiting = False  # it goes on, however late its thread is told
        child.attempt.conductor.departed(child)

    def branch(i: int, child: Scope | None) -> None:
        if child is not None:
            scope_var.set(child)
            child.thread = threading.get_ident()
        try:
            results[i] = thunks[i]()
        except BaseException as error:
            errors[i] = error  # raised by the caller's thread
        finally:
            if child is not None:
                child.attempt.loop.call_soon_threadsafe(depart, child)

    if scope is not None:
        children = _branches(scope, thunks)
        at_work.update(children)
        scope.waiting = bool(at_work)  # joined threads are branches: this one is at rest
    threads = [threading.Thread(target=branch, args=(i, c), daemon=True) for i, c in enumerate(children)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return results


def _branches(scope: Scope, thunks: tuple[Callable[[], Any], ...]) -> list[Scope | None]:
    async def adopt() -> list[Scope | None]:
        children: list[Scope | None] = []
        for thunk in thunks:
            child = scope.child(getattr(thunk, "__qualname__", "thunk"))
            scope.attempt.conductor.adopt(child)
            children.append(child)
        return children

    return on_loop(scope.attempt.loop, adopt())
