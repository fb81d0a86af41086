"""
Reading without changing: what is known of intents and workers.

Listings walk views, streams and pending lists in bounded pages, never KEYS. What they return was true at some moment
during the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import msgspec

from redurable.errors import NotFound, StoreError
from redurable.model import (
    IntentInfo,
    Outcome,
    Priority,
    Reason,
    SessionEnvelope,
    Status,
)
from redurable.store.journals import last_step
from redurable.store.keys import GROUP
from redurable.store.store import Store
from redurable.store.walk import legible, walk
from redurable.store.watching import progress

__all__ = [
    "Page",
    "WorkerInfo",
    "decode_envelope",
    "every",
    "heads",
    "ids_of",
    "info",
    "intents",
    "outcome",
    "workers",
]

decode_envelope = msgspec.msgpack.Decoder(SessionEnvelope).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_PAGE = 200
_SORTED = 100_000  # ids that a listing puts in order at a time
Page = list[IntentInfo]
_Rows = list[tuple[float, str]]  # (when it goes, id)


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process as it last described itself; times in ms, *alive* by its liveness channel."""

    id: str
    queues: tuple[str, ...]
    host: str
    pid: int
    concurrency: int
    running: int
    started: int
    renewed: int
    python: str
    release: str
    version: str = ""
    alive: bool = True
    types: tuple[str, ...] = ()


def reason_of(text: str | None) -> Reason | None:
    """Return the reason of that name; None for one that only a later release knows."""
    return Reason.__members__.get(text or "")


async def outcome(store: Store, intent: str) -> Outcome | None:
    """Return how *intent* ended, None while it is open; NotFound when it is not there."""
    return (await outcome_and_reply(store, intent))[0]


async def outcome_and_reply(store: Store, intent: str) -> tuple[Outcome | None, str]:
    """Return the outcome, and the client that the result is published to; see `outcome`."""
    keys = store.keys_of(intent)
    head = store.mux.command("HMGET", keys.head(intent), "status", "reply", "outcome")
    data = await store.mux.command("GET", keys.outcome(intent))
    word, reply, short = await head
    data = data or short
    name = reply.decode() if reply else ""
    if word is None:
        raise NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")
    try:
        status = Status(word.decode())
    except ValueError as error:
        raise _unreadable(intent, error) from None
    if not status.final:
        return None, name
    return (_decode_outcome(data) if data else Outcome(status=status)), name


def _unreadable(intent: str, error: Exception) -> StoreError:
    return StoreError(
        f"the head of intent {intent} cannot be read: {error}",
        code="HEAD_UNREADABLE",
        hint="a later version of redurable wrote it: upgrade this one. Or something else did: remove its keys",
    )


def unpack_outcome(data: bytes) -> Outcome:
    """Return the outcome in *data*; b"" is COMPLETED with nothing."""
    return _decode_outcome(data) if data else Outcome(status=Status.COMPLETED)


async def info(store: Store, intent: str) -> IntentInfo:
    """
    Return what is known of *intent*.

    Raises:
        NotFound: It is not there.
    """
    keys = store.keys_of(intent)
    mux = store.mux
    parts = (
        mux.command("HGETALL", keys.head(intent)),
        mux.command("GET", keys.envelope(intent)),
        mux.command("LLEN", keys.journal(intent)),
        mux.command("LRANGE", keys.journal(intent), -8, -1),
        mux.command("GET", keys.outcome(intent)),
    )
    told = await progress(store, intent)
    head, body, length, tail, result = [await part for part in parts]
    if not head:
        raise NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")
    raw = dict(zip(head[::2], head[1::2], strict=True))
    result = result or raw.pop(b"outcome", None)
    try:
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        found = _info(intent, fields, body, entries=int(length), step=last_step(tail), result=result)
    except (KeyError, ValueError) as error:
        raise _unreadable(intent, error) from None
    if told is not None:
        found = msgspec.structs.replace(found, progress=told)
    if found.status is Status.SUBMITTED and "at" in fields:
        lane, entry = fields["at"].split("/", 1)
        stream = keys.stream(found.queue, lane)
        try:
            if await mux.command("XPENDING", stream, GROUP, entry, entry, 1):
                return msgspec.structs.replace(found, status=Status.DELIVERED)
        except StoreError:
            return found  # no worker has made the group yet: nothing can be delivered
    return found


