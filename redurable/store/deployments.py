"""
Deployment versions: which exist of a queue, which is the current one, what is pinned to each.

The hash `dv` of a partition holds for each queue with versions:

    <queue>             the newest version: the one that registered last of all for the first time
    <queue>/            the promoted one, if an operator chose
    <queue>/<version>   when it registered first (us)

The *current* version is the promoted one, else the newest: fresh intents are for it, and their first claim pins them
(head field `version`); `claim` sees to both. Counts are of one walk over all heads: exact of what does not move.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

import msgspec

from redurable.config import check_version
from redurable.errors import NotFound
from redurable.model import Status
from redurable.store.inspection import workers
from redurable.store.keys import check_queue
from redurable.store.scripts import load
from redurable.store.store import Store
from redurable.store.walk import legible, walk

__all__ = ["Deployment", "deployments", "open_intents", "promote", "versions"]

_promote = load("promote")


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """
    A version of a queue; *version* is None for what is pinned to none.

    *intents* are the open ones pinned to it; with *version* None, those that began without one (any worker takes them)
    and the *fresh* ones, which have not begun and are for the current version. *oldest*, *since*: ms since 1970.
    *why* says why it is not *safe* to retire.
    """

    queue: str
    version: str | None
    current: bool = False
    promoted: bool = False
    since: int | None = None
    workers: int = 0
    intents: int = 0
    fresh: int = 0
    oldest: int | None = None
    safe: bool = False
    why: str = ""


@dataclass(slots=True)
class _Known:
    """What is registered of one queue: version -> since (ms)."""

    newest: str = ""
    promoted: str = ""
    since: dict[str, int] = field(default_factory=dict)

    @property
    def current(self) -> str:
        return self.promoted or self.newest


async def versions(store: Store) -> dict[str, _Known]:
    """Return what is registered, by queue."""
    flat = await store.mux.command("HGETALL", store.keys[0].versions)
    found: dict[str, _Known] = {}
    for raw, value in zip(flat[::2], flat[1::2], strict=True):
        queue, slash, version = raw.decode().partition("/")
        known = found.setdefault(queue, _Known())
        if version:
            known.since[version] = int(value) // 1000
        elif slash:
            known.promoted = value.decode()
        else:
            known.newest = value.decode()
    return found


async def promote(store: Store, queue: str, version: str | None) -> None:
    """
    Make *version* the current one of *queue*, whatever registers later; None: the newest is, from now on.

    Raises:
        NotFound: VERSION_NOT_FOUND; no worker has ever registered it for *queue*. Nothing was changed.
    """
    check_queue(queue)
    if version is not None:
        check_version(version)
    words = [
        await store.mux.call(_promote, keys.partition, (keys.versions, keys.timers), (queue, version or ""))
        for keys in store.keys
    ]
    if b"NOT_FOUND" in words:
        known = (await versions(store)).get(queue, _Known()).since
        raise NotFound(
            f"queue {queue!r} has no {f'version {version!r}' if version else 'deployment versions'}",
            code="VERSION_NOT_FOUND",
            hint=f"known are: {', '.join(sorted(known))}" if known
            else "start a worker of it first: redurable worker ... --version NAME",
        )  # fmt: skip


@dataclass(slots=True)
class _Count:
    intents: int = 0
    fresh: int = 0
    oldest: int | None = None


async def deployments(store: Store, queue: str | None = None) -> list[Deployment]:
    """Return the versions of every queue that has any (or of *queue*), and what is pinned to none there."""
    counts, known, present = await asyncio.gather(_counts(store), versions(store), workers(store))
    alive = Counter((name, w.version) for w in present if w.alive for name in w.queues)
    places = {(name, version) for name, some in known.items() for version in some.since}
    places |= {place for place in counts if place[1]}
    named = {name for name, _ in places}
    places |= {(name, "") for name in named if (name, "") in counts or alive[name, ""]}
    found = []
    for name, version in places:
        if queue not in (None, name):
            continue
        facts, count = known.get(name, _Known()), counts.get((name, version), _Count())
        fresh = counts.get((name, ""), _Count()).fresh
        found.append(_row(name, version, facts, count, fresh, alive[name, version]))
    return sorted(found, key=lambda d: (d.queue, d.version is None, -(d.since or 0), d.version or ""))


def _row(name: str, version: str, known: _Known, count: _Count, fresh: int, alive: int) -> Deployment:
    current = bool(version) and version == known.current
    return Deployment(
        queue=name,
        version=version or None,
        current=current,
        promoted=current and bool(known.promoted),
        since=known.since.get(version),
        workers=alive,
        intents=count.intents,
        fresh=count.fresh,
        oldest=count.oldest,
        safe=bool(version) and not current and not count.intents,
        why=_why(version, current, known.current, count, fresh, alive),
    )


def _why(version: str, current: bool, to: str, count: _Count, fresh: int, alive: int) -> str:
    if not version:
        parts = [f"{count.fresh:,} not begun, for {to or 'any worker'}"] if count.fresh else []
        begun = count.intents - count.fresh
        return "; ".join([*parts, *([f"{begun:,} begun without a version, for any worker"] if begun else [])])
    if (count.intents or (current and fresh)) and not alive:
        return "has work and no worker"
    if current:
        return "is current"
    return "has open intents" if count.intents else ""


async def _counts(store: Store) -> dict[tuple[str, str], _Count]:
    """Return what is open, by (queue, version; "" = none)."""
    found: dict[tuple[str, str], _Count] = {}
    async for _, queue, version, created, fresh in _open(store):
        count = found.setdefault((queue, version), _Count())
        count.intents += 1
        count.fresh += fresh
        count.oldest = min(created, count.oldest or created)
    return found


async def open_intents(store: Store, queues: Collection[str], version: str | None = None) -> list[str]:
    """Return the ids of what is open in *queues*, pinned to *version* if that is given."""
    return [i async for i, queue, pin, _, _ in _open(store) if queue in queues and version in (None, pin)]


async def _open(store: Store) -> AsyncIterator[tuple[str, str, str, int, bool]]:
    """Give (id, queue, version or "", created in ms, whether it begins yet) of every open intent, each once."""
    names = ("status", "queue", "version", "created", "fence")
    seen = set[str]()  # of the open ones alone: what is kept here does not grow with what has ended
    async for page in walk(store, "i:"):
        asked = [legible(store.mux.command("HMGET", store.keys[p].head(i), *names)) for p, i in page]
        for (_, intent), head in zip(page, await asyncio.gather(*asked), strict=True):
            status, queue, version, created, fence = ((word or b"").decode() for word in head or [b""] * len(names))
            if status in Status.__members__ and not Status(status).final and intent not in seen:
                seen.add(intent)
                fresh = not version and (not fence or head[2] is not None)
                yield intent, queue, version, int(created), fresh
