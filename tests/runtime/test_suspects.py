"""Suspects run alone, and who has to give way to one does not stand still for as long as his own handlers take."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from redurable import Status
from redurable.runtime.calls import current
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


async def _lost_twice(w: World, intent: str, tries: list[asyncio.Event]) -> None:
    """Lose the first two attempts of *intent*, each once it has begun."""
    for begun, word in zip(tries, ("OK", "SUSPECT"), strict=True):
        await asyncio.wait_for(begun.wait(), 30)
        await asyncio.sleep(0.2)  # who took it waits for entries again
        assert await w.lose(intent, counted=True) == word


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("forbidden", [False, True], ids=["unblocked", "forbidden"])
async def test_a_worker_that_holds_nothing_leaves_its_read_for_a_suspect(
    w: World, monkeypatch: pytest.MonkeyPatch, forbidden: bool
) -> None:
    """Two workers stand still with attempts that they have lost; the third waits for entries of the common lanes."""
    monkeypatch.setattr(consume, "_BLOCK_MS", 1000 if forbidden else 90_000)
    tries, go_on = [asyncio.Event(), asyncio.Event()], asyncio.Event()

    async def main() -> str:
        if (attempt := current().attempt) < 3:
            tries[attempt - 1].set()
            await go_on.wait()
        return f"attempt {attempt}"

    # with leases so long that the two do not hear of their loss
    for worker in [await w.serve(main, concurrency=1, lease=60.0) for _ in range(3)]:
        if forbidden:
            await worker.store.mux.command(
                "ACL", "SETUSER", f"{w.namespace}", "on", ">p", "~*", "&*", "+@all", "-client|unblock"
            )
            await worker.store.mux.command("AUTH", w.namespace, "p")
    intent = await w.send()
    await _lost_twice(w, intent, tries)
    assert await w.client.wait_for(intent, 60) == "attempt 3"
    go_on.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_whose_last_intent_ends_leaves_its_read_for_a_suspect(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "_BLOCK_MS", 90_000)
    tries, go_on = [asyncio.Event(), asyncio.Event()], asyncio.Event()

    async def main() -> str:
        if (attempt := current().attempt) < 3:
            tries[attempt - 1].set()
            await go_on.wait()
        return f"attempt {attempt}"

    await w.serve(main)
    intent = await w.send()
    await _lost_twice(w, intent, tries)
    await asyncio.sleep(0.3)  # the message of the suspect came while both were still held
    assert (await w.get(intent)).status is Status.SUBMITTED
    go_on.set()
    assert await w.client.wait_for(intent, 60) == "attempt 3"
