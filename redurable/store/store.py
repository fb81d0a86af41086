"""
The store: one multiplexer on one namespace, and the verbs that producers and operators use.

Invariants: the namespace's format is checked before anything is written; a verb that needs the intent's place reads
the head first and repeats when the script answers that it moved (AGAIN).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any

from redurable.clock import now_ms
from redurable.config import Address, check_namespace
from redurable.errors import ConfigurationError, NotFound, WrongState
from redurable.ids import partition_in, partition_of
from redurable.model import CancelRequested, ErrorInfo, Outcome, Reopened, Status, encode_entry
from redurable.store.keys import Keys, check_queue, continuations, meta_key
from redurable.store.multiplexer import Identity, Multiplexer
from redurable.store.scripts import load, load_all
from redurable.store.session import Entry, Session
from redurable.store.topology import Topology

__all__ = ["FORMAT", "KEEP_COMPLETED_MS", "KEEP_OTHER_MS", "Store", "failure_of", "pack_outcome"]

FORMAT = 1
KEEP_COMPLETED_MS = 7 * 86_400_000
KEEP_OTHER_MS = 30 * 86_400_000
_RETRIED = ("FAILED", "CANCELED", "TIMED_OUT")
_TOLD = 10  # pieces of undo work that an error lists
_submit, _schedule, _watch, _wake = load("submit"), load("schedule"), load("watch"), load("wake")
_cancel, _enter = load("cancel"), load("enter")


def pack_outcome(outcome: Outcome) -> bytes:
    """Return *outcome* as stored; COMPLETED with nothing is b""."""
    if outcome.status is Status.COMPLETED and bytes(outcome.result) == b"\xc0":
        return b""
    return encode_entry(outcome)


def failure_of(status: Status, code: str, message: str) -> bytes:
    """Return the packed outcome of an intent that redurable itself ended."""
    return encode_entry(Outcome(status=status, error=ErrorInfo(type=f"redurable.{code}", message=message, code=code)))


class Store:
    """
    One namespace on one server.

    Args:
        address: The server.
        namespace: The prefix of every key.
        partitions: How many partitions a namespace that does not exist yet is made with.
        patience: See `Multiplexer`.
    """

    def __init__(
        self,
        address: Address,
        namespace: str = "rd",
        *,
        partitions: int = 1,
        patience: float | None = None,
        on_connect: Callable[[Identity], None] | None = None,
    ) -> None:
        self.topology = Topology(address)
        self.namespace = check_namespace(namespace)
        scripts = (*load_all().values(), *load_all(session=True).values())
        self.mux = Multiplexer(self.topology, scripts, patience=patience, on_connect=on_connect, timed=True)
        self._wanted = partitions
        self.keys: list[Keys] = []
        self.secret = ""  # what tokens of promises are signed with
        self.limited = True  # it keeps limits; a store in memory has nobody to keep them against

    async def start(self) -> None:
        """
        Connect and check the namespace, making it if it is new.

        Raises:
            StoreUnavailable: The server cannot be reached, or refuses the credentials.
            ConfigurationError: NAMESPACE_TOO_NEW; nothing was changed.
        """
        await self.mux.start()
        meta = meta_key(self.namespace)
        wanted = ("HMGET", meta, "format", "partitions", "secret")
        found = await self.mux.command(*wanted)
        if None in found[:2]:  # only then a write: a full server must not keep workers from draining it
            await self.mux.command("HSETNX", meta, "partitions", self._wanted)
            await self.mux.command("HSETNX", meta, "format", FORMAT)
            found = await self.mux.command(*wanted)
        if int(found[0]) > FORMAT:
            raise ConfigurationError(
                f"namespace {self.namespace!r} was made by a newer redurable "
                f"(format {int(found[0])}; this version reads up to {FORMAT})",
                code="NAMESPACE_TOO_NEW",
                hint="upgrade redurable, or choose another --namespace",
            )
        if found[2] is None:
            await self.mux.command("HSETNX", meta, "secret", f"1:{secrets.token_hex(32)}")
            found = await self.mux.command(*wanted)
        # a user without rights to channels would have every script end half way, when it tells its news
        await self.mux.command("PUBLISH", f"{self.namespace}:r:", "")
        self.keys = [Keys(self.namespace, p) for p in range(int(found[1]))]
        self.secret = found[2].decode()

    async def close(self) -> None:
        """Drop the connection."""
        await self.mux.close()

    def keys_of(self, intent: str) -> Keys:
        """Return the keys of the partition of *intent*; an id that cannot be ours is NotFound."""
        partition = partition_of(intent)
        if partition >= len(self.keys):
            raise NotFound(f"{intent} is not an intent of namespace {self.namespace!r}")
        return self.keys[partition]

    def submit(
        self,
        intent: str,
        body: bytes,
        queue: str,
        lane: str,
        *,
        reply: str = "",
        digest: str = "",
        deadline: str = "",
        max_losses: int | None = None,
        delay_ms: int = 0,
        entry: Entry | None = None,
    ) -> asyncio.Future[Any]:
        """
        Store an intent under an id that `ids` made; the answer is OK, EXISTS or CONFLICT.

        With a session's *entry* it is also QUEUED, BUSY or FULL.
        *deadline* is ms since 1970 as text, or "+ms" from the server's now; with *delay_ms* it starts later.
        """
        keys = self.keys[partition_in(intent)]
        limit = "" if max_losses is None else max_losses
        places: tuple[str, ...]
        args: tuple[Any, ...] = (intent, body, queue, lane, reply, digest, deadline, limit)
        if entry is not None:
            start = f"+{delay_ms}" if delay_ms > 0 else ""
            places = (
                keys.head(intent), keys.envelope(intent), keys.stream(queue, lane), keys.streams, keys.timers,
                keys.line(queue, entry.key), keys.state(queue, entry.key),
            )  # fmt: skip
            return self.mux.call(_enter, keys.partition, places, (*args, start, *entry.words))
        if delay_ms > 0:
            places = (keys.head(intent), keys.envelope(intent), keys.timers)
            return self.mux.call(_schedule, keys.partition, places, (*args, f"+{delay_ms}"))
        places = (
            keys.head(intent), keys.envelope(intent), keys.stream(queue, lane), keys.streams, keys.timers
        )  # fmt: skip
        return self.mux.call(_submit, keys.partition, places, args)

    async def cancel(self, intent: str, note: str = "") -> str:
        """
        Ask *intent* to end; return CANCELED, REQUESTED, or the status in which it already ended.

        Raises:
            NotFound: There is no such intent.
        """
        entry = encode_entry(CancelRequested(at=now_ms(), status=Status.CANCELED, note=note))
        result = failure_of(Status.CANCELED, "CANCELED", note or "canceled before it started")
        return await self.interrupt(intent, _cancel.name, entry, result)

    async def interrupt(self, intent: str, verb: str, entry: bytes, result: bytes) -> str:
        """Run `cancel` or `expire` on *intent* where its entry is now; return the script's word."""
        keys = self.keys_of(intent)
        while True:
            names = ("queue", "at", "session", "version")
            queue, at, session, version = await self.mux.command("HMGET", keys.head(intent), *names)
            if queue is None:
                raise _unknown(intent)
            name, onward = queue.decode(), continuations(version)
            more, words = await self.ending(keys, intent, name, session)
            lane = at.decode().split("/", 1)[0] if at else onward
            continuation = keys.stream(name, onward)
            word = await self.mux.call(
                load(verb, session=session is not None),
                keys.partition,
                (keys.head(intent), keys.journal(intent), keys.stream(name, lane), continuation, keys.streams,
                 keys.outcome(intent), keys.failed, keys.timers, keys.checkpoint(intent), *more),
                (intent, at or "", onward, entry, result, KEEP_OTHER_MS,
                 keys.namespace + ":r:", keys.namespace + ":h:", *words),
            )  # fmt: skip
            if word == b"NOT_FOUND":
                raise _unknown(intent)
            if word != b"AGAIN":
                return str(word.decode())

    async def redrive(self, intent: str) -> None:
        """
        Continue a FAILED, CANCELED or TIMED_OUT intent: its failures are voided, the rest of its journal kept.

        One whose undo work has begun is refused: what is kept was taken back, and which of it the journal cannot say.
        One of a session goes next, when the holder has ended. One that is held is looked at now, nothing else changes.

        Raises:
            NotFound: There is no such intent.
            WrongState: It is open and not held, or COMPLETED; ALREADY_UNDONE: its undo work has begun.
        """
        from redurable.store.journals import entries_of, failures_of, undone_of

        keys = self.keys_of(intent)
        token = secrets.token_hex(6)
        while True:
            names = ("queue", "status", "session", "version", "reason")
            queue, status, session, version, reason = await self.mux.command("HMGET", keys.head(intent), *names)
            if queue is None:
                raise _unknown(intent)
            if status == b"WAITING" and reason == b"HELD" and await self.wake(intent) == "OK":
                return
            more, words = await self.ending(keys, intent, queue.decode(), session)
            entries = await entries_of(self, intent)
            if (undone := undone_of(entries)) is not None:
                raise _not_retried(intent, status.decode(), undone)
            entry = encode_entry(Reopened(at=now_ms(), voided=failures_of(entries)))
            lane = continuations(version)
            word = await self.mux.call(
                load("redrive", session=session is not None),
                keys.partition,
                (keys.head(intent), keys.journal(intent), keys.stream(queue.decode(), lane), keys.streams,
                 keys.outcome(intent), keys.failed, keys.timers, *more),
                (intent, len(entries), lane, entry, token, *words),
            )  # fmt: skip
            if word == b"OK":
                return
            if word == b"NOT_FOUND":
                raise _unknown(intent)
            if word == b"WRONG_STATE":
                raise _not_retried(intent, status.decode(), [])

    def session(self, keys: Keys, queue: str, key: str) -> Session:
        """Return the session *key* of *queue*, in the partition of *keys*."""
        return Session(self.mux, keys, queue, key)

    async def ending(
        self, keys: Keys, intent: str, queue: str, session: bytes | None
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the keys and args that a script which may end *intent* takes besides, if it is one of a *session*."""
        if session is None:
            return (), ()
        return await self.session(keys, queue, session.decode()).ending(intent)

    async def make_way(self, intent: str, queue: str, key: str, on_busy: str) -> None:
        """
        Do what was asked for *intent*, which waits in the line of its session, to those before it.

        "interrupt": the holder is asked to end. "replace": those that wait are CANCELED. "all": both. Doing it again
        does no harm; should the sender die before it, the reconciler does it.
        """
        ahead = await self.session(self.keys_of(intent), queue, key).ahead(intent)
        note = f"{'interrupted' if on_busy == 'interrupt' else 'replaced'} by {intent}"
        whom = {"interrupt": slice(1), "replace": slice(1, None), "all": slice(None)}[on_busy]
        for other in reversed(ahead[whom]):  # the holder last: nobody who is to end takes its place
            with contextlib.suppress(NotFound):
                await self.cancel(other, note)
        await self.mux.command("HDEL", self.keys_of(intent).head(intent), "busy")

    def watch(self, intent: str) -> asyncio.Future[Any]:
        """Ask for news of *intent* on its channel; the answer is its status, or NOT_FOUND."""
        keys = self.keys_of(intent)
        return self.mux.call(_watch, keys.partition, (keys.head(intent),), (keys.news(intent),))

    async def wake(self, intent: str) -> str:
        """Continue a WAITING intent now; return OK, WRONG_STATE or NOT_FOUND."""
        keys = self.keys_of(intent)
        queue, version = await self.mux.command("HMGET", keys.head(intent), "queue", "version")
        if queue is None:
            return "NOT_FOUND"
        lane = continuations(version)
        places = (keys.head(intent), keys.stream(queue.decode(), lane), keys.streams, keys.timers)
        word = await self.mux.call(_wake, keys.partition, places, (intent, lane))
        return str(word.decode())

    def stream_of(self, partition: int, queue: str, lane: str) -> str:
        """Return the key of a stream; a name that cannot be part of a key is a ConfigurationError."""
        return self.keys[partition].stream(check_queue(queue), lane)


def _not_retried(intent: str, status: str, undone: list[str]) -> WrongState:
    if status not in _RETRIED:
        return WrongState(f"intent {intent} is {status}; only FAILED, CANCELED, TIMED_OUT and held ones are retried")
    more = f" and {len(undone) - _TOLD} more" if len(undone) > _TOLD else ""
    work = ", ".join(undone[:_TOLD]) + more or "nothing of it is recorded, which does not say that nothing was undone"
    return WrongState(
        f"intent {intent} is {status} and its undo work has run ({work}): a retry would rest on steps that were undone",
        code="ALREADY_UNDONE",
        hint="begin a new intent with what came before the first of them, its steps with idempotency keys of their own:"
        f" redurable intents fork {intent} --from-step STEP (redurable intents history {intent} lists them)",
    )


def _unknown(intent: str) -> NotFound:
    return NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")
