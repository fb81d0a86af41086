"""
Producers and operators: send intents, wait for them, look at them, cancel and retry them.

A client is opened at its first use, once per process and event loop, and again after a fork. Waiting is by pub/sub on
one channel of the client's own: a waiter subscribes first, then reads, then waits; every reconnect reads again, and a
slow re-check is the safety net. Invariant: once `send` returns, the intent is stored and will be settled once.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, Unpack, overload

from redurable import spans
from redurable.answers import Answers, check_outside
from redurable.archive import Archive
from redurable.clock import Seconds, seconds
from redurable.codec import typed
from redurable.codecs.base import Codec, vault_of
from redurable.config import max_payload
from redurable.config import namespace as namespace_of
from redurable.control import Control
from redurable.deployments import Deployments
from redurable.errors import ConfigurationError, IntentFailed
from redurable.ids import IntentId
from redurable.model import Outcome, Status
from redurable.options import SendOptions
from redurable.reading import Connected, Reading
from redurable.runtime.handlers import spec_of
from redurable.runtime.sending import accepted, submit
from redurable.schedules import Schedules
from redurable.sessions import Sessions, SessionState
from redurable.store import inspection
from redurable.store.address import address_of
from redurable.store.bursts import Burst
from redurable.store.scripts import CHUNK
from redurable.store.store import Store
from redurable.tasks import within
from redurable.watching import Watching

__all__ = ["Client", "SendOptions"]

R = TypeVar("R")
_WAVE = 4000  # intents of send_many under way at once
_PART = 200


@contextlib.asynccontextmanager
async def _limited(intent: str, limit: float) -> AsyncIterator[None]:
    clock = asyncio.timeout(limit)
    try:
        async with clock:
            yield
    except TimeoutError:
        if clock.expired():
            raise TimeoutError(f"intent {intent} has not ended after {limit:g} s; only the wait has") from None
        raise


def _waiting(intent: str, timeout: Seconds | None) -> AbstractAsyncContextManager[Any]:
    """Give the wait for *intent* its time, if it is limited."""
    return within(None) if timeout is None else _limited(intent, seconds(timeout, "timeout"))


class Client(Watching, Reading, Archive, Answers, Control):
    """
    Sends intents to queues, and operates on them.

    Args:
        url: `redis://`, `rediss://` or `unix://`; by default REDURABLE_URL, REDIS_URL, then the project's own server.
        namespace: The prefix of every key; REDURABLE_NAMESPACE, then "rd".
        patience: Seconds to wait for a server that is away before StoreUnavailable.
        codec: What payloads and results look like in the store, one or several (`redurable.codecs`), or its
            "module:attribute"; by default REDURABLE_CODEC, then none.

    Attributes:
        schedules: What is sent by the clock; see `redurable.schedules.Schedules`.
        sessions: What operators see of sessions and do to their heads; see `redurable.sessions.Sessions`.
        deployments: Deployment versions of the workers' code; see `redurable.deployments.Deployments`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        patience: Seconds = 30.0,
        codec: Codec | Sequence[Codec] | str | None = None,
    ) -> None:
        self._url = url
        self._namespace = namespace_of(namespace)
        self._patience = seconds(patience, "Client(patience=)")
        self._limit = max_payload()
        self._vault = vault_of(codec)
        self._connected: Connected | None = None
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._opening: asyncio.Lock | None = None
        self.sessions = Sessions(self._store)
        self.schedules = Schedules(self._store, self._vault)
        self.deployments = Deployments(self._store)

    async def __aenter__(self) -> Client:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """
        Drop the connections; waits under way end with StoreUnavailable.

        Those of another process, before a fork, or of another event loop are left to it.
        """
        connected = self._connected
        if connected is not None and self._owner == (os.getpid(), asyncio.get_running_loop()):
            self._connected = None
            await connected.store.close()
            await connected.results.close()

    async def _open(self) -> Connected:
        owner = (os.getpid(), asyncio.get_running_loop())
        if self._connected is not None and self._owner == owner:
            return self._connected
        if self._owner != owner:
            self._owner, self._connected, self._opening = owner, None, asyncio.Lock()
        assert self._opening is not None
        async with self._opening:
            if self._connected is None:
                store = Store(address_of(self._url), self._namespace, patience=self._patience)
                try:
                    await store.start()
                except BaseException:
                    await store.close()
                    raise
                self._connected = Connected(store, self._vault)
                spans.discover()
            return self._connected

    async def _store(self) -> Store:
        return (await self._open()).store

    @overload
    async def send(
        self, to: Callable[..., Coroutine[Any, Any, R]], payload: Any = None, **options: Unpack[SendOptions]
    ) -> IntentId[R]: ...
    @overload
    async def send(self, to: Callable[..., R], payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[R]: ...
    @overload
    async def send(self, to: str, payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[Any]: ...
    async def send(self, to: Any, payload: Any = None, **options: Unpack[SendOptions]) -> IntentId[Any]:
        """
        Store an intent for *to* and return its id.

        Once this returns the intent is in Redis: some worker will run it, and it will be settled once, even if this
        process dies now. Steps may run more than once; see `step`.

        Args:
            to: A queue's name, or the handler itself; then the payload is checked against its annotations.
            payload: Anything that MessagePack holds, dataclasses, msgspec Structs, pydantic models.
            options: See `SendOptions`.

        Raises:
            PayloadTooLarge, SerialisationError, CodecError: Nothing was stored.
            IdempotencyConflict: The key was used with another payload; that intent is unchanged.
            SessionBusy: The session is not free, and *on_busy* or *max_queued* wants it so; nothing was stored.
            StoreUnavailable: Not known whether it was stored; repeat with the same *idempotency_key*.
        """
        if options.get("debounce") is not None:
            return await self._send_debounced(to, payload, options)
        connected = await self._open()
        with spans.sending(to) as seen:
            if self._vault is not None:
                payload = await self._vault.wrap(payload, self._limit)
            intent, answer = self._submit(connected, to, payload, **options)
            accepted(await answer, to, options)
            seen.done("", id=intent)
        return IntentId(intent)

    async def _send_debounced(self, to: Any, payload: Any, options: Any) -> IntentId[Any]:
        connected = await self._open()
        kind = options.get("type") or ("" if isinstance(to, str) else spec_of(to).type)
        burst = Burst(connected.store, options["debounce"], kind, options.get("key") or "")
        with spans.sending(to) as seen:
            if self._vault is not None:
                payload = await self._vault.wrap(payload, self._limit)
            await self._submit(connected, to, payload, **(options | {"debounce": burst}))[1]
            seen.done("", id=burst.intent)
        return IntentId(burst.intent)

    @overload
    async def send_many(
        self, to: Callable[..., Coroutine[Any, Any, R]], payloads: Iterable[Any], **options: Unpack[SendOptions]
    ) -> builtins.list[IntentId[R]]: ...
    @overload
    async def send_many(
        self, to: Callable[..., R], payloads: Iterable[Any], **options: Unpack[SendOptions]
    ) -> builtins.list[IntentId[R]]: ...
    @overload
    async def send_many(
        self, to: str, payloads: Iterable[Any], **options: Unpack[SendOptions]
    ) -> builtins.list[IntentId[Any]]: ...
    async def send_many(
        self, to: Any, payloads: Iterable[Any], **options: Unpack[SendOptions]
    ) -> builtins.list[IntentId[Any]]:
        """
        Store an intent for each of *payloads*, thousands in one flush; see `send`.

        Raises:
            PayloadTooLarge, SerialisationError, CodecError: Those before the bad one are stored; none after it is.
            SessionBusy: As many of the first are stored as the session would take.
            ConfigurationError: An idempotency key names one call; it cannot name many.
        """
        if options.get("idempotency_key") is not None:
            raise ConfigurationError("send_many() takes no idempotency_key: it would make all of them one intent")
        connected = await self._open()
        with spans.sending(to) as seen:
            send = self._send_all if options.get("key") is None else self._send_in_line
            ids = await send(connected, to, payloads, options)
            seen.done("", count=len(ids))
        return ids

    async def _send_all(
        self, connected: Connected, to: Any, payloads: Iterable[Any], options: SendOptions
    ) -> builtins.list[IntentId[Any]]:
        ids: builtins.list[IntentId[Any]] = []
        answers: builtins.list[asyncio.Future[Any]] = []
        try:
            for payload in payloads:
                if self._vault is not None:
                    payload = await self._vault.wrap(payload, self._limit)  # noqa: PLW2901  # the same, sealed
                intent, answer = self._submit(connected, to, payload, **options)
                ids.append(IntentId(intent))
                answers.append(answer)
                if len(answers) % _PART == 0:
                    await asyncio.sleep(0)  # what is packed leaves, and Redis works at it while the next is packed
                if len(answers) >= _WAVE:
                    done, answers = answers[: _WAVE // 2], answers[_WAVE // 2 :]
                    for earlier in done:
                        await earlier  # a future that is done costs no turn
        finally:
            if answers:
                await asyncio.gather(*answers)
        return ids

    async def _send_in_line(
        self, connected: Connected, to: Any, payloads: Iterable[Any], options: SendOptions
    ) -> builtins.list[IntentId[Any]]:
        """Send to one session: a call's worth at a time, so that no held back answer changes their order."""
        ids: builtins.list[IntentId[Any]] = []
        source = iter(payloads)
        while part := builtins.list(itertools.islice(source, CHUNK)):
            if self._vault is not None:
                part = [await self._vault.wrap(payload, self._limit) for payload in part]
            sent = [self._submit(connected, to, payload, **options) for payload in part]
            for intent, answer in sent:
                accepted(await answer, to, options)
                ids.append(IntentId(intent))
        return ids

    def _submit(
        self, connected: Connected, to: Any, payload: Any, **options: Unpack[SendOptions]
    ) -> tuple[str, asyncio.Future[Any]]:
        check_outside("sends")
        return submit(connected.store, self._limit, connected.results.name, to, payload, **options)

    @overload
    async def call(
        self,
        to: Callable[..., Coroutine[Any, Any, R]],
        payload: Any = None,
        *,
        timeout: Seconds | None = None,
        **options: Unpack[SendOptions],
    ) -> R: ...
    @overload
    async def call(
        self,
        to: Callable[..., R],
        payload: Any = None,
        *,
        timeout: Seconds | None = None,
        **options: Unpack[SendOptions],
    ) -> R: ...
    @overload
    async def call(
        self, to: str, payload: Any = None, *, timeout: Seconds | None = None, **options: Unpack[SendOptions]
    ) -> Any: ...
    async def call(
        self, to: Any, payload: Any = None, *, timeout: Seconds | None = None, **options: Unpack[SendOptions]
    ) -> Any:
        """
        Send an intent and return its result: `send` and `wait_for` in one, restored as the handler is annotated.

        The waiter is registered before the intent is sent, so nothing is read on the way.
        """
        annotation = None if isinstance(to, str) else spec_of(to).result.annotation
        if options.get("debounce") is not None:  # which intent it becomes is known when it is sent
            async with within(None if timeout is None else seconds(timeout, "timeout")):
                return await self.wait_for(str(await self.send(to, payload, **options)), of=annotation)
        connected = await self._open()
        results = connected.results
        await results.listen()
        if self._vault is not None:
            payload = await self._vault.wrap(payload, self._limit)
        with spans.sending(to) as seen:
            intent, answer = self._submit(connected, to, payload, **options)
            seen.done("", id=intent)
        waiter = results.expect(intent)
        try:
            async with _waiting(intent, timeout):
                accepted(await answer, to, options)
                fresh = options.get("idempotency_key") is None
                outcome = await (results.sent(intent, waiter) if fresh else results.outcome(intent))
        finally:
            results.leave(intent, waiter)
        return await self._result(intent, outcome, annotation)

    @overload
    async def wait_for(self, intent: IntentId[R], timeout: Seconds | None = None) -> R: ...
    @overload
    async def wait_for(self, intent: str, timeout: Seconds | None = None, *, of: Any = None) -> Any: ...
    async def wait_for(self, intent: str, timeout: Seconds | None = None, *, of: Any = None) -> Any:
        """
        Return the result of *intent* once it has completed.

        Args:
            timeout: Seconds after which only the wait ends; 0 returns what is there already.
            of: The type to restore the result as.

        Raises:
            IntentFailed: It ended without a result; `status` says how.
            CodecError: The result is sealed, and cannot be opened with the codecs and keys that are here.
            TimeoutError: It is still open.
            NotFound: There is no such intent.
        """
        if timeout is not None and not seconds(timeout, "timeout"):
            ended = await inspection.outcome((await self._open()).store, intent)
            if ended is None:
                raise TimeoutError(f"intent {intent} has not ended yet")
            return await self._result(intent, ended, of)
        async with _waiting(intent, timeout):
            outcome = await (await self._open()).results.outcome(intent)
        return await self._result(intent, outcome, of)

    async def _result(self, intent: str, outcome: Outcome, of: Any) -> Any:
        if self._vault is not None:
            outcome = await self._vault.open_struct(outcome)
        if outcome.status is not Status.COMPLETED:
            raise IntentFailed(intent, outcome.status.value, outcome.error)
        return typed(Any if of is None else of).decode(outcome.result, f"the result of {intent}")

    def state(self, queue: str, key: str) -> SessionState:
        """Return the state of the session *key* of *queue*, to read, or to write while the session has no intents."""
        return SessionState(self._store, self._vault, queue, key)

    async def cancel(self, intent: str, note: str = "") -> str:
        """
        Ask *intent* to end; return CANCELED, REQUESTED, or the final status that was first.

        One that never ran is CANCELED at once. One that runs or waits meets the cancel at its place in its journal,
        may undo its work, and is CANCELED when its handler has ended.
        """
        check_outside("cancels")
        return await (await self._open()).store.cancel(intent, note)

    async def retry(self, intent: str) -> None:
        """
        Continue a FAILED, CANCELED or TIMED_OUT intent: its failures are voided, its finished steps are kept.

        One that is held, WAITING (HELD), is looked at now instead of some minutes later.

        Raises:
            WrongState: It is COMPLETED, or open and not held. ALREADY_UNDONE: what it registered by `compensate` has
                run, or begun to; steps that were undone are not built upon. `fork` it from the first of them: that is
                a new intent, whose steps have idempotency keys of their own. Nothing was changed.
        """
        check_outside("retries")
        await (await self._open()).store.redrive(intent)
