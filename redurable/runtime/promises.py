"""
Promises: values that a handler awaits and somebody outside gives, now or in six weeks.

A wait writes nothing but what it is for (`Lease.declare`), and its time limit if it has one; the value comes into the
journal from outside, as an `Arrived` entry, and takes effect at its place there, live and on replay. Before the
handler asks, after it, while nothing of it is in any process: that makes no difference to what it sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Generic, TypeVar, overload

from redurable.clock import Seconds, now_ms, seconds
from redurable.codec import Typed, typed
from redurable.errors import CodecError, PromiseRejected, SerialisationError, StoreError, UsageError
from redurable.events import emit
from redurable.forms import Ask, schema_of
from redurable.ids import promise_text
from redurable.journal.cursor import RUNNING, UNSET, Call
from redurable.model import Arrived, Reason, TimerFired, TimerSet, encode_entry
from redurable.runtime.holding import unless_replayed
from redurable.runtime.scope import Scope, current_scope
from redurable.store.arrivals import form_of, key_of
from redurable.store.tokens import sign
from redurable.tasks import background

__all__ = ["LOST", "Promise", "handler_scope", "promise"]

T = TypeVar("T")
TOKEN_LIFE = 30 * 86_400.0  # s
LOST = "redurable: another contender won the race"


def handler_scope(what: str) -> Scope:
    """
    Return the branch of a handler that the caller is.

    Raises:
        UsageError: OUTSIDE_INTENT, or INSIDE_STEP: a step runs, it cannot be put down to wait.
    """
    scope = current_scope(what)
    if scope is None:
        raise UsageError(f"{what} needs an intent", hint="call it in a handler that a worker runs")
    if scope.inside:
        raise UsageError(
            f"{what} was called inside a step", code="INSIDE_STEP",
            hint="call it in the handler, or in a plain function that the handler calls; in a step use a Client",
        )  # fmt: skip
    return scope


class Promise(Generic[T]):
    """
    A durable value of the intent, awaited here and resolved from outside; see `promise`.

    `await it`, or `await it.wait(timeout=...)`; the value is kept, so the same handle may be awaited again.
    """

    reason = Reason.PROMISE

    def __init__(self, name: str, of: Any, index: int, token_life: Seconds) -> None:
        what = f"promise {name!r}"
        scope = handler_scope(what)
        self.name = name
        self.index = index
        self._key = key_of(name, index)
        self._typed: Typed = typed(of)
        self._attempt = scope.attempt
        self._life = seconds(token_life, "promise(token_expires=)")
        conductor = self._attempt.conductor
        conductor.check()
        if self._key in conductor.cursor.used:
            raise UsageError(
                f"{what} (index {index}) was used before, and is settled or withdrawn", code="PROMISE_REUSED",
                hint="keep the handle and await that again, or give each use an index of its own",
            )  # fmt: skip
        # what has happened so far is the same on every replay, and so is the token
        self._made = conductor.cursor.last_at or self._attempt.lease.started
        self._value: Any = UNSET
        self._failure: PromiseRejected | None = None

    @property
    def token(self) -> str:
        """
        A text that resolves this promise by itself, for a link in an e-mail: `client.resolve(token, value)`.

        Nobody can guess it; it opens this promise alone, once, until `token_expires`. It is a secret: whoever has it
        may answer.
        """
        lease = self._attempt.lease
        return sign(lease.store.secret, lease.id, self._key, self._made + int(self._life * 1000))

    def __await__(self) -> Generator[Any, None, T]:
        return self.wait().__await__()

    def task(self) -> asyncio.Task[T]:
        """Return a task that waits for it: for `asyncio.wait` and the like."""
        return asyncio.get_running_loop().create_task(self.wait())

    async def wait(self, timeout: Seconds | None = None) -> T:
        """
        Return the value.

        Args:
            timeout: Seconds, counted durably from this call on. The promise stays open when they are over.

        Raises:
            TimeoutError: The seconds are over; the same on every replay.
            PromiseRejected: It was rejected.
        """
        limit = None if timeout is None else seconds(timeout, "wait(timeout=)")
        while self._value is UNSET and self._failure is None:
            entry = await self._arrival(limit)
            if entry is None:
                raise TimeoutError(f"promise {self.name!r} was not resolved within {limit:g} s")
            self._take(entry)
        if self._failure is not None:
            raise self._failure
        return self._value  # type: ignore[no-any-return]  # decoded as the promise's type

    def _take(self, entry: Arrived) -> None:
        """Keep what came; what does not fit the type is set aside, and the promise is open again."""
        cursor = self._attempt.conductor.cursor
        if entry.error is not None:
            error = entry.error
            self._failure = PromiseRejected(
                self.name, self.index, error.message, code=error.code, by=entry.by, details=error.details
            )
        else:
            try:
                self._value = self._decoded(entry)
            except CodecError as error:  # the right worker can open it
                self._attempt.hold(error)
                raise
            except SerialisationError as refused:
                unless_replayed(self._attempt, refused)
                emit("promise.refused", intent=self._attempt.lease.id, promise=promise_text(self._key), error=refused)
                cursor.set_aside(entry)
                return
        cursor.used.add(self._key)

    def _decoded(self, entry: Arrived) -> Any:
        return self._typed.decode(entry.value, f"the value of promise {self.name!r}")

    async def _arrival(self, limit: float | None) -> Arrived | None:
        """Return the entry that resolves it, None when the time is over first."""
        scope = handler_scope(f"promise {self.name!r}")
        conductor = self._attempt.conductor
        place, label = scope.place(), f"promise {self.name}"
        n = scope.number(label)
        call = conductor.ask(scope, (place, label, n), self._key, self.reason)
        try:
            await conductor.wait(scope, call)
            while call.state == RUNNING:
                # it waits while that is written: what comes meanwhile takes effect at its own place
                if call.due is not None:
                    conductor.write(call, TimerFired(place, label, n, now_ms()))
                else:
                    background(self._open(call, limit, conductor.cursor.applied), "promise")
                await conductor.wait(scope, call)
        except asyncio.CancelledError as error:
            if error.args == (LOST,) and conductor.signal is None:
                self._withdraw()
            raise
        entry: Arrived | TimerFired = call.entry
        return entry if isinstance(entry, Arrived) else None

    async def _open(self, call: Call, limit: float | None, seen: int) -> None:
        """Tell the store what is waited for, as the first *seen* entries did not bring it, and set the time limit."""
        attempt = self._attempt
        conductor = attempt.conductor
        if call.state != RUNNING:
            return  # it lost its race meanwhile: what was withdrawn stays so
        schema = schema_of(self._typed.annotation)
        until = 0 if limit is None else now_ms() + int(limit * 1000)
        ask = self._ask(form_of(schema) if schema else "", until)
        since = ask.since if ask.outcomes else None
        try:
            word = await attempt.lease.declare(self._key, seen, encode_entry(ask), ask.form, schema, since)
        except StoreError as error:  # nobody can know of the promise: the next attempt tries again
            attempt.lost(f"STORE_ERROR: {error}")
            return
        if word != b"OK":
            attempt.lost(word.decode())
        elif limit is not None and call.state == RUNNING and conductor.signal is None:
            at = now_ms()
            conductor.write(call, TimerSet(*call.identity, at, at + int(limit * 1000)))
        else:
            conductor.write(call, None)

    def _ask(self, form: str, until: int) -> Ask:
        return Ask(form, since=self._made, until=until)

    def _withdraw(self) -> None:
        """The handler goes on without it, for good."""
        attempt = self._attempt
        attempt.conductor.cursor.used.add(self._key)
        attempt.lease.withdraw(self._key)


@overload
def promise(name: str, of: type[T], index: int = 0, *, token_expires: Seconds = TOKEN_LIFE) -> Promise[T]: ...
@overload
def promise(name: str, of: Any = Any, index: int = 0, *, token_expires: Seconds = TOKEN_LIFE) -> Promise[Any]: ...
def promise(name: str, of: Any = Any, index: int = 0, *, token_expires: Seconds = TOKEN_LIFE) -> Promise[Any]:
    """
    Return a handle on a value that somebody outside will give: `approved = await promise("approved", bool)`.

    It is resolved, or rejected, by `Client.resolve`, by `redurable intents resolve`, or by its token; before it is
    awaited or after. While nothing else is left to do, the intent is put down and costs a few keys. The first value
    stands; the same value again is answered alike, another one is refused.

    Args:
        name: Up to 64 characters.
        of: The type of the value. From the first wait on a value that does not fit is refused when it is given; one
            that came before is set aside, and the promise stays open.
        index: Tells promises of one name apart, in a loop say.
        token_expires: Seconds, from now, that `token` is good for; 30 days by default.

    Raises:
        UsageError: PROMISE_REUSED, it was settled, or lost a race, before; INSIDE_STEP; OUTSIDE_INTENT.
    """
    return Promise(name, of, index, token_expires)
