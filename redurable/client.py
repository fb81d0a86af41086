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
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar, Unpack, overload

from redurable import spans
from redurable.archive import Archive
from redurable.clock import Seconds, seconds
from redurable.codec import typed
from redurable.config import max_payload
from redurable.config import namespace as namespace_of
from redurable.errors import ConfigurationError, IntentFailed, UsageError
from redurable.ids import IntentId
from redurable.model import Entry, IntentInfo, Outcome, Status
from redurable.options import SendOptions
from redurable.runtime.handlers import spec_of
from redurable.runtime.scope import scope_var
from redurable.runtime.sending import accepted, submit
from redurable.store import depths, inspection
from redurable.store.address import address_of
from redurable.store.results import RECHECK, Results
from redurable.store.scripts import CHUNK
from redurable.store.store import Store

__all__ = ["Client", "SendOptions"]

R = TypeVar("R")
_WAVE = 4000  # intents of send_many under way at once
_PART = 200


class _Connected:
    """What one event loop's use of a client needs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.results = Results(store, secrets.token_hex(6))


class Client(Archive):
    """
    Sends intents to queues, and operates on them.

    Args:
        url: `redis://`, `rediss://` or `unix://`; by default REDURABLE_URL, REDIS_URL, then the project's own server.
        namespace: The prefix of every key; REDURABLE_NAMESPACE, then "rd".
        patience: Seconds to wait for a server that is away before StoreUnavailable.
    """

    def __init__(self, url: str | None = None, *, namespace: str | None = None, patience: Seconds = 30.0) -> None:
        self._url = url
        self._namespace = namespace_of(namespace)
        self._patience = seconds(patience, "Client(patience=)")
        self._limit = max_payload()
        self._connected: _Connected | None = None
        self._owner: tuple[int, int] = (0, 0)
        self._opening: asyncio.Lock | None = None

    async def __aenter__(self) -> Client:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connections; waits under way end with StoreUnavailable."""
        if self._connected is not None:
            connected, self._connected = self._connected, None
            await connected.results.close()
            await connected.store.close()

    async def _open(self) -> _Connected:
        owner = (os.getpid(), id(asyncio.get_running_loop()))
        if self._connected is not None and self._owner == owner:
            return self._connected
        if self._owner != owner:
            self._owner, self._connected, self._opening = owner, None, asyncio.Lock()
        assert self._opening is not None
        async with self._opening:
            if self._connected is None:
                store = Store(address_of(self._url), self._namespace, patience=self._patience)
                await store.start()
                self._connected = _Connected(store)
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
            PayloadTooLarge, SerialisationError: Nothing was stored.
            IdempotencyConflict: The key was used with another payload; that intent is unchanged.
            SessionBusy: The session is not free, and *on_busy* or *max_queued* wants it so; nothing was stored.
            StoreUnavailable: Not known whether it was stored; repeat with the same *idempotency_key*.
        """
        connected = await self._open()
        with spans.sending(to) as seen:
            intent, answer = self._submit(connected, to, payload, **options)
            accepted(await answer, to, options)
            seen.done("", id=intent)
        return IntentId(intent)

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
            PayloadTooLarge, SerialisationError: Those before the bad one are stored; none after it is.
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
        self, connected: _Connected, to: Any, payloads: Iterable[Any], options: SendOptions
    ) -> builtins.list[IntentId[Any]]:
        ids: builtins.list[IntentId[Any]] = []
        answers: builtins.list[asyncio.Future[Any]] = []
        try:
            for payload in payloads:
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
        self, connected: _Connected, to: Any, payloads: Iterable[Any], options: SendOptions
    ) -> builtins.list[IntentId[Any]]:
        """Send to one session: a call's worth at a time, so that no held back answer changes their order."""
        ids: builtins.list[IntentId[Any]] = []
        source = iter(payloads)
        while part := builtins.list(itertools.islice(source, CHUNK)):
            sent = [self._submit(connected, to, payload, **options) for payload in part]
            for intent, answer in sent:
                accepted(await answer, to, options)
                ids.append(IntentId(intent))
        return ids

    def _submit(
        self, connected: _Connected, to: Any, payload: Any, **options: Unpack[SendOptions]
    ) -> tuple[str, asyncio.Future[Any]]:
        scope = scope_var.get()
        if scope is not None and not scope.inside:
            raise UsageError(
                "a handler sends by a client outside of a step: a replay would send again",
                code="USE_DURABLE_SEND",
                hint="put the call into a step",
            )
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
        connected = await self._open()
        results = connected.results
        await results.listen()
        with spans.sending(to) as seen:
            intent, answer = self._submit(connected, to, payload, **options)
            seen.done("", id=intent)
        waiter = results.expect(intent)
        try:
            async with asyncio.timeout(None if timeout is None else seconds(timeout, "timeout")):
                accepted(await answer, to, options)
                fresh = options.get("idempotency_key") is None
                outcome = await (results.sent(intent, waiter) if fresh else results.outcome(intent))
        finally:
            results.leave(intent, waiter)
        return self._result(intent, outcome, None if isinstance(to, str) else spec_of(to).result.annotation)

    @overload
    async def wait_for(self, intent: IntentId[R], timeout: Seconds | None = None) -> R: ...
    @overload
    async def wait_for(self, intent: str, timeout: Seconds | None = None, *, of: Any = None) -> Any: ...
    async def wait_for(self, intent: str, timeout: Seconds | None = None, *, of: Any = None) -> Any:
        """
        Return the result of *intent* once it has completed.

        Args:
            timeout: Seconds after which only the wait ends.
            of: The type to restore the result as.

        Raises:
            IntentFailed: It ended without a result; `status` says how.
            TimeoutError: It is still open.
            NotFound: There is no such intent.
        """
        async with asyncio.timeout(None if timeout is None else seconds(timeout, "timeout")):
            outcome = await (await self._open()).results.outcome(intent)
        return self._result(intent, outcome, of)

    @staticmethod
    def _result(intent: str, outcome: Outcome, of: Any) -> Any:
        if outcome.status is not Status.COMPLETED:
            raise IntentFailed(intent, outcome.status.value, outcome.error)
        return typed(Any if of is None else of).decode(outcome.result, f"the result of {intent}")

    async def get(self, intent: str) -> IntentInfo:
        """Return what is known of *intent* now; NotFound if there is none."""
        return await inspection.info((await self._open()).store, intent)

    async def history(self, intent: str, since: int = 0) -> builtins.list[tuple[int, Entry]]:
        """Return (seq, entry) of its journal after seq *since*; NotFound if there is no such intent."""
        return await inspection.history((await self._open()).store, intent, since)

    async def observe(self, intent: str, since: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        """Give (seq, entry) after *since* as they are recorded, until the intent has ended."""
        connected = await self._open()
        store, results = connected.store, connected.results
        news = await results.watch(intent)
        try:
            while True:
                news.clear()
                await store.watch(intent)
                ended = await inspection.outcome(store, intent)
                for seq, entry in await inspection.history(store, intent, since):
                    since = seq
                    yield seq, entry
                if ended is not None:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RECHECK):
                        await news.wait()
        finally:
            results.unwatch(intent, news)

    async def list(
        self,
        *,
        queue: str | None = None,
        status: Status | str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = 100,
    ) -> builtins.list[IntentInfo]:
        """Return up to *limit* intents that fit; finished ones newest first."""
        store = (await self._open()).store
        wanted = None if status is None else Status.of(status)
        return await inspection.intents(store, queue=queue, status=wanted, label=label, limit=limit)

    async def queues(self) -> builtins.list[depths.QueueInfo]:
        """Return every queue that ever held an intent, with its depth."""
        return await depths.queues((await self._open()).store)

    async def workers(self) -> builtins.list[inspection.WorkerInfo]:
        """Return the registered worker processes and whether each lives."""
        return await inspection.workers((await self._open()).store)

    async def cancel(self, intent: str, note: str = "") -> str:
        """
        Ask *intent* to end; return CANCELED, REQUESTED, or the final status that was first.

        One that never ran is CANCELED at once. One that runs or waits meets the cancel at its place in its journal,
        may undo its work, and is CANCELED when its handler has ended.
        """
        return await (await self._open()).store.cancel(intent, note)

    async def retry(self, intent: str) -> None:
        """
        Continue a FAILED, CANCELED or TIMED_OUT intent: its failures are voided, its finished steps are kept.

        Raises:
            WrongState: It is open or COMPLETED; nothing was changed.
        """
        await (await self._open()).store.redrive(intent)
