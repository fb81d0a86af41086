"""
Limits in the store: places that are taken, waited for, given back and looked after, and what there is to see of them.

A limit is known by its id: its name, or `<name>:<key>`. What it allows is told by whoever asks, and kept in its book
for those who hand on: the last to ask is right, so a new deployment's numbers hold from its first call. It is kept in
the partition of who asks; there is one so far. A limit that nobody uses, waits for or counts leaves no key. The rules
are in `lua/_limit.lua`. Invariants: nobody passes one who waits (the older intent goes first); what is full is never
exceeded by who is called up, for a place is kept for them; a place belongs to a fence, and is free when that has given
it back, or its owner is found dead, or a lease after its intent went on without it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from redurable.store.keys import Keys, continuations, limit_keys
from redurable.store.lease import Lease
from redurable.store.scripts import load
from redurable.store.store import Store

__all__ = ["SAFETY_MS", "LimitInfo", "Place", "Wanted", "limits", "linger", "occupy", "review", "vacate"]

SAFETY_MS = 1_800_000  # should all else fail, who waits asks again
_occupy, _linger, _vacate, _review = load("occupy"), load("linger"), load("vacate"), load("review")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A limit that is to be kept: at most `concurrency` at a time, `rate` within `per_us`; 0 = any number."""

    id: str
    concurrency: int
    rate: int
    per_us: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attempt is at work under its limits: its handler (*call* is ""), or a call of a step."""

    lease: Lease
    call: str
    limits: tuple[Wanted, ...]

    @property
    def name(self) -> str:
        """Its member of lines, alike for every attempt."""
        return f"{self.lease.id}|{self.call}"


class LimitInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    A limit that is in use: its name and key, what it allows, and what there is.

    *used* places are held, or kept for who was just called up; *counted* is what the rate counts now. *waiting* are
    handlers and steps' calls in line; *oldest_seconds* is how long ago the oldest intent among them was sent.
    """

    name: str
    key: str
    concurrency: int | None
    used: int
    rate: int | None
    per: float | None
    counted: int
    waiting: int
    oldest_seconds: float | None


def _keys(lease: Lease) -> Keys:
    return lease.store.keys_of(lease.id)


def occupy(place: Place, ask: str, slack_us: int) -> asyncio.Future[Any]:
    """
    Take *place*, all of its limits at once; the answer is OK, a refusal, or the number (from 1) of the limit that is
    full: then it stands in that line. *ask* names what the rates count, "" = nothing.
    """
    lease, keys = place.lease, _keys(place.lease)
    wanted = [
        word
        for w in place.limits
        for word in (w.id, w.concurrency or "", w.rate or "", w.per_us if w.rate else "")
    ]  # fmt: skip
    return lease.store.mux.call(
        _occupy,
        keys.partition,
        (lease.head, keys.limits, keys.timers, keys.streams),
        (lease.id, lease.fence, place.name, ask, slack_us, keys.prefix, keys.namespace + ":h:", len(wanted), *wanted),
    )


def vacate(place: Place, *, unused: str = "", gone: bool = False) -> asyncio.Future[Any]:
    """Give *place* back; what was *unused* is not counted. With *gone* it waits no more either."""
    lease, keys = place.lease, _keys(place.lease)
    ids = [wanted.id for wanted in place.limits]
    return lease.store.mux.call(
        _vacate,
        keys.partition,
        (lease.head, keys.limits, keys.timers, keys.streams),
        (place.name, lease.fence, unused, int(gone), keys.prefix, keys.namespace + ":h:", len(ids), *ids),
    )


def linger(
    lease: Lease, waits: list[tuple[Wanted, Place]], seen: int | None, wake_ms: int | None
) -> asyncio.Future[Any]:
    """
    Give the intent of *lease* up until one of *waits* is called up, or until *wake_ms*; see the script.

    *seen* is None if its handler has not begun.
    """
    keys, lane = _keys(lease), continuations(lease.version)
    places = [word for wanted, place in waits for word in (wanted.id, place.name)]
    return lease.store.mux.call(
        _linger,
        keys.partition,
        (lease.head, keys.journal(lease.id), keys.timers, lease.stream, keys.stream(lease.queue, lane), keys.streams),
        (lease.id, lease.fence, lease.k, "" if seen is None else seen, lease.entry,
         f"+{SAFETY_MS}" if wake_ms is None else wake_ms, lane, waits[0][0].id, keys.prefix, len(places), *places),
    )  # fmt: skip


async def review(store: Store, keys: Keys, limit: str) -> str:
    """Look after *limit*, whose timer is due."""
    word = await store.mux.call(
        _review,
        keys.partition,
        (keys.limits, keys.timers, keys.streams),
        (limit, keys.prefix, keys.namespace + ":h:", keys.namespace + ":l:"),
    )
    return "REVIEWED" if word == b"OK" else str(word.decode())


async def limits(store: Store, most: int | None = None) -> list[LimitInfo]:
    """
    Return every limit that somebody has a place of, waits for, or that counts something now; by name and key.

    With *most* it looks at that many only, the first by name and key.
    """
    found: list[LimitInfo] = []
    for keys in store.keys:
        ids = sorted(raw.decode() for raw in await store.mux.command("SMEMBERS", keys.limits))[:most]
        seconds, micros = await store.mux.command("TIME")
        now_us = int(seconds) * 1_000_000 + int(micros)
        looked = await asyncio.gather(*(_look(store, keys, limit, now_us) for limit in ids))
        found += [info for info in looked if info is not None]
    return sorted(found, key=lambda info: (info.name, info.key))


async def _look(store: Store, keys: Keys, limit: str, now_us: int) -> LimitInfo | None:
    mux = store.mux
    book, used, line, window = limit_keys(keys, limit)
    numbers, kept, free, waiting, counted, first = await asyncio.gather(
        mux.command("HMGET", book, "concurrency", "rate", "per"),
        mux.command("ZCARD", used),
        mux.command("ZCOUNT", used, 1, now_us // 1000),
        mux.command("ZCARD", line),
        mux.command("ZCOUNT", window, f"({now_us}", "+inf"),
        mux.command("ZRANGE", line, 0, 0, "WITHSCORES"),
    )
    concurrency, rate, per = (None if number is None else int(number) for number in numbers)
    if not (kept or waiting or counted):
        return None
    name, _, key = limit.partition(":")
    return LimitInfo(
        name=name,
        key=key,
        concurrency=concurrency,
        used=kept - free if concurrency else 0,
        rate=rate,
        per=None if per is None else per / 1_000_000,
        counted=counted if rate else 0,
        waiting=waiting,
        oldest_seconds=max(0.0, now_us / 1_000_000 - float(first[1]) / 1000) if first else None,
    )
