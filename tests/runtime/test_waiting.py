"""Waiting: short in the process, long without one; checkpoints; foreign waits; what a process provides."""

from __future__ import annotations

import asyncio
import contextlib
import time
import types
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import anyio
import pytest

from redurable import (
    Depends,
    Retry,
    Status,
    UsageError,
    checkpoint,
    current,
    last_checkpoint,
    lifespan,
    sleep,
    sleep_until,
    step,
    sync,
)
from redurable.model import Claimed, Reason, StepDone, TimerFired, TimerSet
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio


async def test_a_short_sleep_stays_in_the_process(w: World) -> None:
    async def main(payload: None) -> int:
        await sleep(0.2)
        await sleep_until(timedelta(seconds=0.1))
        return current().attempt

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == 1
    set_, fired = await w.entries(intent, TimerSet), await w.entries(intent, TimerFired)
    assert [e.name for e in set_] == ["sleep", "sleep_until"]
    assert fired[0].at - set_[0].at >= 199


@pytest.mark.parametrize("way", ["plain", "branches", "anyio", "after a step"])
async def test_a_long_sleep_holds_no_worker_and_wakes_in_time(w: World, way: str) -> None:
    @step
    async def work() -> int:
        return 1

    async def main(payload: None) -> int:
        if way == "branches":
            await asyncio.gather(sleep(1.3), sleep(1.1))
        elif way == "anyio":
            async with anyio.create_task_group() as group:
                group.start_soon(sleep, 1.3)
                group.start_soon(sleep, 1.1)
        else:
            if way == "after a step":
                await work()
            await sleep(1.3)
        return current().attempt

    worker = await w.serve(main)
    for _ in range(6):  # the best of a few, on a loaded machine
        intent = await w.send()
        info = await w.until(intent, Status.WAITING)
        assert info.reason is Reason.TIME
        assert info.wake is not None
        while worker.running:
            await asyncio.sleep(0.005)
        assert await w.result(intent) >= 2
        late = await _late(w, intent)
        assert late >= 0
        if late <= 250:
            break
    assert late <= 250


async def _late(w: World, intent: str) -> int:
    """Return how many ms after the last of its due times its last timer fired."""
    fired, made = await w.entries(intent, TimerFired), await w.entries(intent, TimerSet)
    return int(fired[-1].at - max(entry.due for entry in made))


async def test_a_sleep_counts_from_when_it_was_recorded_whatever_happens_between(w: World) -> None:
    async def main(payload: None) -> None:
        await sleep(0.8)

    await w.serve(main)
    for _ in range(8):  # the best of a few, on a loaded machine
        intent = await w.send()
        for attempt in (1, 2):
            while (await w.get(intent)).attempt < attempt or not await w.entries(intent, TimerSet):
                await asyncio.sleep(0.005)
            lost = await w.lose(intent) == "OK"
        await w.result(intent)
        late = await _late(w, intent)
        assert len(await w.entries(intent, TimerSet)) == len(await w.entries(intent, TimerFired)) == 1
        assert late >= 0
        if lost and late <= 250:
            break
    assert late <= 250
    assert len(await w.entries(intent, Claimed)) == 2


async def test_a_time_limit_of_the_process_around_a_sleep_keeps_it_in_the_process(w: World) -> None:
    async def main(payload: None) -> str:
        try:
            async with asyncio.timeout(0.3):
                await sleep(60)
        except TimeoutError:
            return "in time"
        return "never"

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "in time"
    assert (await w.get(intent)).attempt == 1


async def test_a_time_limit_that_comes_late_in_a_busy_process_still_comes(w: World) -> None:
    async def main(payload: None) -> str:
        # while the loop stands still, the limit passes and the next look at whether this may be parked falls due
        asyncio.get_running_loop().call_later(0.2, time.sleep, 0.2)
        try:
            async with asyncio.timeout(0.3):
                await sleep(60)
        except TimeoutError:
            return "in time"
        return "never"

    await w.serve(main)
    assert await w.call() == "in time"


async def test_a_moment_in_the_past_does_not_wait(w: World) -> None:
    async def main(payload: None) -> int:
        await sleep_until(datetime(2020, 1, 1, tzinfo=UTC))
        await sleep(0)
        return current().attempt

    await w.serve(main)
    assert await w.call() == 1


