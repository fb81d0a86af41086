"""
Children: intents that a handler sends, to any queue, once each.

A child's id follows from its parent's and from the place of the call in it, so that a replay, or a second worker, sends
the same intent again, which changes nothing. Its outcome comes into the parent's journal from outside, as a promise's
value does. A call that is given up, and a parent that ends, cancel the children that still run; what was sent by `send`
goes its own way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, Unpack, overload

from redurable.clock import now_ms
from redurable.codec import typed
from redurable.errors import (
    CodecError,
    ConfigurationError,
    ContinuedAsNew,
    Fenced,
    IntentFailed,
    NotFound,
    SerialisationError,
    StoreError,
    UsageError,
)
from redurable.ids import IntentId, derived_id, partition_for, partition_of
from redurable.journal.cursor import ABANDONED, RUNNING, Call, Identity
from redurable.model import Arrived, Called, ErrorInfo, Outcome, Reason, Status
from redurable.options import SendOptions
from redurable.runtime.attempt import Attempt
from redurable.runtime.handlers import spec_of
from redurable.runtime.holding import unless_replayed
from redurable.runtime.promises import handler_scope
from redurable.runtime.scope import Scope
from redurable.runtime.sending import accepted, submit
from redurable.runtime.spec import StepSpec
from redurable.runtime.steps import perform
from redurable.runtime.turns import seed_of
from redurable.store.bursts import burst_of
from redurable.store.courier import tell
from redurable.store.deadlocks import check_deadlock
from redurable.store.inspection import outcome
from redurable.store.store import Store
from redurable.tasks import background

__all__ = ["call", "send"]

R = TypeVar("R")
RECHECK = 60_000  # ms; a child of that age is looked at whenever its parent comes by


class _Child:
    """One intent that a handler sends: *identity* is the place of the call."""

    def __init__(self, attempt: Attempt, identity: Identity, to: Any, payload: Any, options: SendOptions) -> None:
        if options.get("idempotency_key") is not None:
            raise ConfigurationError(
                "a handler's call() and send() take no idempotency_key", hint="each is done once as it is"
            )
        if (debounce := options.get("debounce")) is not None:
            burst_of(debounce)  # which refuses it, before anything is journaled
        self.queue: str = to if isinstance(to, str) else spec_of(to).queue
        self.stand_in = attempt.stand_ins.get(f"call {self.queue}")
        store: Any = attempt.lease.store
        if not isinstance(store, Store) and self.stand_in is None:
            raise UsageError(
                "call() and send() need a server: nobody runs other intents in memory", code="TEST_WORKER",
                hint=f"say what comes of it, run(..., children={{{self.queue!r}: ...}}), or test it with a worker",
            )  # fmt: skip
        self.attempt = attempt
        self.store = store
        self.to, self.payload, self.options = to, payload, options
        cursor, parent = attempt.conductor.cursor, attempt.lease.id
        known = cursor.called.get(identity)
        if known is not None:
            self.id = known.child
            return
        key = options.get("key")
        partition = partition_of(parent) if key is None else partition_for(len(store.keys), self.queue, key)
        # after an operator's retry a child that had failed is called anew, and a fork calls its own; but one whose
        # outcome is there is the one, even if its parent died before it wrote that it had called
        seeds = (seed_of(attempt), *(seed for _, seed in cursor.forks))
        turns = [(str(n),) if n else () for n in range(cursor.reopened, -1, -1)]
        ids = [derived_id(partition, "child", seed, *map(str, identity), *turn) for seed in seeds for turn in turns]
        self.id = next((child for child in ids if child in cursor.brought), ids[0])

    @property
    def line(self) -> str | None:
        """The key of the session in whose line it would stand; one that is shared stands in none."""
        shared = self.options.get("shared")
        if shared is None and not isinstance(self.to, str):
            shared = spec_of(self.to).shared
        return None if shared else self.options.get("key")

    async def submit(self, waited: bool) -> bool:
        """Store the child; again is no matter. Return whether it stands in its session's line."""
        attempt, payload = self.attempt, self.payload
        if self.stand_in is not None:
            await self.stand_in(self.id, payload, waited)
            return False
        if attempt.vault is not None:
            payload = await attempt.vault.wrap(payload, attempt.limit)
        parent = attempt.lease.id
        reply = f"^{parent}" if waited else ""
        _, answer = submit(self.store, attempt.limit, reply, self.to, payload, child=(self.id, parent), **self.options)
        word = await answer
        accepted(word, self.to, self.options)
        return bool(word == b"QUEUED")

    async def start(self, seen: int) -> None:
        """
        Store the child that its parent is to wait for, and have the parent's end find it, should that be next.

        The first *seen* entries of the parent's journal did not bring its outcome.

        Raises:
            Fenced: The parent is another attempt's by now.
            UsageError: SESSION_DEADLOCK; the child is there, and waits in line.
        """
        lease, line = self.attempt.lease, self.line
        if self.stand_in is not None:
            await self.submit(True)
            return
        if line is not None:
            await check_deadlock(self.store, lease.id, self.queue, line)
        # both leave together: a process that dies now has not written yet that it has called this child
        told = lease.declare(self.id, seen)
        try:
            queued = await self.submit(True)
        finally:
            word = await told
        if word != b"OK":
            with contextlib.suppress(NotFound):
                if await outcome(self.store, lease.id) is not None:  # it has ended, and told only those it knew of
                    await self.cancel()
            raise Fenced(word.decode())
        if line is not None and queued:
            await check_deadlock(self.store, lease.id, self.queue, line)

    async def cancel(self) -> None:
        """Ask the child to end, if it was stored."""
        if self.stand_in is not None:
            return
        with contextlib.suppress(NotFound):
            await self.store.cancel(self.id, "its parent gave it up")

    async def check(self) -> None:
        """A failover may have lost the child, or its outcome on the way here: bring what is missing."""
        try:
            ended = await outcome(self.store, self.id)
        except NotFound:
            await self.submit(True)
            return
        if ended is not None:
            await tell(self.store, self.attempt.lease.id, self.id, ended)


