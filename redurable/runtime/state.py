"""
The state of a session, as its handlers read and write it: names and values that outlive every intent of the session.

Reads are journaled, so a replay sees what the handler saw. Writes are kept by the attempt and shown to others when the
intent parks or completes, in that very script; an intent that ends otherwise has never written what came after its
last park. What a handler wrote itself it reads back at once. Invariants: only the intent that holds the session
writes; no write happens inside a step, since a replay would not repeat it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from redurable.clock import now_ms
from redurable.codec import encode
from redurable.errors import UsageError
from redurable.journal.cursor import RUNNING
from redurable.model import StepDone
from redurable.runtime.holding import restored, sealed
from redurable.runtime.scope import Scope, current_scope
from redurable.store.session import KEEP_STATE_MS, Session, check_name

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt

__all__ = ["State", "state"]

T = TypeVar("T")
_decode_read = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_names = msgspec.msgpack.Decoder(list[str]).decode


class State:
    """The state of the session that the intent belongs to; the one instance is `redurable.state`."""

    @overload
    async def get(self, name: str, *, of: type[T], default: T) -> T: ...
    @overload
    async def get(self, name: str, *, of: type[T]) -> T | None: ...
    @overload
    async def get(self, name: str, *, default: Any = None) -> Any: ...
    async def get(self, name: str, *, of: Any = Any, default: Any = None) -> Any:
        """
        Return the value of *name*, or *default* if there is none.

        What is read is recorded: a replay is given the same. A value that this handler wrote is not recorded again.

        Args:
            of: The type to restore it as.

        Raises:
            UsageError: NO_SESSION, the intent was sent without a key.
            SerialisationError: What this handler wrote does not fit *of*.
            CodecError: TYPE_CHANGED, what is kept does not fit *of*; the intent is held.
        """
        what = f"state.get({check_name(name)!r})"
        scope, session = _session(what)
        mine = session.writes.values.get(name)
        if mine is not None:
            data = mine[1]
        else:
            call = await _read(scope, session, what, name)
            found = _decode_read(call)
            data = bytes(found[0]) if found else b""
        if not data:
            return default
        return await restored(scope, data, of, f"the value of {name!r} in the state", own=mine is not None)

    async def set(self, name: str, value: Any) -> None:
        """
        Write *value* under *name*: others see it once the intent parks or completes.

        Raises:
            UsageError: NO_SESSION; STATE_READ_ONLY, the handler is shared; STATE_IN_STEP, a step's body wrote.
            SerialisationError, PayloadTooLarge: It cannot be stored; nothing was written.
        """
        session, attempt = _writable(f"state.set({check_name(name)!r})")
        data = encode(value, f"the value of {name!r} in the state", attempt.limit)
        number = session.writes.put(name, data)  # before anything is awaited: a replay numbers it alike
        if attempt.vault is not None:
            session.writes.pending.add(number)
            session.writes.sealed(name, number, await sealed(attempt, data))

    async def delete(self, name: str) -> None:
        """Remove *name*, as `set` writes it; nothing happens if there is none."""
        session, _ = _writable(f"state.delete({check_name(name)!r})")
        session.writes.put(name, b"")

    async def keys(self) -> list[str]:
        """Return the names that have a value, sorted; recorded as what `get` reads is."""
        scope, session = _session("state.keys()")
        names = set(_decode_names(await _read(scope, session, "state.keys()", None)))
        for name, (_, value) in session.writes.values.items():
            (names.add if value else names.discard)(name)
        return sorted(names)


state = State()


def _session(what: str) -> tuple[Scope, Session]:
    scope = current_scope(what)
    if scope is None:
        raise UsageError(f"{what} needs an intent", hint="operators have client.state(queue, key)")
    session = scope.attempt.lease.session
    if session is None:
        raise UsageError(
            f"{what}: intent {scope.attempt.lease.id} has no session", code="NO_SESSION",
            hint='send it with a key: client.send(queue, payload, key="customer-7")',
        )  # fmt: skip
    return scope, session


def _writable(what: str) -> tuple[Session, Attempt]:
    scope, session = _session(what)
    attempt = scope.attempt
    attempt.conductor.check()
    if attempt.spec.shared or not session.holds:
        raise UsageError(
            f"{what}: {attempt.spec.name} runs beside the session's holder and may only read",
            code="STATE_READ_ONLY", hint="write from a handler that is not shared",
        )  # fmt: skip
    if scope.inside:
        raise UsageError(
            f"{what} was called inside a step: a replay would not repeat it", code="STATE_IN_STEP",
            hint="return the value from the step and write it in the handler",
        )  # fmt: skip
    keep = attempt.spec.state_retention
    session.writes.retention_ms = KEEP_STATE_MS if keep is None else max(1, int(keep * 1000))
    return session, attempt


async def _found(session: Session, name: str | None) -> bytes:
    """Return what the store holds, packed: the names, or what is under *name*, [] for nothing."""
    if name is None:
        return msgspec.msgpack.encode(await session.names())
    value = await session.read(name)
    return msgspec.msgpack.encode([] if value is None else [msgspec.Raw(value)])


async def _read(scope: Scope, session: Session, what: str, name: str | None) -> msgspec.Raw:
    """Return what the store holds, as this call read it first; it is journaled as a step's result is."""
    conductor = scope.attempt.conductor
    place = scope.place()
    call = conductor.ask(scope, (place, what, scope.number(what)))
    await conductor.wait(scope, call)
    while call.state == RUNNING:
        conductor.bodies.add(call)
        call.finish = True  # it takes no longer than a record does
        try:
            data = await _found(session, name)
        except asyncio.CancelledError:
            if conductor.signal is None:
                conductor.give_up(call)
            raise
        await conductor.record(scope, call, StepDone(place, what, call.identity[2], now_ms(), b"", msgspec.Raw(data)))
        await conductor.wait(scope, call)
    value: msgspec.Raw = call.entry.value
    return value
