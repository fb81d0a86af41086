"""Branches: their names are a matter of the program, and a journal leads them to the same results again."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from redurable import sleep, step
from redurable.model import Status, StepDone
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("way", ["gather", "task group", "anyio", "create_task"])
async def test_branches_are_named_by_the_program_and_replayed(w: World, way: str) -> None:
    ran: list[str] = []

    @step
    async def work(what: str) -> str:
        await asyncio.sleep(random.random() / 100)
        ran.append(what)
        return what.upper()

    async def branch(what: str) -> str:
        first = await work(what + "1")
        return first + await work(what + "2")

    async def both() -> list[str]:
        if way == "gather":
            return list(await asyncio.gather(branch("a"), branch("b")))
        if way == "task group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(branch("a")), group.create_task(branch("b"))]
            return [t.result() for t in tasks]
        if way == "create_task":
            tasks = [asyncio.create_task(branch("a")), asyncio.create_task(branch("b"))]
            return [await t for t in tasks]
        found: dict[str, str] = {}

        async def keep(what: str) -> None:
            found[what] = await branch(what)

        async with anyio.create_task_group() as anyio_group:
            anyio_group.start_soon(keep, "a")
            anyio_group.start_soon(keep, "b")
        return [found["a"], found["b"]]

    async def main(payload: None) -> list[str]:
        found = await both()
        again(3)
        return [*found, await work("end")]

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == ["A1A2", "B1B2", "END"]
    assert sorted(ran) == ["a1", "a2", "b1", "b2", "end"]
    done = await w.entries(intent, StepDone)
    child = "keep" if way == "anyio" else "branch"
    names = {(e.scope.rsplit(".", 1)[-1], e.name, e.n) for e in done}
    assert names == {(f"{child}#{i}", "work", n) for i in (1, 2) for n in (1, 2)} | {("", "work", 1)}


async def test_branches_in_branches_carry_their_parents_names(w: World) -> None:
    @step
    async def leaf(x: int) -> int:
        return x

    async def inner(x: int) -> int:
        return await leaf(x)

    async def outer(x: int) -> int:
        return sum(await asyncio.gather(inner(x), inner(x + 1)))

    async def main(payload: None) -> int:
        total = sum(await asyncio.gather(outer(1), outer(10)))
        again(2)
        return total

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == 24
    scopes = {e.scope.replace(f"{main.__qualname__.rsplit('.', 1)[0]}.", "") for e in await w.entries(intent, StepDone)}
    assert scopes == {f"outer#{i}/inner#{j}" for i in (1, 2) for j in (1, 2)}


async def test_a_race_has_the_same_winner_every_time(w: World) -> None:
    winners: list[set[str]] = []

    @step
    async def run(name: str, delay: float) -> str:
        await asyncio.sleep(delay if not winners else 0.001 / delay)  # on a later attempt the other would be faster
        return name

    async def main(payload: None) -> str:
        tasks = [asyncio.create_task(run("slow", 1.0)), asyncio.create_task(run("fast", 0.001))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        winners.append({t.result() for t in done})
        again(3)
        return "".join(winners[-1])

    await w.serve(main)
    assert await w.call() == "fast"
    assert winners == [{"fast"}] * 4


async def test_a_loser_that_had_not_finished_never_starts_again(w: World) -> None:
    started: list[str] = []

    @step
    async def slow() -> str:
        started.append("slow")
        await asyncio.sleep(30)
        return "slow"

    @step
    async def fast() -> str:
        started.append("fast")
        return "fast"

    @step
    async def after() -> str:
        started.append("after")
        return "after"

    async def main(payload: None) -> str:
        loser = asyncio.create_task(slow())
        first = await fast()
        loser.cancel()
        await asyncio.gather(loser, return_exceptions=True)
        first += await after()
        again(3)
        return first

    await w.serve(main)
    assert await w.call() == "fastafter"
    assert started.count("fast") == started.count("after") == 1
    assert started.count("slow") == 1


async def test_a_step_in_timeout_of_the_process_is_given_up_again_on_replay(w: World) -> None:
    started: list[str] = []

    @step
    async def slow() -> str:
        started.append("slow")
        await asyncio.sleep(30)
        return "slow"

    @step
    async def after() -> str:
        return "after"

    async def main(payload: None) -> str:
        try:
            async with asyncio.timeout(0.05):
                await slow()
        except TimeoutError:
            pass
        found = await after()
        again(2)
        return found

    await w.serve(main)
    assert await w.call() == "after"
    assert started == ["slow"]


async def test_a_task_without_durable_calls_neither_shifts_names_nor_holds_up_a_park(w: World) -> None:
    turns: list[int] = []

    @step
    async def work() -> int:
        return 1

    async def main(payload: None) -> int:
        async def ticking() -> None:
            while True:
                turns.append(1)
                await asyncio.sleep(0.01)

        beside = asyncio.create_task(ticking())
        try:
            await work()
            await sleep(1.2)
            return await work()
        finally:
            beside.cancel()

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    assert await w.result(intent) == 1
    assert (await w.get(intent)).attempt == 2


async def test_queues_locks_and_events_of_asyncio_between_branches_replay(w: World) -> None:
    order: list[list[str]] = []

    @step
    async def item(n: int) -> int:
        await asyncio.sleep(random.random() / 200)
        return n

    async def main(payload: None) -> list[str]:
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        seen: list[str] = []
        lock = asyncio.Lock()

        async def produce(base: int) -> None:
            for i in range(3):
                await queue.put(await item(base + i))

        async def consume() -> None:
            while (got := await queue.get()) is not None:
                async with lock:
                    seen.append(str(await item(got * 10)))

        eater = asyncio.create_task(consume())
        await asyncio.gather(produce(1), produce(4))
        await queue.put(None)
        await eater
        order.append(seen)
        again(3)
        return seen

    await w.serve(main)
    result = await w.call()
    assert sorted(result) == ["10", "20", "30", "40", "50", "60"]
    assert all(seen == result for seen in order)


async def test_a_crash_in_the_middle_of_branches_repeats_only_what_was_not_recorded(w: World) -> None:
    ran: list[str] = []
    lost: list[str] = []

    @step
    async def work(what: str) -> str:
        ran.append(what)
        if what == "b2" and not lost:
            lost.append(await w.lose(intent))
        return what

    async def branch(what: str) -> str:
        return await work(what + "1") + await work(what + "2") + await work(what + "3")

    async def main(payload: None) -> list[str]:
        return list(await asyncio.gather(branch("a"), branch("b")))

    intent = await w.send()
    await w.serve(main)
    assert await w.result(intent) == ["a1a2a3", "b1b2b3"]
    assert lost == ["OK"]
    done = [(e.scope, e.n) for e in await w.entries(intent, StepDone)]
    assert len(done) == len(set(done)) == 6
    assert ran.count("b2") == 2
    assert ran.count("a1") == ran.count("b1") == 1


async def test_cancel_scopes_of_anyio_replay(w: World) -> None:
    started: list[str] = []

    @step
    async def slow(name: str) -> None:
        started.append(name)
        await asyncio.sleep(30)

    @step
    async def number(x: int) -> int:
        return x

    async def main(payload: None) -> int:
        with anyio.move_on_after(0.05):
            await slow("timed")
        total = await number(1)
        async with anyio.create_task_group() as group:
            group.start_soon(slow, "loser")
            total += await number(2)
            group.cancel_scope.cancel()
        total += await number(3)
        again(2)
        return total

    await w.serve(main)
    assert await w.call() == 6
    assert started == ["timed", "loser"]