@overload
async def call(to: Callable[..., Coroutine[Any, Any, R]], payload: Any = None, **options: Unpack[SendOptions]) -> R: ...
@overload
async def call(to: Callable[..., R], payload: Any = None, **options: Unpack[SendOptions]) -> R: ...
@overload
async def call(to: str, payload: Any = None, **options: Unpack[SendOptions]) -> Any: ...
async def call(to: Any, payload: Any = None, **options: Unpack[SendOptions]) -> Any:
    """
    Run another intent as a child of this one, once, and return its result.

    While nothing else is left to do this intent is put down. If the call is cancelled (with the intent, or by a race
    that it lost), so is the child; its compensation runs.

    Args:
        to: A queue's name, or the handler itself; then payload and result are checked against its annotations.
        options: See `SendOptions`; all but `idempotency_key`.

    Raises:
        IntentFailed: It ended without a result; `status` says how. The same on every replay.
            SESSION_DEADLOCK as its code: the child would wait for the session that this intent holds, or one above it.
        UsageError: INSIDE_STEP, OUTSIDE_INTENT.
    """
    scope = handler_scope("call()")
    attempt = scope.attempt
    conductor = attempt.conductor
    name = f"call {to if isinstance(to, str) else spec_of(to).queue}"
    child, ended = await _outcome(scope, name, to, payload, options)
    while child.id in conductor.cursor.outlived:  # it ended with its parent, which was retried since
        child, ended = await _outcome(scope, name, to, payload, options)
    if ended.status is not Status.COMPLETED:
        raise IntentFailed(child.id, ended.status.value, ended.error)
    result = typed(Any) if isinstance(to, str) else spec_of(to).result
    try:
        return result.decode(ended.value, f"the result of {name[5:]}")
    except CodecError as error:
        attempt.hold(error)
        raise
    except SerialisationError as error:
        unless_replayed(attempt, error)
        raise


async def _outcome(scope: Scope, name: str, to: Any, payload: Any, options: SendOptions) -> tuple[_Child, Arrived]:
    """Start the child of this call, if an earlier attempt has not, and return it with what it ended in."""
    attempt = scope.attempt
    conductor = attempt.conductor
    cursor = conductor.cursor
    identity = (scope.place(), name, scope.number(name))
    child = _Child(attempt, identity, to, payload, options)
    attempt.owes = attempt.owes or child.stand_in is None
    held = conductor.ask(scope, identity, child.id, Reason.INTENT)
    started = cursor.called.get(identity)
    if started is not None:
        held.since = started.at
        # a parent that had ended may have been told while it did not listen
        unheard = child.id in cursor.earlier or now_ms() - started.at > RECHECK
        if unheard and child.id not in cursor.brought:
            background(child.check(), "look at a child")
    try:
        await conductor.wait(scope, held)
        while held.state == RUNNING:
            background(_start(child, held, cursor.applied), "start a child")
            await conductor.wait(scope, held)
    except asyncio.CancelledError:
        if conductor.signal is None:
            background(child.cancel(), "cancel a child")
        raise
    return child, held.entry


async def _start(child: _Child, held: Call, seen: int) -> None:
    attempt = child.attempt
    conductor = attempt.conductor
    try:
        try:
            await child.start(seen)
        except (StoreError, CodecError):
            raise
        except Exception as error:  # it cannot be: its session is busy, say; that is its outcome
            await tell(child.store, attempt.lease.id, child.id, Outcome(Status.FAILED, error=ErrorInfo.of(error)))
            await child.cancel()
            return
    except Fenced as fenced:
        attempt.lost(str(fenced))
        return
    except StoreError as error:
        attempt.lost(f"STORE_ERROR: {error}")
        return
    except CodecError as error:
        attempt.hold(error)
        return
    if held.state == ABANDONED or isinstance(conductor.signal, ContinuedAsNew):
        await child.cancel()
    elif conductor.signal is None:
        held.since = now_ms()
        conductor.write(held, Called(*held.identity, held.since, child.id))


@overload
async def send(
    to: Callable[..., Coroutine[Any, Any, R]], payload: Any = None, **options: Unpack[SendOptions]
) -> IntentId[R]: ...
@overload
async def send(to: Callable[..., R], payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[R]: ...
@overload
async def send(to: str, payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[Any]: ...
async def send(to: Any, payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[Any]:
    """
    Send an intent, once, and return its id; nobody waits for it, and it outlives this one.

    Args:
        to, payload, options: As in `call`.
    """
    scope = handler_scope("send()")
    queue = to if isinstance(to, str) else spec_of(to).queue
    spec = _sending(queue)
    n = scope.number(spec.name)
    child = _Child(scope.attempt, (scope.place(), spec.name, n), to, payload, options)
    return IntentId(await perform(scope, spec, n, (child,), {}))


@functools.lru_cache(maxsize=1024)
def _sending(queue: str) -> StepSpec:
    spec = StepSpec(_submitted, name=f"send {queue}")
    spec.code = b""  # ours: it may change with a release
    return spec


async def _submitted(child: _Child) -> str:
    try:
        await child.submit(False)
    except CodecError as error:
        child.attempt.hold(error)
        raise
    return child.id
