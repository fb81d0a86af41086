"""What is lost from Redis behind the workers' backs is put back while they work: entries, timers, groups, streams."""

from __future__ import annotations

import asyncio

import pytest

from redurable.ids import new_id
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


async def test_deleted_entries_timers_and_groups_are_put_back(fleet: Fleet) -> None:
    (worker,) = await fleet.start(1, concurrency=2)
    store = await fleet.store()
    keys, mux = store.keys[0], store.mux
    busy = [await fleet.client.send("gated", {"gate": "on", "before": 1, "after": 1}) for _ in range(2)]
    await until(lambda: len([x for x in fleet.ledger() if x.step == "gated99"]) == 2)
    queued = [await fleet.client.send("gated", {"gate": "on", "before": 1, "after": 1}) for _ in range(3)]
    delayed = await fleet.client.send("steps", {"n": 1}, delay=6)
    # one entry and one timer of each kind, then the groups of all streams, then a whole stream
    lane, entry = (await mux.command("HGET", keys.head(queued[0]), "at")).decode().split("/")
    await mux.command("XDEL", keys.stream("gated", lane), entry)
    lane, entry = (await mux.command("HGET", keys.head(busy[0]), "at")).decode().split("/")
    await mux.command("XDEL", keys.stream("gated", lane), entry)
    await mux.command("ZREM", keys.timers, delayed)
    for stream in [s.decode() for s in await mux.command("SMEMBERS", keys.streams)]:
        if await mux.command("EXISTS", stream):
            await mux.command("XGROUP", "DESTROY", stream, "rd")
    await mux.command("DEL", keys.stream("gated", lane))
    fleet.open("on")
    results = await asyncio.wait_for(asyncio.gather(*(fleet.client.wait_for(i) for i in [*busy, *queued, delayed])), 40)
    assert results == [[0, 99, 100]] * 5 + [40]
    assert sum(e["count"] for e in fleet.events("intents.mended")) >= 4
    infos = [await fleet.client.get(i) for i in [*busy, *queued, delayed]]
    assert [info.losses for info in infos] == [0] * 6
    assert worker.alive
    assert not fleet.events("task.failed")
    await fleet.reap()
    assert await check_all(store) == {"COMPLETED": 6}


async def test_keys_that_something_else_wrote_keep_nobody_from_being_mended(fleet: Fleet) -> None:
    await fleet.start(1, concurrency=2)
    busy = await fleet.client.send("gated", {"gate": "on", "before": 1, "after": 1})  # at rest it walks once an hour
    await until(lambda: any(x.step == "gated99" for x in fleet.ledger()))
    store = await fleet.store()
    keys, mux = store.keys[0], store.mux
    strange = [keys.head(new_id(0)) for _ in range(3)]
    await mux.command("SET", strange[0], "no hash")
    await mux.command("HSET", strange[1], "status", "BOGUS")
    await mux.command("HSET", strange[2], "status", "SUBMITTED", "queue", "gated", "at", "q:normal/no entry")
    delayed = await fleet.client.send("steps", {"n": 1}, delay=1)
    await mux.command("ZREM", keys.timers, delayed)
    assert await asyncio.wait_for(fleet.client.wait_for(delayed), 60) == 40
    fleet.open("on")
    assert await asyncio.wait_for(fleet.client.wait_for(busy), 60) == [0, 99, 100]
    assert [info.id for info in await fleet.client.list(queue="steps")] == [delayed]
    await mux.command("DEL", *strange)
