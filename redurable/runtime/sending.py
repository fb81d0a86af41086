"""
Sending: what a sender said becomes an id, an envelope and one script call.

The id is chosen here, so that a call that is sent twice finds its own work done. Invariant: whatever cannot be stored
is refused before anything is sent.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime
from typing import Any

import msgspec

from redurable import spans
from redurable.clock import Moment, Seconds, deadline_ms, seconds
from redurable.codec import NIL, Sealed, digest, encode
from redurable.errors import ConfigurationError, IdempotencyConflict, SessionBusy
from redurable.ids import derived_id, new_id, partition_for
from redurable.model import Envelope, Priority, SessionEnvelope
from redurable.options import check_texts
from redurable.runtime.handlers import spec_of
from redurable.store.bursts import burst_of
from redurable.store.keys import check_queue
from redurable.store.session import Entry
from redurable.store.store import Store

__all__ = ["accepted", "submit"]

_encode_envelope = msgspec.msgpack.Encoder().encode
_LANES: dict[Any, str] = {p: f"q:{p.value}" for p in Priority}


def submit(
    store: Store,
    limit: int,
    reply: str,
    to: Any,
    payload: Any = None,
    type: str = "",
    key: str | None = None,
    on_busy: str = "queue",
    max_queued: int | None = None,
    shared: bool | None = None,
    idempotency_key: str | None = None,
    delay: Seconds | None = None,
    deadline: Moment | None = None,
    priority: Priority | str = Priority.NORMAL,
    max_delivery_attempts: int | None = None,
    labels: dict[str, str] | None = None,
    debounce: Any = None,
    child: tuple[str, str] | None = None,
) -> tuple[str, asyncio.Future[Any]]:
    """Send an intent (a *child*: the id chosen for it, and its parent); return its id and the word for `accepted`."""
    if type or idempotency_key or labels:
        check_texts(type, idempotency_key, labels)
    data = NIL if payload is None else encode(payload, "the payload", limit)
    if isinstance(to, str):
        queue = to
    else:
        spec = spec_of(to)
        spec.check(data)
        queue, type = spec.queue, type or spec.type
        deadline = spec.timeout if deadline is None else deadline
        shared = spec.shared if shared is None else shared
    if (lane := _LANES.get(priority)) is None:
        raise ConfigurationError(f"priority is 'high', 'normal' or 'low', not {priority!r}")
    delay_ms = 0 if delay is None else round(seconds(delay, "delay") * 1000)
    entry = None
    if key is not None or on_busy != "queue" or max_queued is not None:
        entry = _entry(key, on_busy, max_queued, delay_ms, bool(shared))
    check_queue(queue)
    if child is not None:
        intent, check = child[0], ""
    elif idempotency_key is None and key is None:
        intent, check = new_id(0 if len(store.keys) == 1 else secrets.randbelow(len(store.keys))), ""
    else:
        intent, check = _identified(store, queue, key, idempotency_key, type, payload)
    trace = {} if spans.observer is None else spans.observer.carrier()
    data = payload.data if isinstance(payload, Sealed) else data
    said = (type, msgspec.Raw(data), labels or {}, idempotency_key or "", trace, child[1] if child else "")
    envelope = Envelope(*said) if key is None else SessionEnvelope(*said, session=key, shared=bool(shared))
    # relative ones are added to the server's clock, not to this machine's
    due = "" if deadline is None else ("" if isinstance(deadline, datetime) else "+") + str(deadline_ms(deadline, 0))
    if debounce is not None:
        store = burst_of(debounce)
    answer = store.submit(
        intent, _encode_envelope(envelope), queue, lane, reply=reply, digest=check, deadline=due,
        max_losses=max_delivery_attempts, delay_ms=delay_ms, entry=entry,
    )  # fmt: skip
    if entry is not None and entry.on_busy in ("interrupt", "replace"):
        answer = asyncio.ensure_future(_making_way(store, intent, queue, entry, answer))
    return intent, answer


def _entry(key: str | None, on_busy: str, max_queued: int | None, delay_ms: int, shared: bool) -> Entry | None:
    """Return how the intent enters its session; None if it runs beside the line."""
    if key is None:
        raise ConfigurationError(
            "on_busy and max_queued are about a session: give its key", hint='send(..., key="...")'
        )
    entry = Entry(key, on_busy, max_queued)
    entry.check(delay_ms > 0)
    if not shared:
        return entry
    if on_busy != "queue" or max_queued is not None:
        raise ConfigurationError("a shared intent waits in no line: it takes neither on_busy nor max_queued")
    return None


def _identified(
    store: Store, queue: str, session: str | None, key: str | None, type: str, payload: Any
) -> tuple[str, str]:
    """Return the id and the digest of an intent of a session, or with an idempotency key, or both."""
    partition = partition_for(len(store.keys), queue, session or key or "")
    if key is None:
        return new_id(partition), ""
    return derived_id(partition, store.namespace, queue, session or "", key), digest([type, payload])


async def _making_way(store: Store, intent: str, queue: str, entry: Entry, answer: asyncio.Future[Any]) -> Any:
    word = await answer
    if word == b"QUEUED":
        await store.make_way(intent, queue, entry.key, entry.on_busy)
    return word


def accepted(word: bytes, to: Any, options: Any) -> None:
    """
    Return if *word* says that the intent is stored.

    Raises:
        IdempotencyConflict, SessionBusy: Nothing was stored.
    """
    if word == b"CONFLICT":
        raise IdempotencyConflict(
            f"idempotency key {options.get('idempotency_key')!r} was used with another payload",
            hint="use one key per logical call; the first intent is unchanged",
        )
    if word in (b"BUSY", b"FULL"):
        queue = to if isinstance(to, str) else spec_of(to).queue
        session = f"session {options.get('key')!r} of queue {queue!r}"
        if word == b"BUSY":
            raise SessionBusy(f"{session} is not free", hint="send it later, or with on_busy='queue'")
        raise SessionBusy(
            f"{options.get('max_queued')} intents wait in the line of {session} already",
            code="SESSION_FULL", hint="send it later, or raise max_queued",
        )  # fmt: skip
