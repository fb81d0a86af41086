"""
Schedules as they are stored, and their firing.

A schedule is a hash whose timer is the member `@<name>` of the timers, beside those of intents: one loop waits for all.
Fields: `what` (the packed `Plan`), `revision` (a token, new at every change of it), `status` (ACTIVE or PAUSED), `next`
(the tick that is to be fired), `wake` (when: the tick and its jitter), `made`, and of the last firing `last` (its
intent), `tick`, `at`; the counts `fired`, `skipped`, `missed`; `token` and `word` of the last call of `tick`.

Exactly once: a script stores the intent of a tick and moves the schedule on to the next one, or neither; it refuses who
has read another `next` than is there. The intent's id is derived from the schedule's name and the tick besides, so that
a schedule that was deleted and made again does not fire a tick twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from redurable.codec import reason_of
from redurable.errors import CodecError, ConfigurationError, NotFound, WrongState
from redurable.events import emit
from redurable.ids import derived_id, new_id
from redurable.model import Envelope, SessionEnvelope
from redurable.store.scripts import load
from redurable.store.store import Store
from redurable.ticks import CatchUp, Due, Rhythm, due, zone

__all__ = [
    "MARK", "Overlap", "Plan", "Stored", "alter", "fire", "fresh", "mend", "names", "read", "remove", "server_ms",
    "trigger", "unknown",
]  # fmt: skip

MARK = "@"  # begins the members of the timers that are schedules; ids of intents are hexadecimal
Overlap = Literal["allow", "skip", "queue", "replace"]
_AGAIN = 5000  # ms after which a schedule is looked at again that this process cannot read
_plan, _tick = load("plan"), load("tick")


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What a schedule sends, and when. Durations in ms.

    *payload* is MessagePack, sealed if there is a codec; *digest* is of what it was before. *declared* names the
    handler in whose code it stands, if it does.
    """

    rhythm: Rhythm
    queue: str
    type: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"\xc0")
    digest: str = ""
    labels: dict[str, str] = {}
    lane: str = "q:normal"
    deadline: int | None = None
    max_losses: int | None = None
    key: str = ""
    shared: bool = False
    overlap: Overlap = "allow"
    catch_up: CatchUp = "one"
    window: int = 365 * 86_400_000
    declared: str = ""

    def line(self, name: str) -> str:
        """Return the session in whose line its intents stand; "" if they stand in none."""
        if self.overlap in ("queue", "replace"):
            return f"schedule:{name}"
        return "" if self.shared else self.key


@dataclass(frozen=True, slots=True)
class Stored:
    """A schedule as it is stored; times in ms. *last* is the intent of its last firing, for *tick*, at *at*."""

    name: str
    plan: Plan
    revision: str
    paused: bool
    next: int | None
    wake: int | None
    made: int
    last: str = ""
    tick: int | None = None
    at: int | None = None
    fired: int = 0
    skipped: int = 0
    missed: int = 0


_decode_plan = msgspec.msgpack.Decoder(Plan).decode
_encode = msgspec.msgpack.Encoder().encode


# --- reading and changing ---------------------------------------------------------------------------------------------


async def names(store: Store) -> list[str]:
    """Return the names of all schedules, sorted."""
    return sorted(raw.decode() for raw in await store.mux.command("SMEMBERS", store.keys[0].schedules))


async def read(store: Store, name: str) -> Stored | None:
    """
    Return the schedule called *name*, None if there is none.

    Raises:
        CodecError: SCHEDULE_UNREADABLE; a later version wrote it.
    """
    flat = await store.mux.command("HGETALL", store.keys[0].schedule(name))
    return _stored(name, flat) if flat else None


