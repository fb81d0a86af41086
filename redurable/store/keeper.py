"""
The verbs of workers beside those of a lease's owner: claim, recover, fire, expire, mend, sweep.

Each takes the partition's keys and re-checks in its script whatever was read before. Nothing here loops or waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redurable.clock import boottime, now_ms
from redurable.errors import StoreError
from redurable.events import emit
from redurable.model import CancelRequested, Status, encode_entry
from redurable.store import schedules
from redurable.store.keys import FRESH_LANES, GROUP, Keys, continuations, suspects, told_keys
from redurable.store.lease import Lease
from redurable.store.limits import review
from redurable.store.multiplexer import Multiplexer
from redurable.store.schedules import MARK
from redurable.store.scripts import load
from redurable.store.store import KEEP_OTHER_MS, Store, failure_of

__all__ = ["Keeper", "Pending", "renew", "renewal"]

_claim, _fire, _open = load("claim"), load("fire"), load("open")
_mend, _sweep, _dismiss, _renew = load("mend"), load("sweep"), load("dismiss"), load("renew")
_join, _deploy = load("join"), load("deploy")
_COUNT = 500
_HELD = ("reason", "queue", "version")


@dataclass(frozen=True, slots=True)
class Pending:
    """A pending entry: its stream, entry id, owner, idle time in ms."""

    stream: str
    entry: bytes
    owner: str
    idle: int


def renewal(leases: list[Lease], worker: str) -> tuple[Any, ...]:
    """Return the EVALSHA words that renew *leases* (of one partition) in one call; each is answered as by `renew`."""
    keys: list[Any] = []
    args: list[Any] = []
    for lease in leases:
        keys += (lease.head, lease.stream)
        args += (lease.fence, lease.entry, worker, lease.base)
    return ("EVALSHA", _renew.sha, len(keys), *keys, "", *args)


def renew(lease: Lease, worker: str) -> asyncio.Future[bytes]:
    """Renew one *lease* on its store's own connection, behind all that was sent there; answers a word of the script."""
    keys, args = (lease.head, lease.stream), (lease.fence, lease.entry, worker, lease.base)
    return lease.store.mux.call(_renew, lease.partition, keys, args)


