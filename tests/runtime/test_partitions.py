"""A namespace of several partitions: its worker keeps its bounds over all, and pays for none that has nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from redurable import Status
from redurable.ids import new_id, partition_of
from redurable.model import Envelope
from redurable.store import inspection
from redurable.store.keys import SOLO, UNPINNED
from redurable.worker import consume
from redurable.worker.pace import Pace
from tests.runtime.world import QUEUE, World
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio
PARTITIONS = 4


@pytest.fixture
async def w(redis_url: str, namespace: str, anyio_backend: Any) -> AsyncIterator[World]:
    async with World(redis_url, namespace, PARTITIONS) as world:
        yield world


class Crowd:
    """Its handler counts how many run at a time; none ends before `gate` is open."""

    def __init__(self) -> None:
        self.now = self.most = self.runs = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def handler(self) -> Callable[[Any], Awaitable[Any]]:
        """Return what the worker is to run."""

        async def handle(payload: Any) -> Any:
            self.now += 1
            self.runs += 1
            self.most = max(self.most, self.now)
            try:
                await asyncio.sleep(0.005)
                await self.gate.wait()
                return payload
            finally:
                self.now -= 1

        return handle


async def send_to(w: World, partition: int) -> str:
    """Send an intent to a partition of our choice; the client's own choice is chance."""
    intent = new_id(partition)
    body = msgspec.msgpack.encode(Envelope("", msgspec.Raw(b"\x01")))
    assert await w.store.submit(intent, body, QUEUE, "q:normal") == b"OK"
    return intent


async def test_no_more_run_at_a_time_than_there_are_places(w: World) -> None:
    """The consumers of all partitions claim from a backlog for the same places, at the same moment."""
    crowd = Crowd()
    ids = await w.client.send_many(QUEUE, list(range(200)))
    assert len({partition_of(intent) for intent in ids}) == PARTITIONS
    worker = await w.serve(crowd.handler(), concurrency=5)
    assert [await w.result(intent) for intent in ids] == list(range(200))
    assert (crowd.most, crowd.runs) == (5, 200)
    while worker.running or worker.booked:
        await asyncio.sleep(0.002)
    assert worker.free() == 5
    await check_all(w.store)


async def test_a_claim_behind_a_read_gives_back_what_has_no_place(w: World) -> None:
    """Lone intents are claimed as the reads of their partitions end, of which each was sent while there was a place."""
    crowd = Crowd()
    await w.serve(crowd.handler(), concurrency=1)
    for _ in range(3):  # the reads of all partitions have a claim behind them from now on
        for partition in range(PARTITIONS):
            await w.result(await send_to(w, partition))
    crowd.most = 0
    crowd.gate.clear()
    ids = [await send_to(w, partition) for partition in range(PARTITIONS)]
    async with asyncio.timeout(30):
        while not crowd.now:
            await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)
    assert crowd.now == 1
    crowd.gate.set()
    for intent in ids:
        await w.result(intent)
        assert (await w.get(intent)).losses == 0
    assert crowd.most == 1
    await check_all(w.store)


