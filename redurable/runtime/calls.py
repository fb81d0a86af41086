"""
What handlers call beside steps: timers, time and chance, cursors of long steps, undo work, and who they are.

`now`, `random` and `uuid4` cost no entry: time is that of the last entry that took effect, chance is derived from the
intent's id and the place of the call, so both are the same on every replay.

Outside an intent, in a program that is no worker, code that makes these calls still runs, once and undurably:

    a step, run()                       an ordinary call: no retry, no timeout, the body's own exception
    sleep(), sleep_until()              wait in the process
    now(), random(), uuid4()            the wall clock, and chance
    idempotency_key()                   a fresh key at every call
    checkpoint(), compensate(), emit(), progress()
                                        nothing
    last_checkpoint(), resume_offset()  the default, 0
    is_replaying(), unwinding()         False
    current(), fencing_token()          UsageError OUTSIDE_INTENT: there is nothing that they could name

In a worker a call that has lost its intent (a bare thread, an executor) raises OUTSIDE_INTENT, but for the two that
only ask, `is_replaying` and `unwinding`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random as _random
import threading
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, overload

from redurable.clock import Moment, Seconds, deadline_ms, now_ms, seconds, to_datetime
from redurable.codec import encode
from redurable.errors import UsageError
from redurable.journal.cursor import RUNNING
from redurable.model import TimerFired, TimerSet
from redurable.retry import Retry
from redurable.runtime.bodies import awaited
from redurable.runtime.holding import restored, sealed
from redurable.runtime.limit import Limit
from redurable.runtime.scope import Scope, current_scope, scope_var
from redurable.runtime.spec import StepSpec
from redurable.runtime.steps import perform
from redurable.runtime.streams import lasting_place
from redurable.runtime.turns import chance_of, seed_of

__all__ = [
    "Checkpoints",
    "Current",
    "checkpoint",
    "compensate",
    "current",
    "fencing_token",
    "idempotency_key",
    "is_replaying",
    "last_checkpoint",
    "now",
    "random",
    "run",
    "sleep",
    "sleep_until",
    "unwinding",
    "uuid4",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
CHECKPOINT_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Current:
    """The intent that the caller works for, and the attempt at it."""

    id: str
    queue: str
    type: str
    attempt: int
    epoch: int
    key: str | None
    deadline: datetime | None
    labels: dict[str, str]
    step: str | None
    version: str | None


def _needed(what: str) -> Scope:
    scope = current_scope(what)
    if scope is None:
        raise UsageError(
            f"{what} needs an intent", hint="call it in a handler or step that a worker runs (see redurable.testing)"
        )
    return scope


def current() -> Current:
    """Return the intent and attempt that the caller works for; UsageError OUTSIDE_INTENT without one."""
    scope = _needed("current()")
    attempt = scope.attempt
    lease = attempt.lease
    return Current(
        id=lease.id,
        queue=lease.queue,
        type=attempt.spec.type,
        attempt=lease.attempt,
        epoch=lease.epoch,
        key=lease.session.key if lease.session is not None else None,
        deadline=to_datetime(lease.deadline) if lease.deadline else None,
        labels=dict(attempt.envelope.labels),
        step=scope.step[0] if scope.step else None,
        version=lease.version or None,
    )


def idempotency_key() -> str:
    """
    Return a key that is the same on every try of this step and unlike any other step's, for APIs that take one.

    53 ASCII characters that begin with the intent's id, fit for a header. Outside an intent it is a new one each time.

    Raises:
        UsageError: In a handler, but in no step: two calls made there would share the key.
    """
    scope = current_scope("idempotency_key()")
    if scope is None:
        return str(uuid.uuid4())
    if not scope.inside:
        raise UsageError(
            "idempotency_key() names a step; it was called outside of one",
            hint="make the call that takes the key in a step",
        )
    place = hashlib.blake2b(lasting_place(scope).encode(), digest_size=8).hexdigest()
    return f"{seed_of(scope.attempt)}-{place}"


def fencing_token() -> int:
    """
    Return the attempt's epoch: it rises with every attempt, so a store can refuse an older one's writes.

    Raises:
        UsageError: OUTSIDE_INTENT: there is no attempt.
    """
    return _needed("fencing_token()").attempt.lease.epoch


def is_replaying() -> bool:
    """Return whether the handler is being brought back to where it was; False outside an intent, anywhere."""
    scope = scope_var.get()
    return scope is not None and scope.attempt.conductor.cursor.replaying


def unwinding() -> bool:
    """
    Return whether this attempt ends here while the intent goes on: free process resources, undo nothing.

    False outside an intent, anywhere.
    """
    scope = scope_var.get()
    return scope is not None and scope.attempt.conductor.signal is not None


def now() -> datetime:
    """
    Return the time (UTC) of the last thing that happened to the intent; the same on every replay.

    It does not advance between two durable calls. Outside an intent: the wall clock.
    """
    scope = current_scope("now()")
    if scope is None:
        return datetime.now(UTC)
    return to_datetime(scope.attempt.conductor.cursor.last_at or scope.attempt.lease.started)


def _chance(what: str) -> int:
    scope = current_scope(what)
    if scope is None:
        return uuid.uuid4().int
    n = scope.number(f"<{what}>")
    text = f"{chance_of(scope.attempt)}\0{scope.place()}\0{what}\0{n}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def random() -> float:
    """Return a float in [0, 1), the same on every replay. Not for secrets. Outside an intent: any."""
    return _random.Random(_chance("random()")).random()


def uuid4() -> uuid.UUID:
    """Return a UUID, the same on every replay and unlike any other call's. Outside an intent: any."""
    return uuid.UUID(int=_chance("uuid4()"), version=4)