class Keeper:
    """
    What the worker *worker*, of a deployment version or of none (""), does to one partition of *store*.

    Its leases are good for *term* seconds from the last renewal.
    """

    def __init__(self, store: Store, partition: int, worker: str, version: str = "", term: float = math.inf) -> None:
        self._store = store
        self._mux = store.mux
        self.keys: Keys = store.keys[partition]
        self.worker = worker
        self.version = version
        self.term = term

    async def open(self, streams: list[str]) -> None:
        """Make *streams* and their groups; those that exist stay as they are."""
        await asyncio.gather(*(self._call(_open, (s, self.keys.streams), ()) for s in streams))

    def claiming(  # in the order of the script's args
        self,
        streams: list[str],
        limits: list[str],
        count: int,
        number: int,
        claimed: bytes,
        given: list[Any],
        gated: bool = False,
        marks: Sequence[str | bytes] = (),
        mux: Multiplexer | None = None,
    ) -> asyncio.Future[Any]:
        """
        Ask for up to *count* intents, those of *given* (flat: stream's place from 1, entry, id) first; see `leases`.

        *limits* has a stream's max_delivery_attempts where it is not the default, else ""; *claimed* begins the
        `Claimed` entry. *gated*: some queue has deployment versions. *marks*, by stream, and *mux*: sent there behind
        a blocking read, it takes only what that delivers behind them, and nothing that one loss makes a suspect.
        """
        return (mux or self._mux).call(
            _claim,
            self.keys.partition,
            (self.keys.workers, self.keys.versions, *streams),
            (self.worker, number, count, self.keys.prefix, claimed, self.version, "1" if gated else "",
             len(limits), *limits, len(marks), *marks, len(given), *given),
        )  # fmt: skip

    def leases(self, streams: list[str], reply: list[Any], since: float) -> list[Lease]:
        """Return what a claim from *streams* has answered, which was not executed before *since* (boottime)."""
        return [Lease(self._store, self.keys, streams, row, since, self.term) for row in reply]

    async def claim(self, streams: list[str], *args: Any, **more: Any) -> list[Lease]:
        """Take intents; see `claiming`."""
        since = boottime()
        return self.leases(streams, await self.claiming(streams, *args, **more), since)

    async def deploy(self, queue: str) -> None:
        """Make known that this version of *queue* exists."""
        await self._call(_deploy, (self.keys.versions, self.keys.timers), (queue, self.version))

    async def all_streams(self) -> list[str]:
        """Return every stream ever made in the partition."""
        return sorted(s.decode() for s in await self._mux.command("SMEMBERS", self.keys.streams))

    async def pending(
        self, stream: str, *, owner: str = "", idle: int = 0, behind: Pending | None = None
    ) -> list[Pending]:
        """Return pending entries of *stream*, oldest first, bounded; of one *owner*, or idle for *idle* ms."""
        words: list[Any] = ["XPENDING", stream, GROUP]
        if idle:
            words += ["IDLE", idle]
        words += [b"(" + behind.entry if behind else "-", "+", _COUNT]
        if owner:
            words.append(owner)
        try:
            rows = await self._mux.command(*words)
        except StoreError as error:
            if "NOGROUP" in str(error):  # nobody has read it yet
                return []
            raise
        return [Pending(stream, entry, consumer.decode(), age) for entry, consumer, age, _ in rows]

    async def held(self, stream: str) -> int:
        """Return how many entries of *stream* are pending; StoreError when it has no group."""
        return int((await self._mux.command("XPENDING", stream, GROUP))[0])

    async def recover(self, entry: Pending, *, liveness: bool = False, counted: bool = True) -> str:
        """
        Take a pending entry from its owner; see the script.

        With *liveness* the script asks itself whether the owner is subscribed to its channel, and refuses if so.
        The idle time that the caller saw is asked for again.
        """
        keys = self.keys
        intent = await self._intent_at(entry)
        if intent is None:
            return "STALE"
        queue, lane = keys.lane_of(entry.stream)
        asked = self._mux.command("HMGET", keys.head(intent), "session", "version")
        step = await self._last_step(intent)
        failed = failure_of(
            Status.FAILED,
            "DELIVERY_ATTEMPTS_EXHAUSTED",
            f"the process of every attempt died; the last was worker {entry.owner}, {step}",
        )
        session, version = await asked
        onward, alone = continuations(version), suspects(version)
        while True:
            more, told = await self._store.ending(keys, intent, queue, session)
            word = await self._call(
                load("recover", session=session is not None),
                (keys.head(intent), keys.journal(intent), entry.stream, keys.stream(queue, onward),
                 keys.stream(queue, alone), keys.streams, keys.outcome(intent), keys.failed, keys.timers,
                 keys.checkpoint(intent), *more),
                (intent, entry.entry, lane, entry.owner, keys.liveness(entry.owner) if liveness else "", entry.idle,
                 int(counted), onward, alone, failed, KEEP_OTHER_MS, keys.namespace + ":r:", *told),
            )  # fmt: skip
            if word == b"FAILED":
                emit("intent.ended", intent=intent, queue=queue, outcome="FAILED")
            if word != b"AGAIN":
                return str(word.decode())

    async def due(self, now: int, count: int) -> tuple[dict[str, int], int | None]:
        """Return up to *count* ids whose timer is due at *now*, with when; and when the first of all is due (ms)."""
        found = self._mux.command("ZRANGEBYSCORE", self.keys.timers, "-inf", now, "WITHSCORES", "LIMIT", 0, count)
        first = await self._mux.command("ZRANGE", self.keys.timers, 0, 0, "WITHSCORES")
        flat = await found
        due = {intent.decode(): int(float(at)) for intent, at in zip(flat[::2], flat[1::2], strict=True)}
        return due, int(float(first[1])) if first else None

    async def wake_held(self, queues: Collection[str], within: float, most: int = 10_000) -> int:
        """
        Wake what is held of *queues* and may be taken by this worker's version; return how many.

        Args:
            within: Seconds within which it would be looked at anyway.
            most: Timers to look through, the first ones: what is held beyond them waits for its own.
        """
        mux, keys, woken = self._mux, self.keys, 0
        until = now_ms() + int(within * 1000)
        for start in range(0, most, _COUNT):
            ids = await mux.command("ZRANGEBYSCORE", keys.timers, "-inf", until, "LIMIT", start - woken, _COUNT)
            heads = await asyncio.gather(*(mux.command("HMGET", keys.head_prefix + i.decode(), *_HELD) for i in ids))
            held = [
                i.decode() for i, (reason, queue, version) in zip(ids, heads, strict=True)
                if reason == b"HELD" and queue.decode() in queues and (version or b"").decode() in ("", self.version)
            ]  # fmt: skip
            woken += (await asyncio.gather(*(self._store.wake(intent) for intent in held))).count("OK")
            if len(ids) < _COUNT:
                break
        return woken

    async def fire(self, store: Store, intent: str) -> str:
        """Act on the due timer of *intent* (schedule, limit): start, wake or expire it; return the script's word."""
        keys = self.keys
        if intent[0] == MARK:
            return "EARLY" if await schedules.fire(store, intent[1:]) == "EARLY" else "TICK"
        if intent[0] == "~":
            return await review(store, keys, intent[1:])
        while True:
            head = await self._mux.command(
                "HMGET", keys.head(intent),
                "status", "queue", "lane", "deadline", "start", "wake", "session", "version",
            )  # fmt: skip
            status, queue, lane, deadline, start, wake, session, version = head
            if status is None:
                await self._mux.command("ZREM", keys.timers, intent)
                return "STALE"
            if Status(status.decode()).final:
                from redurable.store.courier import relay

                await relay(store, intent)
                return "RELAYED"
            # which of its times is first needs no clock; whether it is due, the server's clock decides
            others = [int(at) for at in (start, wake) if at is not None]
            if deadline is not None and int(deadline) <= min(others, default=int(deadline)):
                entry = encode_entry(CancelRequested(at=now_ms(), status=Status.TIMED_OUT, note="deadline passed"))
                result = failure_of(Status.TIMED_OUT, "DEADLINE", "the deadline passed before it started")
                told = await store.interrupt(intent, "expire", entry, result)
                # several workers fire one timer, and the script gives them all the same answer: one of them tells
                if told == "TIMED_OUT" and await self._mux.command("HSETNX", keys.head(intent), "told", 1):
                    emit("intent.ended", intent=intent, queue=queue.decode(), outcome=told)
                return told
            to = lane.decode() if status == b"CREATED" else continuations(version)
            places: tuple[str, ...]
            places = (keys.head(intent), keys.stream(queue.decode(), to), keys.streams, keys.timers)
            if session is not None and status == b"CREATED":
                place = store.session(keys, queue.decode(), session.decode())
                word = await self._call(_join, (*places, place.line, place.state), (intent, to))
            else:
                word = await self._call(_fire, places, (intent, to, status))
            if word != b"AGAIN":
                return str(word.decode())

    async def mend(self, intent: str) -> str:
        """Re-add what a lost write took from *intent*, its place in its session too; return OK, MENDED or STALE."""
        keys = self.keys
        names = ("queue", "at", "session", "busy", "version")
        queue, at, session, busy, version = await self._mux.command("HMGET", keys.head(intent), *names)
        if queue is None:
            return "STALE"
        name, onward = queue.decode(), continuations(version)
        lane = at.decode().split("/", 1)[0] if at else onward
        word = await self._call(
            _mend,
            (keys.head(intent), keys.stream(name, lane), keys.stream(name, onward), keys.streams, keys.timers),
            (intent, at or "", onward),
        )
        if session is not None:
            seated = await self._store.session(keys, name, session.decode()).reseat(intent)
            if busy is not None:
                await self._store.make_way(intent, name, session.decode(), busy.decode())
            word = max(word, seated.encode(), key=(b"OK", b"STALE", b"MENDED").index)
        return str(word.decode())

    async def sweep(self, now: int, count: int) -> int:
        """Remove up to *count* finished intents whose retention is over; return how many went."""
        removed = 0
        for view in (self.keys.done, self.keys.failed):
            ids = await self._mux.command("ZRANGEBYSCORE", view, "-inf", now, "LIMIT", 0, count)
            words = await asyncio.gather(*(self._remove(i.decode(), view) for i in ids))
            removed += sum(word == b"OK" for word in words)
        return removed

    def _remove(self, intent: str, view: str) -> asyncio.Future[Any]:
        keys = self.keys
        places = (
            keys.head(intent), keys.envelope(intent), keys.journal(intent), keys.outcome(intent),
            keys.checkpoint(intent), keys.arrivals(intent), *told_keys(keys, intent), view,
        )  # fmt: skip
        return self._call(_sweep, places, (intent,))

    async def dismiss(self, worker: str) -> bool:
        """Forget *worker* once it holds nothing; return whether it is gone."""
        words = await asyncio.gather(*(self._call(_dismiss, (s,), (worker,)) for s in await self.all_streams()))
        if any(word == b"BUSY" for word in words):
            return False
        await self._mux.command("HDEL", self.keys.workers, worker, worker + "#")
        return True

    def streams_of(self, queue: str) -> tuple[list[str], list[str]]:
        """Return the streams of *queue* in reading order (continuations, then fresh ones), and those of suspects."""
        own = [self.version] if self.version else []
        lanes = (*(continuations(version) for version in (*own, None)), *FRESH_LANES)
        alone = [suspects(version) for version in (*own, None)]
        return [self.keys.stream(queue, lane) for lane in lanes], [self.keys.stream(queue, lane) for lane in alone]

    async def _intent_at(self, entry: Pending) -> str | None:
        rows = await self._mux.command("XRANGE", entry.stream, entry.entry, entry.entry)
        if rows:
            return str(rows[0][1][1].decode())
        await self._mux.command("XACK", entry.stream, GROUP, entry.entry)
        return None

    async def _last_step(self, intent: str) -> str:
        from redurable.store.journals import last_step

        entries = await self._mux.command("LRANGE", self.keys.journal(intent), -8, -1)
        step = last_step(entries)
        return f"after step {step}" if step else "before its first step was recorded"

    def _call(self, script: Any, keys: tuple[Any, ...], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        return self._mux.call(script, self.keys.partition, keys, args)