async def test_a_suspect_runs_alone_among_all_partitions(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the consumers of other partitions have under way, nothing begins beside it."""
    monkeypatch.setattr(consume, "_BLOCK_MS", 200)  # a consumer looks for suspects before a read, not in it
    at_once: dict[str, set[str]] = {}
    running: set[str] = set()

    async def handle(payload: Any) -> Any:
        from redurable import current

        me = current().id
        running.add(me)
        for one in running:
            at_once.setdefault(one, set()).update(running)
        await asyncio.sleep(0.02)
        running.discard(me)

    suspects = []
    for partition in range(PARTITIONS):
        keys, intent = w.store.keys[partition], await send_to(w, partition)
        at = (await w.store.mux.command("HGET", keys.head(intent), "at")).decode().split("/")[1]
        entry = await w.store.mux.command("XADD", keys.stream(QUEUE, SOLO), "*", "i", intent)
        await w.store.mux.command("XDEL", keys.stream(QUEUE, "q:normal"), at)
        await w.store.mux.command("SADD", keys.streams, keys.stream(QUEUE, SOLO))
        await w.store.mux.command("HSET", keys.head(intent), "at", f"{SOLO}/{entry.decode()}", "losses", 2)
        suspects.append(intent)
    others = [await send_to(w, n % PARTITIONS) for n in range(40)]
    await w.serve(handle, concurrency=8)
    for intent in (*suspects, *others):
        await w.result(intent)
    assert {len(at_once[intent]) for intent in suspects} == {1}


async def test_a_listing_is_newest_first_over_all_partitions(w: World) -> None:
    async def handle(payload: Any) -> Any:
        return payload

    await w.serve(handle)
    ids = []
    for n in range(3 * PARTITIONS):
        ids.append(await send_to(w, n % PARTITIONS))
        await w.result(ids[-1])
        await asyncio.sleep(0.003)  # they end in different ms
    assert [one.id for one in await w.client.list(status="COMPLETED", limit=5)] == ids[:-6:-1]
    assert [one.id for one in await w.client.list(status="COMPLETED")] == ids[::-1]
    assert [one.id for one in await w.client.list(limit=7)] == ids[:-8:-1]


async def test_more_than_a_page_is_listed_once_each(w: World) -> None:
    moments = {f"{n:05d}": 10**9 + (n * 7) % 1000 for n in range(1500)}
    for n, (name, at) in enumerate(moments.items()):
        w.store.mux.command("ZADD", w.store.keys[n % 3].failed, at, name)  # one partition has none
    pages = [page async for page in inspection.ids_of(w.store, None, Status.FAILED)]
    found = [name for page in pages for name in page]
    assert Counter(found) == Counter(list(moments))
    assert [moments[name] for name in found] == sorted(moments.values(), reverse=True)
    assert {len(page) for page in pages[:-1]} == {200}
    for keys in w.store.keys:
        await w.store.mux.command("UNLINK", keys.failed)


async def test_what_a_write_took_is_mended_in_every_partition(w: World) -> None:
    ids = [await send_to(w, partition) for partition in range(PARTITIONS)]
    for keys in w.store.keys:
        await w.store.mux.command("UNLINK", keys.stream(QUEUE, "q:normal"), keys.stream(QUEUE, UNPINNED))

    async def handle(payload: Any) -> Any:
        return payload

    worker = await w.serve(handle)
    await asyncio.sleep(0.1)  # its loops have begun
    worker.alarm()
    for intent in ids:
        await w.result(intent)


async def test_a_timer_wakes_the_loop_of_its_partition_alone(w: World) -> None:
    async def handle(payload: Any) -> Any:
        return payload

    worker = await w.serve(handle)
    intent = await w.send(1, delay=0.05)
    await w.result(intent)
    rings = [bell.rings for bell in worker.bulletins.values()]
    before = rings[:]
    for _ in range(5):
        again = new_id(partition_of(intent))
        body = msgspec.msgpack.encode(Envelope("", msgspec.Raw(b"\x01")))
        await w.store.submit(again, body, QUEUE, "q:normal", delay_ms=20)
        await w.result(again)
    rings = [bell.rings for bell in worker.bulletins.values()]
    assert [rings[n] > before[n] for n in range(PARTITIONS)] == [n == partition_of(intent) for n in range(PARTITIONS)]


class TestPace:
    def test_a_part_is_calm_by_itself_and_the_whole_when_all_are(self) -> None:
        pace = Pace(3)
        assert [p.calm for p in (pace, *pace.parts)] == [False] * 4
        for n, part in enumerate(pace.parts):
            part.found_empty(part.stirs)
            assert [p.calm for p in pace.parts] == [i <= n for i in range(3)]
            assert pace.calm == (n == 2)
        pace.parts[1].stir()
        assert (pace.calm, [p.calm for p in pace.parts]) == (False, [True, False, True])
        pace.parts[1].found_empty(pace.parts[1].stirs)
        assert pace.calm
        pace.stir()
        assert [p.calm for p in (pace, *pace.parts)] == [False] * 4

    def test_a_look_that_was_disturbed_calms_nothing(self) -> None:
        pace = Pace(1)
        (part,) = pace.parts
        stirs = part.stirs
        pace.stir()
        part.found_empty(stirs)
        assert (part.calm, pace.calm) == (False, False)

    async def test_what_stirs_a_part_ends_the_waits_for_the_whole(self) -> None:
        pace = Pace(2)
        for part in pace.parts:
            part.found_empty(part.stirs)
        waits = [asyncio.create_task(one.wait(60, 60)) for one in (pace, *pace.parts)]
        await asyncio.sleep(0)
        pace.parts[0].stir()
        await asyncio.wait(waits[:2], timeout=30)
        await asyncio.sleep(0.05)
        assert [wait.done() for wait in waits] == [True, True, False]
        waits[2].cancel()
