"""
How much there is to do: queues with their depths, what waits and for what, what is kept.

Bounded by the number of streams, not of intents: all commands of a look leave in one flush, then a second one for
what waits. Intents that wait are told apart by up to `SAMPLE` members of the timers drawn at random: exact up to that
many, beyond it a part that stands for the whole.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from redurable.errors import StoreError
from redurable.model import Reason, Status
from redurable.store.deployments import versions
from redurable.store.inspection import workers
from redurable.store.keys import GROUP, SOLO, Keys
from redurable.store.limits import LimitInfo, limits
from redurable.store.store import Store

__all__ = ["SAMPLE", "Overview", "QueueInfo", "VersionDepth", "overview", "queues"]

SAMPLE = 1000


class VersionDepth(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment version of a queue: how much that only its workers take could go on now, and how many there are."""

    version: str
    ready: int
    workers: int


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    A queue: intents that wait for a worker, that workers hold, suspects; the age of the oldest that waits; its workers.

    *delayed* ones have their start to come. *waiting* ones need no worker now, counted by reason; *unknown* are those
    among them whose type no worker knew that met them. Who waits for news without a time limit is not counted. Of a
    *paused* queue workers take nothing.
    """

    name: str
    queued: int
    running: int
    suspects: int
    delayed: int
    waiting: dict[str, int]
    oldest_seconds: float | None
    workers: int
    paused: bool = False
    versions: tuple[VersionDepth, ...] = ()

    @property
    def unknown(self) -> int:
        """Intents that were put down because no worker that met them knew their type."""
        return self.waiting.get(Reason.UNKNOWN_TYPE.value, 0)


@dataclass(frozen=True, slots=True)
class Overview:
    """
    Queues, and of how many in all; how many intents have a timer; how many finished ones are kept, completed and other;
    limits in use.
    """

    queues: list[QueueInfo]
    total: int
    timers: int
    completed: int
    other: int
    limits: list[LimitInfo]


@dataclass(slots=True)
class _Depth:
    queued: int = 0
    running: int = 0
    suspects: int = 0
    delayed: float = 0.0
    oldest: int | None = None
    waiting: dict[str, float] = field(default_factory=dict)
    ready: Counter[str] = field(default_factory=Counter)  # by lane without its kind, what nobody holds


@dataclass(frozen=True, slots=True)
class _Part:
    depths: dict[str, _Depth]
    names: list[str]
    timers: int
    completed: int
    other: int


async def queues(store: Store) -> list[QueueInfo]:
    """Return every queue that ever held an intent, with its depth."""
    return (await overview(store)).queues


async def overview(store: Store, most: int | None = None) -> Overview:
    """Return how much there is to do, and what is kept; of *most* queues only, the first by name."""
    looks = asyncio.gather(*(_partition(store, keys, most) for keys in store.keys))
    names = store.mux.command("SMEMBERS", store.keys[0].paused)
    present, parts, deployed = await asyncio.gather(workers(store), looks, versions(store))
    alive = Counter((name, w.version) for w in present if w.alive for name in w.queues)
    paused = {raw.decode() for raw in await names}
    depths: dict[str, _Depth] = {name: _Depth() for name in sorted(paused)[:most]}
    for part in parts:
        for name, depth in part.depths.items():
            _add(depths.setdefault(name, _Depth()), depth)
    now = (await store.mux.command("TIME"))[0] if depths else 0
    found = [
        QueueInfo(
            name=name,
            queued=d.queued,
            running=d.running,
            suspects=d.suspects,
            delayed=round(d.delayed),
            waiting={reason: round(count) for reason, count in sorted(d.waiting.items())},
            oldest_seconds=None if d.oldest is None else max(0.0, int(now) - d.oldest / 1000),
            workers=sum(name in w.queues for w in present if w.alive),
            paused=name in paused,
            versions=_versions(name, d.ready, deployed[name].current, alive) if name in deployed else (),
        )
        for name, d in sorted(depths.items())[:most]
    ]
    return Overview(
        queues=found,
        total=len({name for part in parts for name in part.names} | depths.keys()),
        timers=sum(part.timers for part in parts),
        completed=sum(part.completed for part in parts),
        other=sum(part.other for part in parts),
        limits=[] if most is None else await limits(store, most),
    )


def _versions(
    queue: str, ready: Counter[str], current: str, alive: Counter[tuple[str, str]]
) -> tuple[VersionDepth, ...]:
    """Return the current version, to which fresh work is given, and those that have work or workers."""
    pinned = {lane for lane, count in ready.items() if count and lane and lane[0] not in "-!"}
    names = pinned | {version for name, version in alive if name == queue and version} | ({current} - {""})
    return tuple(
        VersionDepth(
            version=name, ready=ready[name] + (ready[""] if name == current else 0), workers=alive[queue, name]
        )
        for name in sorted(names)
    )


async def _partition(store: Store, keys: Keys, most: int | None) -> _Part:
    mux = store.mux
    streams, drawn, timers, completed, other = await asyncio.gather(
        mux.command("SMEMBERS", keys.streams),
        mux.command("ZRANDMEMBER", keys.timers, SAMPLE),
        mux.command("ZCARD", keys.timers),
        mux.command("ZCARD", keys.done),
        mux.command("ZCARD", keys.failed),
    )
    places = {raw: keys.lane_of(raw.decode()) for raw in streams}
    names = sorted({name for name, _ in places.values()})
    # the first of all partitions together are among the first of each
    depths = {name: _Depth() for name in names[:most]}
    streams = [raw for raw, (name, _) in places.items() if name in depths]
    heads, *rows = await asyncio.gather(
        asyncio.gather(*(mux.command("HMGET", keys.head(i.decode()), "queue", "status", "reason") for i in drawn)),
        *(_stream(store, raw) for raw in streams),
    )
    for raw, (free, held, oldest) in zip(streams, rows, strict=True):
        name, lane = places[raw]
        depth = depths[name]
        depth.running += held
        depth.ready[lane[2:].removeprefix(f"{SOLO[2:]}!") if lane[0] == "c" else ""] += free
        if lane.startswith(SOLO):
            depth.suspects += free
        else:
            depth.queued += free
        depth.oldest = _earliest(depth.oldest, oldest)
    each = timers / len(drawn) if drawn else 0.0
    for queue, status, reason in heads:
        if queue is None:
            continue  # removed since
        depth = depths.setdefault(queue.decode(), _Depth())
        if status == Status.CREATED.encode():
            depth.delayed += each
        elif status == Status.WAITING.encode():
            word = reason.decode() if reason else Reason.TIME.value
            depth.waiting[word] = depth.waiting.get(word, 0.0) + each
    return _Part(depths, names, timers, completed, other)


async def _stream(store: Store, raw: bytes) -> tuple[int, int, int | None]:
    """Return how many entries of a stream nobody holds, how many are held, and when the oldest free one was added."""
    length, groups = store.mux.command("XLEN", raw), store.mux.command("XINFO", "GROUPS", raw)
    held, read = 0, "0"
    try:
        for group in await groups:
            facts = dict(zip(group[::2], group[1::2], strict=True))
            if facts[b"name"] == GROUP.encode():
                held, read = int(facts[b"pending"]), facts[b"last-delivered-id"].decode()
    except StoreError:
        return int(await length), 0, None  # the stream is gone, or has never been read
    first = await store.mux.command("XRANGE", raw, f"({read}", "+", "COUNT", 1)
    return max(0, int(await length) - held), held, int(first[0][0].split(b"-")[0]) if first else None


def _add(to: _Depth, other: _Depth) -> None:
    to.queued += other.queued
    to.running += other.running
    to.suspects += other.suspects
    to.ready += other.ready
    to.delayed += other.delayed
    to.oldest = _earliest(to.oldest, other.oldest)
    for reason, count in other.waiting.items():
        to.waiting[reason] = to.waiting.get(reason, 0.0) + count


def _earliest(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)
