"""Suspects run alone, and who has to give way to one does not stand still for as long as his own handlers take."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from redurable import Status
from redurable.store.keeper import Keeper
from redurable.worker import consume
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio


async def _make_suspect(w: World, intent: str) -> None:
    """Have two workers die over *intent*, whose queue is paused."""
    for n in range(2):
        keeper = Keeper(w.store, 0, f"dead{n}")
        streams, _ = keeper.streams_of(QUEUE)
        claimed = b"\x95\x06" + msgspec.msgpack.encode(keeper.worker) + msgspec.msgpack.encode("3.11")
        (lease,) = await keeper.claim(streams, [""] * len(streams), 1, 1, claimed, [])
        assert lease.id == intent
        assert await w.lose(intent, counted=True) == ("OK", "SUSPECT")[n]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_busy_worker_gives_way_for_a_while_only(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "_SUSPECTS_WAIT", 0.01)
    monkeypatch.setattr(consume, "_GIVE_WAY", 0.2)
    monkeypatch.setattr(consume, "_BLOCK_MS", 50)
    go_on, ran = asyncio.Event(), list[str]()

    async def main(payload: str) -> str:
        if payload == "long":
            await go_on.wait()
        ran.append(payload)
        return payload

    worker = await w.serve(main, concurrency=5)
    long = await w.send("long")
    await w.until(long, Status.IN_PROGRESS)
    await w.client.pause_queue(QUEUE)
    while QUEUE not in worker.gates.closed:
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.5)  # the read that was under way has ended
    suspect = await w.send("suspect")
    await _make_suspect(w, suspect)
    await w.client.resume_queue(QUEUE)
    for n in range(20):
        assert await w.call(f"short {n}") == f"short {n}"
        await asyncio.sleep(0.05)
    assert (await w.get(suspect)).status is Status.SUBMITTED
    go_on.set()
    assert await w.result(suspect) == "suspect"
    assert await w.result(long) == "long"
    assert ran.index("suspect") > ran.index("long")