def _info(
    intent: str, fields: dict[str, str], body: bytes | None, *, entries: int, step: str | None, result: bytes | None
) -> IntentInfo:
    try:
        envelope = decode_envelope(body) if body else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        envelope = None  # written by something else; the intent is listed all the same
    lane = fields.get("at", fields.get("lane", "")).split("/", 1)[0]
    paused = "paused" in fields or lane.startswith("!")
    lane = fields.get("paused", "").removeprefix("SUBMITTED:") if fields["status"] == "PAUSED" else lane.lstrip("!")
    fence = fields.get("fence")

    def number(name: str) -> int | None:
        return int(float(fields[name])) if name in fields else None

    return IntentInfo(
        id=intent,
        queue=fields["queue"],
        type=envelope.type if envelope else "",
        status=Status(fields["status"]),
        reason=reason_of(fields.get("reason")),
        attempt=int(fields.get("attempt", 0)),
        losses=int(fields.get("losses", 0)),
        priority=Priority(lane[2:]) if lane.startswith("q:") else Priority.NORMAL,
        worker=fence.split(":", 1)[1].rsplit(":", 1)[0] if fence else None,
        version=fields.get("version") or None,
        created=number("created") or 0,
        started=number("started"),
        finished=number("finished"),
        start=number("start"),
        wake=number("wake"),
        deadline=number("deadline"),
        turn=int(fields.get("turn", 1)),
        long=fields.get("long"),
        held=fields.get("held") if fields.get("reason") == Reason.HELD else None,
        limit=fields.get("limit") if fields.get("reason") == Reason.LIMIT else None,
        paused=paused,
        canceling="canceling" in fields and not Status(fields["status"]).final,
        entries=entries,
        step=step,
        changed=tuple(filter(None, fields.get("changed", "").split(","))),
        labels=envelope.labels if envelope else {},
        idempotency_key=envelope.idempotency_key if envelope else "",
        session=envelope.session if envelope else "",
        forked=fields.get("forked"),
        error=_decode_outcome(result).error if result else None,
    )


