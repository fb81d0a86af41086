"""What a worker asks for: a lone intent's claim names the stream that gave it, however many are served."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable import Status, handler, step
from redurable.runtime.handlers import spec_of
from redurable.store import keeper
from redurable.store.keeper import Keeper
from redurable.store.vigil import Vigil
from redurable.worker import consume, unheld
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio
QUEUES = [f"queue-{n}" for n in range(8)]


def _echo(queue: str) -> Any:
    async def echo(payload: int) -> int:
        return payload

    return spec_of(handler(queue=queue)(echo))


async def test_a_lone_intent_is_claimed_from_its_stream_alone(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[list[str]] = []
    claim = Keeper.claim

    async def seen(self: Keeper, streams: list[str], limits: list[str], *more: Any) -> Any:
        assert len(limits) == len(streams)
        leases = await claim(self, streams, limits, *more)
        if leases:
            named.append(streams)
        return leases

    monkeypatch.setattr(Keeper, "claim", seen)
    await w.serve_specs(*map(_echo, QUEUES))
    for n, queue in enumerate([*QUEUES, *QUEUES]):
        assert await w.client.call(queue, n) == n
    # the first may be met by the look at all streams that a worker begins with
    assert [len(streams) for streams in named[1:]] == [1] * (2 * len(QUEUES) - 1)


async def test_of_many_queues_the_one_that_brings_something_again_is_claimed_behind_the_read(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind: list[int] = []
    claiming = Keeper.claiming

    def seen(self: Keeper, streams: list[str], *words: Any, marks: Any = (), **more: Any) -> Any:
        answer = claiming(self, streams, *words, marks=marks, **more)
        if marks:
            answer.add_done_callback(lambda done: None if done.exception() else behind.append(len(done.result())))
            assert len(streams) <= 4
        return answer

    monkeypatch.setattr(Keeper, "claiming", seen)
    await w.serve_specs(*map(_echo, QUEUES))
    for n in range(20):
        assert await w.client.call(QUEUES[5], n) == n
    assert sum(behind) >= 10, "most of them needed no claim of their own"
    for n, queue in enumerate(QUEUES):
        assert await w.client.call(queue, n) == n


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_delivered_beyond_the_places_is_left_to_others(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read gives so many of each stream: two intents come to one place, and who has it keeps it."""
    monkeypatch.setattr(unheld, "_DISTURBED", -1.0)
    go_on, claim, sent = asyncio.Event(), consume._Consumer._claim, list[str]()

    async def main(payload: str) -> str:
        if payload == "first":
            await go_on.wait()
        return payload

    async def claimed(self: Any, *args: Any, **more: Any) -> int:
        count = await claim(self, *args, **more)
        if not sent:  # right before it reads
            sent.extend([await w.send("first", priority="high"), await w.send("second")])
        return count

    monkeypatch.setattr(consume._Consumer, "_claim", claimed)
    await w.serve(main, concurrency=1, lease=60.0)
    async with asyncio.timeout(5):
        while len(sent) < 2:
            await asyncio.sleep(0.004)
    await w.until(sent[0], Status.IN_PROGRESS)
    await w.serve(main, concurrency=1, lease=60.0)
    assert await w.client.wait_for(sent[1], 8) == "second"
    go_on.set()
    assert await w.result(sent[0]) == "first"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_delivered_to_a_worker_that_drains_is_left_to_others(w: World) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def work() -> None:
        begun.set()
        await go_on.wait()

    async def main(payload: str) -> str:
        if payload == "first":
            await work()
        return payload

    drains = await w.serve(main, lease=60.0, grace=30.0)
    first = await w.send("first")
    await begun.wait()
    drains.stop()
    await asyncio.sleep(0.2)
    second = await w.send("second")  # the reply of its last read never came
    stream = w.store.keys[0].stream(QUEUE, "q:normal")
    words = ("XREADGROUP", "GROUP", "rd", drains.id, "COUNT", 1, "STREAMS", stream, ">")
    assert await w.store.mux.command(*words)
    await w.serve(main, lease=60.0)
    assert await w.client.wait_for(second, 10) == "second"
    assert (await w.get(first)).status is Status.IN_PROGRESS
    go_on.set()
    assert await w.result(first) == "first"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_nobody_holds_is_found_behind_all_that_is_held(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with many places: a look at its pending list does not end at the first page, which is all held."""
    monkeypatch.setattr(keeper, "_COUNT", 3)
    go_on = asyncio.Event()

    async def main(payload: int) -> int:
        if payload < 7:
            await go_on.wait()
        return payload

    worker = await w.serve(main, lease=60.0, concurrency=7)
    held = [await w.send(n) for n in range(7)]
    for intent in held:
        await w.until(intent, Status.IN_PROGRESS)
    last = await w.send(7)  # the reply of a read never came
    stream = w.store.keys[0].stream(QUEUE, "q:normal")
    words = ("XREADGROUP", "GROUP", "rd", worker.id, "COUNT", 1, "STREAMS", stream, ">")
    assert await w.store.mux.command(*words)
    worker.disturbed()
    await w.serve(main, lease=60.0)
    assert await w.client.wait_for(last, 10) == 7
    go_on.set()
    assert [await w.result(intent) for intent in held] == list(range(7))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_leases_are_kept_whatever_befalls_their_thread_once(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(payload: None) -> None:
        pass

    await w.serve(main, lease=1.0)
    prove, failed = Vigil.prove, list[Vigil]()

    def fails_once(self: Vigil) -> None:
        if not failed:
            failed.append(self)
            raise RuntimeError("nobody thought of this")
        prove(self)

    monkeypatch.setattr(Vigil, "prove", fails_once)
    told = await w.event("loop.failed")
    assert (told["loop"], str(told["error"])) == ("renew", "nobody thought of this")
    w.events.clear()
    await w.event("leases.renewed")
