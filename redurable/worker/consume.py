"""
The consumer: claims intents for the free places of the worker, and waits for more by one blocking read.

Continuations are read before fresh ones, and one claim in eight the other way round, so neither starves. What the
blocking read delivered is claimed by the next script call; what there is no place for is handed back. Where intents
come one at a time that call is sent right behind the read, on its connection, and the server runs it as the read ends:
a lone intent costs no round trip for its claim (a quarter less from its send to its result, a fifth less CPU of the
worker). It looks at the streams that brought the last ones, so that many queues cost no more; what another one brings
is claimed the common way. A claim is handled over a few turns of the loop, so that its attempts' first commands leave
before the next cohort starts: Redis and the worker then work at the same time (without it they take turns; 65 to 85 %
more with handlers that do real work).
Suspects (the solo lane) run alone: a worker that holds nothing takes one at a time, a busy one stops claiming when
suspects have waited for two seconds, the next busy one two seconds later, and so on. If what it has does not end it
claims again for as long as it gave way, and then gives way for twice as long: handlers of hours, and all that waits
behind them, do not stand still for a suspect, and no suspect waits for ever. A worker that holds nothing has its
blocking read ended when a suspect comes (CLIENT UNBLOCK; where that is forbidden the read ends within seconds).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from redurable.clock import monotonic
from redurable.errors import StoreError
from redurable.events import emit
from redurable.store.keeper import Keeper, Pending
from redurable.store.keys import FRESH_LANES, GROUP
from redurable.store.multiplexer import Multiplexer
from redurable.tasks import background

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["consume"]

_BLOCK_MS = 8000  # less than the silence after which a connection is given up
_TURN_ROUND = 8
_SUSPECTS_WAIT = 2.0
_GIVE_WAY = 15.0  # s that a busy worker claims nothing for the first time
_HEED = 0.05  # s between two looks whether a worker that knows of suspects holds nothing yet
_KEPT = 0.1  # s that what was delivered to a worker that is full waits there for a place
_FEW = 4  # streams that a claim behind the read looks at: the last that brought anything
_Given = tuple[str, bytes, bytes]  # what a blocking read delivered: stream, entry, intent


async def consume(worker: Worker, keeper: Keeper) -> None:
    """Claim and start intents until the worker stops."""
    while not worker.stopping.is_set():
        reader = Multiplexer(worker.store.topology, on_connect=lambda _: worker.disturbed(), eager=False)
        await reader.start()
        try:
            await _Consumer(worker, keeper, reader).run()
        finally:
            await reader.close()


class _Consumer:
    """Takes what the open queues have, until one is paused or resumed, or the worker stops."""

    def __init__(self, worker: Worker, keeper: Keeper, reader: Multiplexer) -> None:
        self.worker = worker
        self.keeper = keeper
        self.reader = reader
        self.claimed = b"\x95\x06" + msgspec.msgpack.encode(worker.id) + msgspec.msgpack.encode(
            f"{sys.version_info.major}.{sys.version_info.minor}"
        )  # fmt: skip
        self.turned = worker.gates.turned
        self.pace = worker.pace.parts[keeper.keys.partition]
        queues = [queue for queue in worker.queues if queue not in worker.gates.closed]
        groups = [keeper.streams_of(queue)[0] for queue in queues]
        # lane by lane over all queues: every continuation, then every high, ...
        lanes = [s for lane in zip(*groups, strict=True) for s in lane]
        self.gated, foreign = worker.gates.gated, worker.gates.foreign
        self.streams = [s for s in lanes if not foreign or not self._elsewhere(s, foreign)]
        self.limits = {s: self._limit(s) for s in self.streams}
        self.solo = [s for queue in queues for s in keeper.streams_of(queue)[1]]
        self.heard = -1  # of suspects: look for them first
        self.suspects_since: float | None = None
        self.patience, self.way = _SUSPECTS_WAIT, _GIVE_WAY
        self.rounds = 0
        # the last entry of each that came here, as far as known
        self.marks: dict[str, str | bytes] = dict.fromkeys(self.streams, "0")
        self.recent: dict[str, None] = {}  # the last few of them that brought anything, the very last at the end
        self.reading = False
        self.lone = True  # the last read brought one entry at most

    def _elsewhere(self, stream: str, foreign: frozenset[str]) -> bool:
        queue, lane = self.keeper.keys.lane_of(stream)
        return queue in foreign and lane in FRESH_LANES

    def _limit(self, stream: str) -> str:
        queue, _ = self.keeper.keys.lane_of(stream)
        most = max(s.max_delivery_attempts for s in self.worker.handlers[queue].values())
        return "" if most == 3 else str(most)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be claimed from these streams."""
        return self.turned.is_set() or self.worker.stopping.is_set()

    async def _over(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self.turned, self.worker.stopping)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def run(self) -> None:
        worker = self.worker
        given: list[_Given] = []
        waited = emptied = False  # after a wait, in vain or not, only what it gave need be claimed
        heed = background(self._heed())
        stop = asyncio.ensure_future(self._over())
        # the only way to end a blocking read from here; what it delivers meanwhile is found in our pending list
        stop.add_done_callback(lambda _: background(self.reader.close()))
        try:
            while not self.over:
                if not self.streams:
                    await stop  # all are paused
                    continue
                if not given and await self._serve_suspects():
                    continue
                free = min(worker.free(), worker.settings.batch)
                if free == 0:
                    given = await self._full(given)
                    continue
                if given or not waited:
                    now, given = given[:free], given[free:]
                    waited = False
                    streams, asked = self.streams, free
                    if now and emptied:
                        # a blocking read that gave less than it might emptied the streams: the script need not look at
                        # others than those it gave from, so one intent costs the same however many queues are served
                        streams, asked = list(dict.fromkeys(stream for stream, _, _ in now)), len(now)
                    if await self._claim(streams, asked, now) == free:
                        continue
                # fewer than there is room for: the streams were empty, there is nothing to ask them for again
                if not given and (places := min(worker.free(), worker.settings.batch)):
                    await asyncio.sleep(0)  # what was just begun goes first
                    given = await self._read(places)
                    waited, emptied = True, len(given) < places
        finally:
            heed.cancel()
            stop.cancel()
            # what was delivered and not claimed is found in our pending list by the others, uncounted

    async def _full(self, given: list[_Given]) -> list[_Given]:
        """Wait for a place; return what is left of *given*: what was delivered here waits a moment, then for others."""
        worker = self.worker
        worker.freed.clear()
        if worker.free():
            return given
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEPT if given else None):
                await worker.freed.wait()
                return given
        mine = (Pending(stream, entry, worker.id, 0) for stream, entry, _ in given)
        await asyncio.gather(*(self.keeper.recover(entry, counted=False) for entry in mine))
        return []

    async def _claim(self, streams: list[str], count: int, given: list[_Given], solo: bool = False) -> int:
        self.rounds += 1
        if self.rounds % _TURN_ROUND == 0:
            streams = streams[::-1]
        limits = [self.limits.get(s, "") for s in streams]  # a suspect keeps its own
        places = {s: i for i, s in enumerate(streams, 1)}
        flat: list[Any] = [x for stream, entry, intent in given for x in (places[stream], entry, intent)]
        worker, number = self.worker, self.worker.number()
        # the consumers of other partitions do not claim for the same places meanwhile; a suspect takes them all
        booked = worker.settings.concurrency if solo else count
        worker.booked += booked
        try:
            leases = await self.keeper.claim(streams, limits, count, number, self.claimed, flat, self.gated)
            for i, lease in enumerate(leases):
                if not solo:
                    self._came(lease.stream, lease.entry)
                booked -= 1
                worker.booked -= 1
                worker.begin(lease, solo=solo)
                if i % 10 == 9:
                    await asyncio.sleep(0)
        finally:
            if booked:
                worker.booked -= booked
                worker.freed.set()
        return len(leases)

    async def _read(self, count: int) -> list[_Given]:
        """Wait for entries, begin what was claimed at once, and return the others; the read is never cancelled."""
        new = [">"] * len(self.streams)
        read = self.reader.command(
            "XREADGROUP", "GROUP", "rd", self.worker.id, "COUNT", count, "BLOCK", _BLOCK_MS,
            "STREAMS", *self.streams, *new,
        )  # fmt: skip
        # at rest it would double what an idle worker asks the server
        recent = list(self.recent)
        claim = self._behind(recent) if recent and self.lone and not self.pace.calm else None
        self.reading = True
        try:
            reply = await read
            leases = [] if claim is None else self.keeper.leases(recent, await claim, self.worker.heard)
        except StoreError as error:
            if self.over:
                return []
            if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
                raise
            emit("streams.reopened", worker=self.worker.id)
            self.worker.alarm()
            await self.keeper.open(self.streams)
            return []
        finally:
            self.reading = False
        for lease in leases:
            # those of other partitions may have taken the last places since, or a suspect that is to be alone
            if self.over or not self.worker.free():
                await lease.release()
            else:
                self.worker.begin(lease)
        claimed = {(lease.stream, lease.entry) for lease in leases}
        given = [
            (stream.decode(), entry, fields[1])
            for stream, rows in reply or ()
            for entry, fields in rows
            if fields is not None
        ]
        for stream, entry, _ in given:
            self._came(stream, entry)
        self.lone = len(given) <= 1
        return [one for one in given if one[:2] not in claimed]

    def _came(self, stream: str, entry: bytes) -> None:
        self.marks[stream] = entry
        self.recent.pop(stream, None)
        self.recent[stream] = None
        if len(self.recent) > _FEW:
            del self.recent[next(iter(self.recent))]

    def _behind(self, streams: list[str]) -> asyncio.Future[Any]:
        """Have the first entry that the read brings claimed: no more, should this process hang when it comes."""
        number = self.worker.number()
        limits, marks = [self.limits.get(s, "") for s in streams], [self.marks[s] for s in streams]
        return self.keeper.claiming(
            streams, limits, 1, number, self.claimed, [], self.gated, marks=marks, mux=self.reader
        )  # fmt: skip

    async def _heed(self) -> None:
        """End the blocking read once there may be suspects and this worker holds nothing."""
        worker = self.worker
        while True:
            if worker.suspects.rings == self.heard and self.suspects_since is None:
                await worker.suspects.wait(self.heard)
                continue
            if self.reading and worker.idle():
                try:
                    await worker.store.mux.command("CLIENT", "UNBLOCK", self.reader.client)
                except StoreError:
                    return  # this user may not
            await asyncio.sleep(_HEED)

    async def _serve_suspects(self) -> bool:
        """Take one suspect if this worker holds nothing; whether the consumer should look again at once."""
        worker = self.worker
        if worker.suspects.rings == self.heard and self.suspects_since is None:
            return False
        self.heard = worker.suspects.rings
        if not await self._suspects_waiting():
            self.suspects_since, self.way = None, _GIVE_WAY
            return False
        if worker.idle():
            await self.keeper.open(self.solo)
            if worker.free() < worker.settings.concurrency:
                self.heard = -1  # the consumer of another partition was faster: look again
                return False
            if await self._claim(self.solo, 1, [], solo=True):
                while not worker.idle() and not worker.stopping.is_set():
                    worker.freed.clear()
                    await worker.freed.wait()
                worker.suspects.ring()
                return True
            self.suspects_since = None  # another worker has it
            return False
        if self.suspects_since is None:
            self.suspects_since = monotonic()
            self.patience = _SUSPECTS_WAIT * (1 + await self._rank())
        given = monotonic() - self.suspects_since - self.patience
        if given < 0:
            return False
        worker.freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.way - given):
                await worker.freed.wait()
                return True
        self.suspects_since, self.patience, self.way = monotonic(), self.way, 2 * self.way
        return False

    async def _suspects_waiting(self) -> bool:
        """Whether a suspect of our queues is held by nobody: one that runs alone elsewhere is no reason to stop."""
        for stream in self.solo:
            if length := await self.worker.store.mux.command("XLEN", stream):
                try:
                    held = (await self.worker.store.mux.command("XPENDING", stream, GROUP))[0]
                except StoreError:
                    held = 0  # no group yet: nobody has read it
                if length > held:
                    return True
        return False

    async def _rank(self) -> int:
        """Our place among all workers: they give way to suspects one after the other, not all at once."""
        names = await self.worker.store.mux.command("HKEYS", self.worker.store.keys[0].workers)
        return sum(n.decode() < self.worker.id for n in names if not n.endswith(b"#"))