async def ids_of(store: Store, queue: str | None, status: Status | None) -> AsyncIterator[list[str]]:
    """Give pages of ids by the cheapest structure that holds them; open ones of no structure come from SCAN."""
    if status is not None and status.final:
        views = [keys.done if status is Status.COMPLETED else keys.failed for keys in store.keys]
        async for page in _merged([_ended(store, view, _PAGE // len(views)) for view in views]):
            yield page
        return
    if status in (Status.SUBMITTED, Status.DELIVERED, Status.IN_PROGRESS):
        for keys in store.keys:
            for raw in await store.mux.command("SMEMBERS", keys.streams):
                if queue is None or keys.lane_of(raw.decode())[0] == queue:
                    async for page in _entries(store, raw, pending=status is not Status.SUBMITTED):
                        yield page
        return
    ids: list[str] = []
    async for some in walk(store, "i:"):
        ids += [intent for _, intent in some]
        if len(ids) >= _SORTED:
            for page in _newest_first(ids):
                yield page
            ids = []
    for page in _newest_first(ids):
        yield page


async def _merged(views: list[AsyncGenerator[_Rows, None]]) -> AsyncIterator[list[str]]:
    """Give what *views* give as pages of one, the last to go first."""
    ahead = [deque(rows) for rows in await asyncio.gather(*(anext(view, []) for view in views))]
    first = [(-rows[0][0], n) for n, rows in enumerate(ahead) if rows]
    heapq.heapify(first)
    page: list[str] = []
    while first:
        n = first[0][1]
        rows = ahead[n]
        page.append(rows.popleft()[1])
        if not rows:
            rows.extend(await anext(views[n], []))
        if rows:
            heapq.heapreplace(first, (-rows[0][0], n))
        else:
            heapq.heappop(first)
        if len(page) == _PAGE or not first:
            yield page
            page = []


async def _ended(store: Store, view: str, least: int) -> AsyncGenerator[_Rows, None]:
    """
    Give pages of a view, the last to go first; by time, since ranks shift as others end or are deleted.

    The first page is of *least*, the others are larger and larger: of many views little is taken, often.
    """
    count = max(10, least)
    top, there = b"+inf", set[bytes]()  # where the last page ended, and what was given of that moment
    while True:
        words = ("BYSCORE", "REV", "LIMIT", 0, count + len(there), "WITHSCORES")
        flat = await store.mux.command("ZRANGE", view, top, "-inf", *words)
        found = [(float(at), raw.decode()) for raw, at in zip(flat[::2], flat[1::2], strict=True) if raw not in there]
        if not found:
            return
        yield found
        count = min(_PAGE, 2 * count)
        last = flat[-1]
        there = {raw for raw, at in zip(flat[::2], flat[1::2], strict=True) if at == last}
        top = last


def _newest_first(ids: list[str]) -> Iterator[list[str]]:
    # ids bear their time, but for those that are derived from an idempotency key (version 8): they come last
    ids.sort(key=lambda intent: (intent[14] == "7", intent), reverse=True)
    for start in range(0, len(ids), _PAGE):
        yield ids[start : start + _PAGE]


async def _entries(store: Store, stream: bytes, pending: bool) -> AsyncIterator[list[str]]:
    """Give pages of the ids in *stream*, all or those that a worker holds."""
    mux, begin = store.mux, "-"
    while True:
        if pending:
            try:
                held = await mux.command("XPENDING", stream, GROUP, begin, "+", _PAGE)
            except StoreError:
                return  # no worker has made the group yet
            rows = [row for part in [mux.command("XRANGE", stream, h[0], h[0]) for h in held] for row in await part]
            last = held[-1][0] if held else None
        else:
            rows = await mux.command("XRANGE", stream, begin, "+", "COUNT", _PAGE)
            last = rows[-1][0] if rows else None
        if last is None:
            return
        yield [fields[1].decode() for _, fields in rows]
        begin = "(" + last.decode()


async def heads(store: Store, ids: list[str], *names: str) -> list[tuple[str, list[bytes | None]]]:
    """Return what the heads of *ids* have under *names*; what is no id, or no head, of ours is left out."""
    asked = []
    for intent in ids:
        with contextlib.suppress(NotFound):
            asked.append((intent, store.mux.command("HMGET", store.keys_of(intent).head(intent), *names)))
    answers = await asyncio.gather(*(legible(head) for _, head in asked))
    return [(intent, head) for (intent, _), head in zip(asked, answers, strict=True) if head is not None]


async def every(
    store: Store, *, queue: str | None = None, status: Status | None = None, label: tuple[str, str] | None = None
) -> AsyncGenerator[IntentInfo, None]:
    """Give the intents that fit, newest first (of an uncommonly large namespace, in parts); one may come twice."""
    async for ids in ids_of(store, queue, status):
        fitting = [i for i, head in await heads(store, ids, "status", "queue") if _fits(head, queue, status)]
        for some in (fitting[n : n + 20] for n in range(0, len(fitting), 20)):
            for found in await asyncio.gather(*(info(store, i) for i in some), return_exceptions=True):
                if isinstance(found, NotFound) or getattr(found, "code", "") == "HEAD_UNREADABLE":
                    continue  # removed since, or not ours: what cannot be read must not hide the others
                if isinstance(found, BaseException):
                    raise found
                same = status is None or found.status is status
                if same and (label is None or found.labels.get(label[0]) == label[1]):
                    yield found


async def intents(
    store: Store,
    *,
    queue: str | None = None,
    status: Status | None = None,
    label: tuple[str, str] | None = None,
    limit: int = 100,
) -> Page:
    """Return up to *limit* of `every`, each once."""
    page: dict[str, IntentInfo] = {}
    async with contextlib.aclosing(every(store, queue=queue, status=status, label=label)) as found:
        async for one in found:
            page[one.id] = one
            if len(page) >= limit:
                break
    return list(page.values())


def _fits(head: list[bytes | None], queue: str | None, status: Status | None) -> bool:
    """Tell whether an intent can be one that is looked for; DELIVERED is SUBMITTED in its head."""
    raw, name = head
    wanted = Status.SUBMITTED if status is Status.DELIVERED else status
    return raw is not None and (wanted is None or raw == wanted.encode()) and (queue is None or name == queue.encode())


async def workers(store: Store) -> list[WorkerInfo]:
    """Return the registered workers, with whether each one's liveness channel has a subscriber."""
    decode = msgspec.msgpack.Decoder(WorkerInfo).decode
    keys = store.keys[0]
    rows = await store.mux.command("HGETALL", keys.workers)
    known = [decode(value) for name, value in zip(rows[::2], rows[1::2], strict=True) if not name.endswith(b"#")]
    if not known:
        return []
    seen = await store.mux.command("PUBSUB", "NUMSUB", *(keys.liveness(worker.id) for worker in known))
    found = [msgspec.structs.replace(w, alive=count > 0) for w, count in zip(known, seen[1::2], strict=True)]
    return sorted(found, key=lambda w: w.id)
