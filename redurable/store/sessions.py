"""
What operators see of sessions and do to them: the list, one session, its head, its state.

The head of a session is the intent that holds it. Listings walk keys by SCAN, in bounded pages; what they return was
true at some moment during the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from redurable.clock import now_ms
from redurable.errors import NotFound, WrongState
from redurable.ids import partition_for
from redurable.model import Reason, Status
from redurable.store.inspection import reason_of
from redurable.store.keys import UNPINNED, check_queue, check_session
from redurable.store.scripts import load
from redurable.store.session import KEEP_STATE_MS, Session
from redurable.store.store import KEEP_OTHER_MS, Store, failure_of
from redurable.store.walk import walk

__all__ = ["SessionInfo", "amend", "find", "head", "info", "last_failed", "sessions", "skip"]

_LOOKED_AT = 5000  # ended intents among which a session's last failure is looked for
_skip, _amend = load("skip", session=True), load("amend")


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    A session: who holds it, how many wait, since when the first of them, how much it keeps.

    `status` and `reason` are the holder's. `line` has the ids of those that wait, in order, where one session was
    asked for. `names` counts what the state holds, `bytes` estimates its memory.
    """

    queue: str
    key: str
    holder: str | None = None
    status: Status | None = None
    reason: Reason | None = None
    waiting: int = 0
    oldest_seconds: float | None = None
    names: int = 0
    bytes: int = 0
    line: tuple[str, ...] = ()


def find(store: Store, queue: str, key: str) -> Session:
    """Return the session *key* of *queue*; names that cannot be are a ConfigurationError."""
    partition = partition_for(len(store.keys), check_queue(queue), check_session(key))
    return store.session(store.keys[partition], queue, key)


async def info(store: Store, queue: str, key: str, *, line: int = 0) -> SessionInfo:
    """
    Return what is known of a session, with up to *line* ids of those that wait.

    Raises:
        NotFound: SESSION_NOT_FOUND; it has neither intents nor a state.
    """
    session = find(store, queue, key)
    mux = store.mux
    parts = (
        mux.command("ZRANGE", session.line, 0, max(1, line)),
        mux.command("ZCARD", session.line),
        mux.command("HLEN", session.state),
        mux.command("MEMORY", "USAGE", session.state),
    )
    ids, count, fields, size = [await part for part in parts]
    if not count and not fields:
        failed = await last_failed(store, queue, key)
        raise NotFound(
            f"queue {queue!r} has no session {key!r} with open intents or a state", code="SESSION_NOT_FOUND",
            hint=f"its intent {failed} FAILED; to continue it: redurable sessions retry {queue} {key}" if failed
            else "one without intents is there as long as its state is kept",
        )  # fmt: skip
    names = [raw.decode() for raw in ids]
    heads = [mux.command("HMGET", store.keys_of(i).head(i), "status", "reason", "created") for i in names[:2]]
    found = [await head for head in heads]
    status, reason, _ = found[0] if found else (None, None, None)
    oldest = found[1][2] if len(found) > 1 else None
    return SessionInfo(
        queue=queue,
        key=key,
        holder=names[0] if names else None,
        status=Status(status.decode()) if status else None,
        reason=reason_of(reason.decode()) if reason else None,
        waiting=max(0, count - 1),
        oldest_seconds=max(0.0, (now_ms() - int(oldest)) / 1000) if oldest else None,
        names=max(0, fields - 1),  # one tells how long the others are kept
        bytes=size or 0,
        line=tuple(names[1 : line + 1]),
    )


async def sessions(store: Store, *, queue: str | None = None, limit: int = 100) -> list[SessionInfo]:
    """Return up to *limit* sessions, those with the longest lines first."""
    found: dict[tuple[str, str], SessionInfo] = {}
    async for names in _names(store, queue):
        for some in await asyncio.gather(*(info(store, *name) for name in names), return_exceptions=True):
            if isinstance(some, SessionInfo):
                found[some.queue, some.key] = some
            elif not isinstance(some, NotFound):  # one may have ended meanwhile
                raise some
        if len(found) >= limit:
            break
    ordered = sorted(found.values(), key=lambda s: (-s.waiting, s.holder is None, s.queue, s.key))
    return ordered[:limit]


