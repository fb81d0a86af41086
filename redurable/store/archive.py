"""
Whole intents out of the store and into it: export, import, delete.

An export is one moment of its intent: the head is read before and after the rest, and again until it held still (the
journal only grows meanwhile). An import writes all or nothing under the id the intent had; what was under way when it
was exported is deliverable again. Each may be repeated.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from redurable.clock import now_ms
from redurable.errors import ConfigurationError, NotFound, WrongState
from redurable.ids import partition_of
from redurable.model import Reason, Status
from redurable.portable import Parts, pack, token_of, unpack
from redurable.store.courier import relay
from redurable.store.journals import entries_of
from redurable.store.keys import FRESH_LANES, check_queue, check_session, continuations, told_keys
from redurable.store.scripts import load
from redurable.store.store import Store

__all__ = ["delete", "export", "import_record", "parts_of", "place"]

_KEPT_AT_LEAST = 86_400_000  # ms that a finished intent stays after its import, however old it is
_TRIES = 20
_ASKED = (Reason.LIMIT, Reason.HUMAN, Reason.PROMISE)
_delete, _import = load("delete"), load("import")


async def _head(store: Store, intent: str) -> dict[str, bytes]:
    flat = await store.mux.command("HGETALL", store.keys_of(intent).head(intent))
    if not flat:
        raise NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


async def export(store: Store, intent: str) -> dict[str, Any]:
    """Return the record of *intent* (see `redurable.portable`); raises as `parts_of`."""
    return pack(intent, await parts_of(store, intent))


async def parts_of(store: Store, intent: str) -> Parts:
    """
    Return all that the store holds of *intent* at one moment.

    Raises:
        NotFound: It is not there.
        WrongState: It changed hands again and again meanwhile.
    """
    keys, mux = store.keys_of(intent), store.mux
    head = await _head(store, intent)
    for _ in range(_TRIES):
        short = head.pop("outcome", None)
        body = mux.command("GET", keys.envelope(intent))
        long = mux.command("GET", keys.outcome(intent))
        cursors = mux.command("HGETALL", keys.checkpoint(intent))
        arrivals = mux.command("HGETALL", keys.arrivals(intent))
        removal = mux.command("ZSCORE", keys.done if head["status"] == b"COMPLETED" else keys.failed, intent)
        journal = await entries_of(store, intent)
        flat, brought, score, data = await cursors, await arrivals, await removal, await body
        outcome = await long or short or b""
        after = await _head(store, intent)
        if after == head | ({} if short is None else {"outcome": short}):
            texts = {name: value.decode() for name, value in head.items()}
            return Parts(
                head=texts,
                body=data or b"",
                journal=journal,
                outcome=outcome,
                cursors={n.decode(): v for n, v in zip(flat[::2], flat[1::2], strict=True)},
                arrivals={n.decode(): v for n, v in zip(brought[::2], brought[1::2], strict=True)},
                lane=texts.get("at", "").split("/", 1)[0] if texts["status"] == "SUBMITTED" else "",
                keep=None if score is None else int(float(score)),
            )
        head = after
    raise WrongState(f"intent {intent} does not hold still", hint="repeat, or pause its queue first")


async def import_record(store: Store, record: Any) -> bool:
    """
    Store the intent of *record* under its id; return False when the very same one is there already.

    An open one goes on: it is deliverable if it was, or if an attempt held it, or if people are asked for an answer,
    who are asked again; its timers are those it had.

    Raises:
        ConfigurationError: BAD_IMPORT; nothing was stored.
        WrongState: INTENT_EXISTS; another intent, or another moment of it, has that id. It is unchanged.
    """
    intent, parts = unpack(record)
    word = await place(store, intent, parts, token_of(record))
    if word == "CONFLICT" and token_of(await export(store, intent)) != token_of(record):
        raise WrongState(
            f"intent {intent} is there already, and is not the same", code="INTENT_EXISTS",
            hint="delete it first, or import into another namespace",
        )  # fmt: skip
    return word == "OK"


async def place(store: Store, intent: str, parts: Parts, token: str) -> str:
    """
    Store *parts* under the id *intent*: return OK, EXISTS (it was, with this *token*), or CONFLICT (another is there).

    Raises:
        ConfigurationError: BAD_IMPORT; nothing was stored.
    """
    if partition_of(intent) >= len(store.keys):
        raise ConfigurationError(
            f"intent {intent} is of partition {partition_of(intent)}; this namespace has {len(store.keys)}",
            code="BAD_IMPORT", hint="import into a namespace with as many partitions as it came from",
        )  # fmt: skip
    keys = store.keys_of(intent)
    session = parts.head.get("session")
    if session is None and parts.head.get("lane", FRESH_LANES[0]) not in FRESH_LANES:
        raise ConfigurationError(f"intent {intent} has the lane {parts.head['lane']!r}", code="BAD_IMPORT")
    queue, status = check_queue(parts.head["queue"]), parts.status
    if status in (Status.DELIVERED, Status.IN_PROGRESS):
        status = Status.SUBMITTED
    status = _resumed(parts, status)
    lane = _lane(parts)
    if session is not None and not status.final and "start" not in parts.head:
        status = _line_up(parts, session, lane)
    view = keys.done if status is Status.COMPLETED else keys.failed
    keep = max(parts.keep or 0, now_ms() + _KEPT_AT_LEAST)
    fields = [word for pair in parts.head.items() for word in pair]
    kept = [word for pair in parts.cursors.items() for word in pair]
    brought = [word for pair in parts.arrivals.items() for word in pair]
    word = await store.mux.call(
        _import,
        keys.partition,
        (keys.head(intent), keys.envelope(intent), keys.journal(intent), keys.outcome(intent),
         keys.checkpoint(intent), keys.arrivals(intent), view, keys.timers, keys.stream(queue, lane), keys.streams),
        (intent, token, parts.body, status.value, lane, parts.outcome, keep,
         len(fields), *fields, len(parts.journal), *parts.journal, len(kept), *kept,
         len(brought), *brought),
    )  # fmt: skip
    if session is not None:
        await store.session(keys, queue, session).reseat(intent)
    return str(word.decode())


def _resumed(parts: Parts, status: Status) -> Status:
    """One that was paused goes on as any other; what waits where others see it asks again: their lists are not here."""
    head = parts.head
    to, _, rest = head.pop("paused", "").partition(":")
    if "lane" in head:
        head["lane"] = head["lane"].lstrip("!")
    if status is Status.PAUSED:
        if to == "CREATED" and "start" in head:
            return Status.CREATED
        waits = to == "WAITING" and rest == str(len(parts.journal))
        status = Status.WAITING if waits else Status.SUBMITTED
        parts.lane = rest if to == "SUBMITTED" else ""
    listed = any(mark[:1] == b"?" and mark[1:] for mark in parts.arrivals.values())
    if status is Status.WAITING and head.get("reason") in (_ASKED if listed else (Reason.LIMIT,)):
        status = Status.SUBMITTED
    if status is Status.SUBMITTED:
        for name in ("wake", "reason"):
            head.pop(name, None)
    return status


def _line_up(parts: Parts, session: str, lane: str) -> Status:
    """An open intent of a session stands in line, whatever it did: it goes on when its turn comes."""
    head = parts.head
    check_session(session)
    for name in ("wake", "reason", "busy"):
        head.pop(name, None)
    if head.get("lane") not in (*FRESH_LANES, continuations(head.get("version"))):
        head["lane"] = lane
    head.setdefault("place", f"{head['created']}000")
    return Status.CREATED


def _lane(parts: Parts) -> str:
    """Return where it is deliverable: as fresh as it was, else among the continuations; suspects begin anew."""
    begun = "attempt" in parts.head
    return parts.lane if not begun and parts.lane in FRESH_LANES else continuations(parts.head.get("version"))


async def delete(store: Store, intent: str) -> None:
    """
    Remove the finished *intent* now; its idempotency key may be used again. What it owes others is done before.

    Raises:
        NotFound: It is not there.
        WrongState: It is open; it is unchanged.
    """
    keys = store.keys_of(intent)
    head = await _head(store, intent)
    status = head["status"].decode()
    if "owes" in head or head.get("reply", b"").startswith(b"^"):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # what cannot be read is deleted as well
            await relay(store, intent)
    places = (
        keys.head(intent), keys.envelope(intent), keys.journal(intent), keys.outcome(intent),
        keys.checkpoint(intent), keys.arrivals(intent), *told_keys(keys, intent),
        keys.done, keys.failed,
    )  # fmt: skip
    if await store.mux.call(_delete, keys.partition, places, (intent,)) == b"WRONG_STATE":
        raise WrongState(f"intent {intent} is {status}; only finished ones are deleted", hint="cancel it first")