@pytest.mark.parametrize("strict", [False, True], ids=["as usual", "strict"])
async def test_a_wait_that_is_not_durable_and_holds_up_a_replay_is_named(
    w: World, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redurable.runtime.early._LONG", 0.2)

    @step
    async def work(what: str) -> str:
        return what

    async def first() -> str:
        if current().attempt > 1:
            outside = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.6, outside.set_result, None)
            await outside
        return await work("a")

    async def second() -> str:
        await sleep(0.05)
        return await work("b")

    async def main(payload: None) -> str:
        found = "".join(await asyncio.gather(first(), second()))
        again(1)
        return found

    await w.serve(main, strict=strict)
    intent = await w.send()
    if strict:
        failure = await w.failure(intent)
        assert failure.code == "FOREIGN_WAIT"
        assert "test_waiting.py" in failure.error.message
    else:
        assert await w.result(intent) == "ab"
    assert len(w.seen("handler.foreign_wait")) == 1
    assert any("test_waiting.py" in place for place in w.seen("handler.foreign_wait")[0]["where"])


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_100_000_records_killed_at_98_000_repeat_at_most_one_interval(w: World, way: str) -> None:
    done: list[int] = []
    starts: list[int] = []
    times: dict[int, float] = {}
    loop = asyncio.get_running_loop()
    lost: list[bool] = []

    async def records() -> int:
        start = await last_checkpoint(of=int, default=0)
        starts.append(start)
        for n in range(start, 100_000):
            done.append(n)
            if not lost:
                times[n] = loop.time()
            await checkpoint(n + 1)
            if n == 98_000 and not lost:
                lost.append(True)
                await w.lose(intent)
                return -1
        return len(done)

    def records_sync() -> int:
        start = sync.last_checkpoint(of=int, default=0)
        starts.append(start)
        for n in range(start, 100_000):
            done.append(n)
            if not lost:
                times[n] = loop.time()
            if n % 50 == 0:  # a call from a thread costs two switches
                sync.checkpoint(n + 1)
            if n == 98_000 and not lost:
                lost.append(True)
                asyncio.run_coroutine_threadsafe(w.lose(intent), loop).result()
                return -1
        return len(done)

    work, work_sync = step(records), step(records_sync)

    async def main(payload: None) -> int:
        return await work()

    def main_sync(payload: None) -> int:
        return work_sync()

    intent = await w.send()
    await w.serve(main if way == "async" else main_sync)
    await w.result(intent)
    assert starts[0] == 0
    assert starts[1] > 0
    assert set(done) == set(range(100_000))
    # what is done twice is what the first try did after its last cursor was kept: one interval of 100 ms
    assert times[98_000] - times[starts[1]] <= 0.25
    assert len(done) == 100_000 + 98_001 - starts[1]


async def test_checkpoints_belong_to_their_step_and_go_with_it(w: World) -> None:
    seen: list[Any] = []

    @step(retry=Retry(attempts=3, first=0))
    async def long(name: str) -> str:
        seen.append((name, await last_checkpoint()))
        await checkpoint({"at": name})
        if [n for n, _ in seen].count(name) == 1:
            raise ConnectionError
        return name

    async def main(payload: None) -> str:
        return await long("a") + await long("b")

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "ab"
    assert seen == [("a", None), ("a", {"at": "a"}), ("b", None), ("b", {"at": "b"})]
    assert await w.store.mux.command("EXISTS", w.store.keys_of(intent).checkpoint(intent)) == 0


async def test_a_checkpoint_outside_a_step_is_refused(w: World) -> None:
    async def main(payload: None) -> list[str]:
        codes = []
        for call in (checkpoint(1), last_checkpoint()):
            with pytest.raises(UsageError) as caught:
                await call
            codes.append(caught.value.code)
        return codes

    await w.serve(main)
    assert len(await w.call()) == 2


# --- what a process provides -----------------------------------------------------------------------------------------


async def test_lifespan_and_dependencies_are_made_once_a_process_and_left_at_its_end(w: World) -> None:
    did: list[str] = []

    @lifespan
    async def app() -> AsyncIterator[None]:
        did.append("enter")
        yield
        did.append("leave")

    class Pool:
        pass

    async def make_pool() -> AsyncIterator[Pool]:
        did.append("open pool")
        yield Pool()
        did.append("close pool")

    def make_name() -> str:
        did.append("make name")
        return "name"

    module = types.ModuleType("app")
    module.app = app  # type: ignore[attr-defined]  # a module made by hand

    pools: list[Any] = []

    async def main(n: int, pool: Any, name: Any) -> str:
        pools.append(pool)
        return f"{name}{n}"

    main.__annotations__.update(pool=Annotated[Any, Depends(make_pool)], name=Annotated[str, Depends(make_name)])
    worker = await w.serve(main, modules=(module,))
    assert [await w.call(n) for n in range(3)] == ["name0", "name1", "name2"]
    assert len({id(p) for p in pools}) == 1
    await w.stop(worker)
    assert did[0] == "enter"
    assert sorted(did[1:3]) == ["make name", "open pool"]
    assert did[3:] == ["close pool", "leave"]


async def test_a_dependency_that_cannot_be_made_is_tried_again(w: World) -> None:
    made: list[int] = []

    async def make() -> str:
        made.append(1)
        if len(made) < 3:
            raise ConnectionError("not yet")
        return "here"

    async def main(payload: None, thing: Any) -> str:
        return str(thing)

    main.__annotations__["thing"] = Annotated[str, Depends(make)]
    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "here"
    assert (await w.get(intent)).attempt == 3


async def test_many_intents_wait_at_once_without_a_worker(w: World) -> None:
    @step
    async def work(n: int) -> int:
        return n

    async def main(n: int) -> int:
        with contextlib.suppress(LookupError):
            await sleep(1.1)
        return await work(n)

    worker = await w.serve(main, concurrency=5)
    ids = await w.client.send_many("q", list(range(60)))
    results = await asyncio.gather(*(w.result(i) for i in ids))
    assert results == list(range(60))
    assert worker.running == 0
    assert all([len(await w.entries(i, StepDone)) == 1 for i in ids[:5]])
