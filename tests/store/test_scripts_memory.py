"""A full server: what frees memory goes on, what takes more is held back until there is some."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from redurable.config import parse_url
from redurable.errors import StoreUnavailable
from redurable.events import subscribe
from redurable.ids import new_id
from redurable.store.keeper import Keeper
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from redurable.store.vigil import Vigil
from tests.store.conftest import plain
from tests.store.world import BODY, DAY, QUEUE, STEP, World
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def small(binary: str) -> Iterator[PrivateServer]:
    """A server whose memory the tests fill by lowering its limit."""
    with PrivateServer(appendfsync="no", binary=binary) as server:
        yield server


class Memory:
    """Fills the server and empties it."""

    def __init__(self, server: PrivateServer) -> None:
        self._client = plain(server)

    def fill(self) -> None:
        self._client.config_set("maxmemory", 1)

    def free(self) -> None:
        self._client.config_set("maxmemory", 0)


@pytest.fixture
def memory(small: PrivateServer) -> Iterator[Memory]:
    memory = Memory(small)
    yield memory
    memory.free()


@pytest.fixture
async def world(small: PrivateServer, memory: Memory, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    store = Store(parse_url(small.url), f"m{abs(hash(request.node.name))}", patience=5)
    await store.start()
    yield World(store)
    memory.free()
    await check_all(store)
    await store.close()


async def held(*words: Any) -> None:
    """Wait until every one of *words* was held back at least once; assert that none is answered."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    reasons: list[str] = []

    def hear(name: str, fields: dict[str, Any]) -> None:
        if name == "store.held":
            reasons.append(fields["reason"])
            loop.call_soon_threadsafe(told.set)

    end = subscribe(hear)
    try:
        await asyncio.wait_for(told.wait(), 30)
    finally:
        end()
    assert set(reasons) == {"OOM"}
    assert not any(word.done() for word in words)


@pytest.mark.parametrize("verb", ["settle", "park", "retry", "release", "renew", "cancel", "recover", "expire", "mend"])
async def test_what_frees_memory_or_keeps_a_lease_goes_on(world: World, memory: Memory, verb: str) -> None:
    await world.bring("IN_PROGRESS", steps=2, deadline="+50")
    world.advance(50)
    memory.fill()
    expected = {"cancel": "REQUESTED", "expire": "REQUESTED"}.get(verb, "OK")
    assert await asyncio.wait_for(world.call(verb), 30) == expected


async def test_a_full_server_is_drained_from_claim_to_sweep(world: World, memory: Memory) -> None:
    await world.bring("SUBMITTED")
    await world.submit(other := new_id(0), delay_ms=10)
    memory.fill()
    world.advance(10)
    assert await world.keeper.fire(world.store, other) == "OK"
    leases = await world.claim(2)
    assert {lease.id for lease in leases} == {world.id, other}
    for lease in leases:
        assert await lease.settle("COMPLETED", b"", DAY) == b"OK"
    world.advance(DAY)
    assert await world.keeper.sweep(int(world.mux.clock) // 1000, 10) == 2


async def test_submit_and_record_are_held_back_and_go_through_when_there_is_room(world: World, memory: Memory) -> None:
    await world.bring("IN_PROGRESS")
    assert world.lease is not None
    memory.fill()
    other, later = new_id(0), new_id(0)
    words = [
        world.lease.record([STEP]),
        world.lease.checkpoint("fetch#0", b"7"),
        world.store.submit(other, BODY, QUEUE, "q:normal"),
        world.store.submit(later, BODY, QUEUE, "q:normal", delay_ms=1000),
    ]
    await held(*words)
    memory.free()
    assert await asyncio.wait_for(asyncio.gather(*words), 30) == [1, b"OK", b"OK", b"OK"]
    assert await world.journal() == [STEP]


async def test_a_held_call_whose_waiter_is_gone_harms_nobody(world: World, memory: Memory) -> None:
    await world.bring("SUBMITTED")
    memory.fill()
    word = world.store.submit(other := new_id(0), BODY, QUEUE, "q:normal")
    await held(word)
    word.cancel()
    memory.free()
    async with asyncio.timeout(30):  # it was not asked back: it is stored all the same
        while not await world.mux.command("EXISTS", world.keys.head(other)):
            await asyncio.sleep(0.005)


async def test_patience_ends_with_what_the_server_said(world: World, memory: Memory) -> None:
    world.mux.patience = 0.2
    memory.fill()
    with pytest.raises(StoreUnavailable, match="OOM") as caught:
        await asyncio.wait_for(world.store.submit(world.id, BODY, QUEUE, "q:normal"), 30)
    assert "maxmemory" in caught.value.hint
    assert await world.status() is None


async def test_a_worker_can_start_on_a_full_server(world: World, memory: Memory, small: PrivateServer) -> None:
    await world.bring("SUBMITTED")
    memory.fill()
    store = Store(parse_url(small.url), world.store.namespace, patience=2)
    await asyncio.wait_for(store.start(), 30)
    keeper, vigil = Keeper(store, 0, "w1"), Vigil(store, "w1")
    await asyncio.wait_for(keeper.open([store.stream_of(0, "another", "q:normal")]), 30)
    vigil.prove()
    vigil.register(b"described")  # a worker that fails here renews nothing, and is taken for dead
    assert await store.mux.command("HGET", keeper.keys.workers, "w1") == b"described"
    await store.mux.command("HDEL", keeper.keys.workers, "w1")
    vigil.close()
    await store.close()


async def test_a_namespace_cannot_begin_on_a_full_server(memory: Memory, small: PrivateServer) -> None:
    memory.fill()
    store = Store(parse_url(small.url), "brandnew", patience=0.2)
    with pytest.raises(StoreUnavailable, match="OOM"):
        await asyncio.wait_for(store.start(), 30)
    await store.close()