def _stored(name: str, flat: list[bytes]) -> Stored:
    found = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        plan = _decode_plan(found[b"what"])
    except msgspec.MsgspecError as error:
        raise CodecError(
            f"the schedule {name!r} cannot be read: {reason_of(error)}", code="SCHEDULE_UNREADABLE",
            hint="a later version of redurable wrote it: upgrade this one",
        ) from None  # fmt: skip

    def number(field: bytes) -> int | None:
        return int(found[field]) if found.get(field) else None

    return Stored(
        name=name,
        plan=plan,
        revision=found[b"revision"].decode(),
        paused=found[b"status"] == b"PAUSED",
        next=number(b"next"),
        wake=number(b"wake"),
        made=number(b"made") or 0,
        last=found.get(b"last", b"").decode(),
        tick=number(b"tick"),
        at=number(b"at"),
        fired=number(b"fired") or 0,
        skipped=number(b"skipped") or 0,
        missed=number(b"missed") or 0,
    )


async def server_ms(store: Store) -> int:
    """Return the server's time in ms."""
    seconds, micros = await store.mux.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def fresh(plan: Plan, name: str, now: int) -> dict[str, Any]:
    """Return the fields that say that the next tick is the first after *now*."""
    tick = plan.rhythm.next(now)
    return {"next": "" if tick is None else tick, "wake": "" if tick is None else tick + plan.rhythm.late(name, tick)}


async def alter(store: Store, name: str, change: Callable[[Stored | None, int], dict[str, Any] | None]) -> None:
    """
    Write the fields that *change* answers to the schedule as it is now, and the server's time.

    *change* is asked again if another was faster; with None nothing is written. A field `plan` is packed.
    """
    revision = secrets.token_hex(6)
    while True:
        now, stored = await asyncio.gather(server_ms(store), read(store, name))
        fields = change(stored, now)
        if fields is None:
            return
        if "plan" in fields:
            fields["what"] = _encode(fields.pop("plan"))
        words = [word for pair in fields.items() for word in pair]
        expected = stored.revision if stored else ""
        word = await _write(store, name, expected, revision, words)
        if word == b"OK":
            return


def _write(store: Store, name: str, expected: str, revision: str, words: list[Any]) -> asyncio.Future[Any]:
    keys = store.keys[0]
    places = (keys.schedule(name), keys.schedules, keys.timers)
    return store.mux.call(_plan, 0, places, (name, MARK + name, expected, revision, len(words), *words))


async def remove(store: Store, name: str) -> None:
    """
    Delete the schedule *name*, also one that cannot be read here.

    Raises:
        NotFound: SCHEDULE_NOT_FOUND.
    """
    while True:
        revision = await store.mux.command("HGET", store.keys[0].schedule(name), "revision")
        if revision is None:
            raise unknown(name)
        if await _write(store, name, revision.decode(), "", []) == b"OK":
            return


async def mend(store: Store) -> None:
    """Put back the timers of schedules that a lost write took."""
    keys = store.keys[0]
    known = await names(store)
    timers = await store.mux.command("ZMSCORE", keys.timers, *(MARK + name for name in known)) if known else []
    for name in [name for name, timer in zip(known, timers, strict=True) if timer is None]:  # most of them are paused
        revision = await store.mux.command("HGET", keys.schedule(name), "revision")
        if revision is not None:
            await _write(store, name, revision, revision, [])


# --- firing -----------------------------------------------------------------------------------------------------------


async def fire(store: Store, name: str, now: int | None = None) -> str:
    """
    Fire the schedule *name* if it is due, for one tick; return the script's word.

    One that cannot be fired here (a later version wrote it, say) is told of and put off: it keeps no timer waiting.
    """
    keys = store.keys[0]
    try:
        while True:
            moment, stored = await asyncio.gather(server_ms(store), read(store, name))
            if stored is None:
                await store.mux.command("ZREM", keys.timers, MARK + name)
                return "STALE"
            moment = moment if now is None else now
            plan = stored.plan
            todo = None
            if stored.next is not None and not stored.paused:
                todo = due(plan.rhythm, name, stored.next, moment, plan.catch_up, plan.window)
            if todo is None:
                await _write(store, name, stored.revision, stored.revision, [])
                return "STALE" if stored.wake is None or stored.paused else "EARLY"
            word = await _call(store, stored, todo, moment)
            if word != "AGAIN":
                return word
    except (CodecError, ConfigurationError) as error:
        emit("schedule.failed", schedule=name, error=error)
        await store.mux.command("ZADD", keys.timers, "XX", await server_ms(store) + _AGAIN, MARK + name)
        return "STALE"


