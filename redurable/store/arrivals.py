"""
What comes from outside an intent: values of promises, outcomes of children. One script brings all of it.

The hash `d` of an intent has a field for each key, in one of three states (the first character):

    ?<about>          open: the handler waits for it; `about` is a packed `Ask`, or nothing (of a child: it was, or is
                      about to be, started)
    =<seq>:<digest>   it came: its entry is the journal's seq-th; the digest tells the same again from another
    -                 withdrawn: the handler gave it up

A key that is not there may be resolved too, before the handler asks for it; field `#` counts these, at most `UNASKED`
until the handler comes to wait for one. Keys: `<name>#<index>` of a promise, the id of a child.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import msgspec

from redurable.clock import now_ms
from redurable.errors import ConfigurationError, NotFound, WrongState
from redurable.forms import Ask
from redurable.ids import promise_text
from redurable.model import Arrived, ErrorInfo, Status, encode_entry
from redurable.store.keys import continuations
from redurable.store.scripts import load
from redurable.store.store import Store

__all__ = ["UNASKED", "about", "approvals", "arrival", "form_of", "key_of", "resolve", "schema_of", "waited_for"]

UNASKED = 1000
_resolve = load("resolve")
_decode_ask = msgspec.msgpack.Decoder(Ask).decode
_NAME = 64


def key_of(name: str, index: int = 0) -> str:
    """Return the key of a promise; a name or index that cannot be one is a ConfigurationError."""
    if not isinstance(name, str) or not 0 < len(name) <= _NAME or not name.isprintable() or "#" in name:
        raise ConfigurationError(
            f"{str(name)[:100]!r} cannot be a promise's name", hint=f"use 1 to {_NAME} printable characters without #"
        )
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 53:
        raise ConfigurationError(f"the index of promise {name!r} must be an int of 0 or more, not {index!r}")
    return f"{name}#{index}"


def arrival(key: str, value: bytes = b"\xc0", error: ErrorInfo | None = None, by: str = "") -> Arrived:
    """Return the entry of a promise's value, or of its rejection with *error*."""
    status = Status.COMPLETED if error is None else Status.FAILED
    return Arrived(key, now_ms(), status, msgspec.Raw(value), error, by)


async def resolve(
    store: Store, intent: str, entry: Arrived, *, sealed: Arrived | None = None, most: int | None = UNASKED
) -> str:
    """
    Bring *entry*, stored as *sealed* if that is given, to *intent*; return OK, or the status in which it ended before.

    Raises:
        NotFound: There is no such intent.
        WrongState: ALREADY_RESOLVED (by something else), PROMISE_WITHDRAWN, TOO_MANY_UNASKED. Nothing was changed.
    """
    keys = store.keys_of(intent)
    queue, version = await store.mux.command("HMGET", keys.head(intent), "queue", "version")
    lane = continuations(version)
    word = "NOT_FOUND"
    if queue is not None:
        word = (await store.mux.call(
            _resolve,
            keys.partition,
            (keys.head(intent), keys.journal(intent), keys.arrivals(intent), keys.asked,
             keys.stream(queue.decode(), lane), keys.streams, keys.timers),
            (intent, entry.key, _digest(entry), encode_entry(sealed or entry), lane, "" if most is None else most,
             keys.namespace + ":h:"),
        )).decode()  # fmt: skip
    if word == "NOT_FOUND":
        raise NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")
    refusal = _REFUSALS.get(word)
    if refusal is not None:
        code, text, hint = refusal
        raise WrongState(f"{promise_text(entry.key)!r} of intent {intent} {text}", code=code, hint=hint)
    return word


_REFUSALS = {
    "ALREADY_RESOLVED": ("ALREADY_RESOLVED", "was resolved with something else", "the first value stands"),
    "WITHDRAWN": ("PROMISE_WITHDRAWN", "is not waited for any more", "the handler went on without it"),
    "FULL": (
        "TOO_MANY_UNASKED", f"is one too many: {UNASKED:,} values wait that its handler has not asked for",
        "check the name; or wait until the handler has caught up",
    ),
}  # fmt: skip


def _digest(entry: Arrived) -> str:
    kept = encode_entry([entry.status, entry.value, entry.error and (entry.error.type, entry.error.message)])
    return hashlib.blake2b(kept, digest_size=8).hexdigest()


async def waited_for(store: Store, intent: str) -> dict[str, Ask]:
    """Return what *intent* waits for, by key: promises and children, in no order."""
    flat = await store.mux.command("HGETALL", store.keys_of(intent).arrivals(intent))
    asks = ((key.decode(), _ask(mark)) for key, mark in zip(flat[::2], flat[1::2], strict=True))
    return {key: ask for key, ask in asks if ask is not None}


async def about(store: Store, intent: str, key: str) -> tuple[bool, Ask | None]:
    """Return whether anything is under *key* yet, and what is known of it as an open promise (None: it is not open)."""
    data = await store.mux.command("HGET", store.keys_of(intent).arrivals(intent), key)
    return data is not None, _ask(data)


def _ask(data: bytes | None) -> Ask | None:
    if data is None or data[:1] != b"?":
        return None
    return _decode_ask(data[1:]) if len(data) > 1 else Ask()


async def schema_of(store: Store, intent: str, form: str) -> Any:
    """Return the JSON Schema with the digest *form*, None if it is not kept."""
    data = await store.mux.command("HGET", store.keys_of(intent).forms, form)
    return None if data is None else msgspec.json.decode(data)


@functools.lru_cache(maxsize=1024)
def form_of(schema: bytes) -> str:
    """Return the digest that a JSON Schema is kept under."""
    return hashlib.blake2b(schema, digest_size=6).hexdigest()


async def approvals(store: Store, limit: int) -> list[tuple[str, str, str, Ask]]:
    """Return (intent, queue, key, ask) of what waits for people, the oldest first, up to *limit*."""
    found: list[tuple[str, str, str, Ask]] = []
    for keys in store.keys:
        rows = await store.mux.command("ZRANGE", keys.asked, 0, limit - 1)
        places = [row.decode().split("/", 1) for row in rows]
        asks = [store.mux.command("HGET", keys.arrivals(intent), key) for intent, key in places]
        heads = [store.mux.command("HMGET", keys.head(intent), "queue", "status") for intent, _ in places]
        for (intent, key), data, head in zip(places, asks, heads, strict=True):
            ask, (queue, status) = _ask(await data), await head
            if ask is not None and queue is not None and not Status(status.decode()).final:
                found.append((intent, queue.decode(), key, ask))
    return sorted(found, key=lambda row: row[3].since)[:limit]