async def _names(store: Store, queue: str | None) -> AsyncIterator[set[tuple[str, str]]]:
    """Give pages of (queue, key): sessions with intents, then those that only have a state."""
    for kind in ("s:", "v:"):
        async for page in walk(store, kind, f"{check_queue(queue)}:*" if queue is not None else "*"):
            if page:
                yield {(name, key) for name, _, key in (rest.partition(":") for _, rest in page)}


async def skip(store: Store, queue: str, key: str, note: str = "") -> str:
    """
    End the head of a session FAILED, so that the next in line begins; return its id. A retry continues it.

    Raises:
        NotFound: Nobody holds the session.
        WrongState: The head is being run; it is unchanged.
    """
    session = find(store, queue, key)
    while True:
        intent = await head(store, session)
        keys = store.keys_of(intent)
        at = await store.mux.command("HGET", keys.head(intent), "at") or b""
        result = failure_of(Status.FAILED, "SESSION_SKIPPED", note or "an operator let the next in its session begin")
        more, told = await session.ending(intent)
        lane = at.decode().split("/", 1)[0] or UNPINNED
        word = await store.mux.call(
            _skip,
            keys.partition,
            (keys.head(intent), keys.stream(queue, lane), keys.outcome(intent), keys.failed, keys.timers,
             keys.checkpoint(intent), *more),
            (intent, at, result, KEEP_OTHER_MS, keys.namespace + ":r:", *told),
        )  # fmt: skip
        if word == b"OK":
            return intent
        if word == b"WRONG_STATE" and await head(store, session) == intent:
            raise WrongState(
                f"intent {intent}, the head of session {key!r}, is being run",
                hint="cancel it, or wait until it waits or retries",
            )


async def head(store: Store, session: Session) -> str:
    """Return the intent that holds *session*; NotFound if nobody does."""
    first = await store.mux.command("ZRANGE", session.line, 0, 0)
    if not first:
        raise NotFound(f"nobody holds session {session.key!r} of queue {session.queue!r}", code="SESSION_NOT_FOUND")
    return str(first[0].decode())


async def last_failed(store: Store, queue: str, key: str) -> str | None:
    """Return the id of the FAILED intent of a session that failed last, None if it is not among the newest."""
    keys = store.keys[partition_for(len(store.keys), check_queue(queue), check_session(key))]
    ids = [raw.decode() for raw in await store.mux.command("ZREVRANGE", keys.failed, 0, _LOOKED_AT - 1)]
    heads = [store.mux.command("HMGET", keys.head(i), "queue", "session", "status", "finished") for i in ids]
    wanted = (queue.encode(), key.encode(), b"FAILED")
    found = [(int(fields[3]), i) for i, part in zip(ids, heads, strict=True) if (fields := await part)[:3] == [*wanted]]
    return max(found)[1] if found else None


async def amend(store: Store, queue: str, key: str, name: str, value: bytes, *, force: bool = False) -> None:
    """
    Write *value* under *name* in the state of a session; b"" deletes it.

    Raises:
        WrongState: SESSION_BUSY; the session has intents, which may write it themselves. Nothing was written.
    """
    session = find(store, queue, key)
    partition = partition_for(len(store.keys), queue, key)
    word = await store.mux.call(
        _amend, partition, (session.line, session.state), (name, value, KEEP_STATE_MS, "1" if force else "")
    )
    if word == b"BUSY":
        raise WrongState(
            f"session {key!r} of queue {queue!r} has intents, which may write its state", code="SESSION_BUSY",
            hint="wait until they have ended, or force it: their own writes come after it",
        )  # fmt: skip