async def sleep(delay: Seconds) -> None:
    """
    Wait, durably: the due time is recorded, and after a crash only the rest is waited for.

    A longer wait costs no process: the intent is put down and taken up again by any worker when it is due.
    Outside an intent it is asyncio.sleep.
    """
    await _until("sleep", seconds(delay, "sleep()"), None)


async def sleep_until(when: Moment) -> None:
    """
    Wait, durably, until *when* (an aware datetime, or seconds or a timedelta from now).

    Outside an intent it waits in the process.
    """
    await _until("sleep_until", None, when)


async def _until(name: str, delay: float | None, when: Moment | None) -> None:
    scope = current_scope(f"{name}()")
    if scope is None:
        due = now_ms() + int(delay * 1000) if delay is not None else deadline_ms(when or 0, now_ms(), name)
        await asyncio.sleep(max(0.0, (due - now_ms()) / 1000))
        return
    conductor = scope.attempt.conductor
    place = scope.place()
    call = conductor.ask(scope, (place, name, scope.number(name)))
    n = call.identity[2]
    await conductor.wait(scope, call)
    while call.state == RUNNING:
        at = now_ms()
        if call.due is None:
            due = at + int(delay * 1000) if delay is not None else deadline_ms(when or 0, at, name)
            await conductor.record(scope, call, TimerSet(place, name, n, at, due))
        else:
            await conductor.record(scope, call, TimerFired(place, name, n, at))
        await conductor.wait(scope, call)


class _Run:
    """`run(name, function, ...)`: a step for a function that is not ours."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    @overload
    async def __call__(
        self, name: str, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def __call__(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def __call__(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """
        Call *function* as a step named *name*; a plain function runs in a thread. Outside an intent: just that.

        What it returns is awaited if it is a coroutine: `run("ask", lambda: client.ask(question))`.

        Raises:
            StepFailed: It failed for good.
        """
        spec = StepSpec(function, name=name, **self._options)
        scope = current_scope(f"run({name!r})")
        if scope is None:
            if spec.run_in == "loop":
                return await function(*args, **kwargs)
            return await awaited(await asyncio.to_thread(function, *args, **kwargs))
        return await perform(scope, spec, spec.number(scope, args, kwargs), args, kwargs)

    def with_(
        self,
        *,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Seconds | None = None,
        result: Any = None,
        run_in: Any = None,
        on_cancel: Any = "finish",
        limit: Limit | Sequence[Limit] | None = None,
    ) -> _Run:
        """Return `run` with options of a step; *result* is the type to restore (by default the annotation)."""
        options: dict[str, Any] = {"identify": id, "retry": retry, "timeout": timeout, "run_in": run_in}
        if result is not None:
            options["result"] = result
        return _Run(on_cancel=on_cancel, limit=limit, **options)


run = _Run()


@dataclass(slots=True)
class Checkpoints:
    """Cursors of an attempt's long steps: what earlier tries kept, when the next write is allowed."""

    values: dict[str, bytes] | None = None
    next_write: dict[str, float] = field(default_factory=dict)


def _kept(scope: Scope) -> Checkpoints:
    kept = scope.attempt.checkpoints = scope.attempt.checkpoints or Checkpoints()
    return kept


async def checkpoint(value: Any) -> None:
    """
    Keep *value* as the cursor of the step that runs now, at most ten times a second.

    A re-run of the step reads the last one kept with `last_checkpoint`: at most one interval is done again.
    Outside an intent it does nothing, and `last_checkpoint` returns its default.
    """
    scope = current_scope("checkpoint()")
    if scope is None:
        return
    if scope.step is None:
        raise UsageError("checkpoint() keeps the cursor of a step; it was called outside of one")
    kept = _kept(scope)
    name, at = lasting_place(scope), scope.attempt.loop.time()
    if at < kept.next_write.get(name, 0.0):
        return
    kept.next_write[name] = at + CHECKPOINT_INTERVAL
    scope.attempt.conductor.check()
    data = await sealed(scope.attempt, encode(value, "a checkpoint", scope.attempt.limit))
    word = await scope.attempt.lease.checkpoint(name, data)
    if word != b"OK":
        scope.attempt.lost(word.decode())
        scope.attempt.conductor.check()
    if kept.values is not None:
        kept.values[name] = data


async def last_checkpoint(of: type[T] | Any = Any, default: T | Any = None) -> T | Any:
    """Return the cursor that an earlier try of this step kept, else *default*."""
    scope = current_scope("last_checkpoint()")
    if scope is None:
        return default
    if scope.step is None:
        raise UsageError("last_checkpoint() reads the cursor of a step; it was called outside of one")
    kept = _kept(scope)
    if kept.values is None:
        flat = await scope.attempt.lease.read_checkpoints()
        kept.values = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
    data = kept.values.get(lasting_place(scope))
    return default if data is None else await restored(scope, data, of, "a checkpoint")


def compensate(function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """
    Register undo work: should the intent fail or be cancelled, it runs as a step, the last registered first.

    It does not run when the attempt merely ends here (a drain, a crash). Once it has begun to, the intent is not
    retried by operators any more, see `Client.retry`. Outside an intent it does nothing.
    """
    scope = current_scope("compensate()")
    if scope is not None:
        scope.attempt.conductor.check()
        scope.attempt.compensations.append((function, args, kwargs))


def scope_of_thread(what: str) -> Scope | None:
    """Return the scope whose thread the caller is, None outside any worker; else a UsageError."""
    scope = current_scope(what)
    if scope is not None and scope.thread != threading.get_ident():
        raise UsageError(f"{what} blocks; it was called outside of the handler's threads", code="BLOCKING_STEP",
                         hint="use the function of the same name in redurable, and await it")  # fmt: skip
    return scope