async def trigger(store: Store, name: str) -> str:
    """
    Fire the schedule *name* now, whatever its next tick; return the intent's id.

    Raises:
        NotFound: SCHEDULE_NOT_FOUND.
        WrongState: SCHEDULE_BUSY; its intents must not overlap, and the last one is open.
    """
    while True:
        now, stored = await asyncio.gather(server_ms(store), read(store, name))
        if stored is None:
            raise unknown(name)
        intent = new_id(0)
        word = await _call(store, stored, None, now, intent)
        if word == "SKIPPED":
            raise WrongState(
                f"the last intent of schedule {name!r}, {stored.last}, is open", code="SCHEDULE_BUSY",
                hint="it was put with overlap='skip': wait for that one, or cancel it",
            )  # fmt: skip
        if word != "AGAIN":
            return intent


def unknown(name: str) -> NotFound:
    """Return the error of a name that no schedule has."""
    return NotFound(
        f"there is no schedule {name!r}", code="SCHEDULE_NOT_FOUND", hint="see: redurable schedules list"
    )  # fmt: skip


async def _call(store: Store, stored: Stored, todo: Due | None, now: int, by_hand: str = "") -> str:
    """Run `tick` for what is to be done, or for an intent *by_hand*; return its word, and tell of what it did."""
    keys, plan, name = store.keys[0], stored.plan, stored.name
    tick = todo.tick if todo else None
    intent = by_hand or derived_id(0, store.namespace, "schedule", name, str(tick))
    body = _envelope(stored, tick) if by_hand or tick is not None else b""
    line = plan.line(name)
    following = todo.next if todo else None
    word = (await store.mux.call(
        _tick,
        0,
        (keys.schedule(name), keys.timers, keys.head(stored.last or intent), keys.head(intent), keys.envelope(intent),
         keys.stream(plan.queue, plan.lane), keys.streams, keys.line(plan.queue, line), keys.state(plan.queue, line)),
        (MARK + name, stored.revision, secrets.token_hex(6), stored.next if todo else "",
         "" if following is None else following,
         "" if following is None else following + plan.rhythm.late(name, following),
         todo.missed if todo else 0, stored.last, 1 if plan.overlap == "skip" else "", "" if tick is None else tick,
         intent, body, plan.queue, plan.lane, "" if plan.deadline is None else f"+{plan.deadline}",
         "" if plan.max_losses is None else plan.max_losses, line, "all" if plan.overlap == "replace" else ""),
    )).decode()  # fmt: skip
    if word in ("AGAIN", "EARLY"):
        return str(word)
    if word == "QUEUED" and plan.overlap == "replace":
        await store.make_way(intent, plan.queue, line, "all")
    if todo is not None:
        late = 0.0 if tick is None else max(0, now - tick - plan.rhythm.late(name, tick)) / 1000
        emit("schedule.fired", schedule=name, queue=plan.queue, intent=intent, word=word, late=late, missed=todo.missed)
    return str(word)


def _envelope(stored: Stored, tick: int | None) -> bytes:
    plan, name = stored.plan, stored.name
    labels = plan.labels | {"schedule": name}
    if tick is not None:
        labels["tick"] = datetime.fromtimestamp(tick / 1000, zone(plan.rhythm.tz)).isoformat()
    said = (plan.type, plan.payload, labels)
    key = plan.line(name) or plan.key
    return _encode(SessionEnvelope(*said, session=key, shared=plan.shared) if key else Envelope(*said))
