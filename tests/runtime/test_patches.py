"""`patched`: old journals keep the old way, new ones take the new, whatever happens on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable import Retry, patched, promise, run, sleep, step, sync, testing
from redurable.errors import UsageError
from redurable.model import Patched, Status
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio
RAN: list[Any] = []


@pytest.fixture(autouse=True)
def _empty() -> None:
    RAN.clear()


async def work(name: str) -> str:
    RAN.append(name)
    return name


async def old(payload: Any) -> list[str]:
    first = await run("first", work, "first")
    await promise("go")
    return [first, await run("last", work, "last")]


async def new(payload: Any) -> list[str]:
    found = [await run("first", work, "first")]
    if patched("weigh"):
        found.append(await run("weigh", work, "weigh"))
    await promise("go")
    if patched("tell"):
        found.append(await run("tell", work, "tell"))
    if patched("weigh"):
        found.append("weighed")
    return [*found, await run("last", work, "last")]


NEW_WAY = ["first", "weigh", "tell", "weighed", "last"]


async def test_a_new_intent_takes_the_new_way_and_every_replay_does(w: World) -> None:
    async def handler(payload: Any) -> list[str]:
        found = await new(payload)
        again(2)
        return found

    await w.serve(handler)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "go", 1)
    assert await w.result(intent) == NEW_WAY
    assert [e.change for e in await w.entries(intent, Patched)] == ["weigh", "tell"]
    assert sorted(RAN) == sorted({*RAN}), "nothing ran twice"


async def test_a_journal_that_has_not_come_to_the_place_takes_the_new_way(w: World) -> None:
    worker = await w.serve(old)
    intent = await w.send()
    await w.until(intent, Status.WAITING)  # nothing but the first step is recorded
    await w.stop(worker)
    await w.serve(new)
    await w.client.resolve(intent, "go", 1)
    assert await w.result(intent) == NEW_WAY


async def test_what_lies_behind_recorded_work_stays_old(w: World) -> None:
    async def before(payload: Any) -> list[str]:
        found = [await run("first", work, "first"), await run("last", work, "last")]
        await promise("go")
        return found

    async def after(payload: Any) -> list[str]:
        found = [await run("first", work, "first")]
        if patched("weigh"):
            found.append(await run("weigh", work, "weigh"))
        found.append(await run("last", work, "last"))
        await promise("go")
        found.append("patched" if patched("weigh") else "old")
        again(2)  # the answer is the same when all is replayed
        return found

    worker = await w.serve(before)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.stop(worker)
    await w.serve(after)
    await w.client.resolve(intent, "go", 1)
    assert await w.result(intent) == ["first", "last", "old"]
    assert await w.entries(intent, Patched) == [], "an old journal pays nothing"
    fresh = await w.send()
    await w.until(fresh, Status.WAITING)
    await w.client.resolve(fresh, "go", 1)
    assert await w.result(fresh) == ["first", "weigh", "last", "patched"]


@step(retry=Retry(attempts=2, first=0.0))
async def slow(name: str) -> str:
    return name


async def branching(payload: Any) -> list[Any]:
    async def branch(n: int) -> str:
        await slow(f"a{n}")
        return await slow(f"new{n}") if patched(f"branch {n}") else "old"

    found = await asyncio.gather(*(branch(n) for n in range(3)))
    await sleep(3600)
    return [*found, patched("end")]


def plain(name: str) -> str:
    return name


def blocking(payload: Any) -> list[str]:
    found = [sync.run("first", plain, "first")]
    if patched("weigh"):
        found.append(sync.run("weigh", plain, "weigh"))
    sync.sleep(60)
    return found


@pytest.mark.parametrize(
    ("handler", "result"),
    [(branching, ["new0", "new1", "new2", True]), (blocking, ["first", "weigh"])],
    ids=["branches", "threads"],
)
def test_a_crash_anywhere_changes_no_answer(handler: Any, result: Any) -> None:
    found: testing.Run[Any] = testing.replay_check(handler)
    assert found.result == result


def test_a_patch_alone_is_recorded_before_the_end() -> None:
    async def only(payload: Any) -> bool:
        return patched("only")

    found = testing.replay_check(only)
    assert (found.result, [type(e) for e in found.journal]) == (True, [Patched])


async def test_a_branch_that_ended_long_ago_keeps_the_old_way(w: World) -> None:
    def made(changed: bool) -> Any:
        async def branch() -> str:
            found = await run("a", work, "a")
            return found + await run("c", work, "c") if changed and patched("c") else found

        async def handler(payload: Any) -> list[str]:
            found = await asyncio.gather(branch(), run("b", work, "b"))
            await run("final", work, "final")
            await promise("go")
            return found

        handler.__qualname__ = handler.__name__ = "handler"
        return handler

    worker = await w.serve(made(False))
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.stop(worker)
    await w.serve(made(True))
    await w.client.resolve(intent, "go", 1)
    assert await w.result(intent) == ["a", "b"]


async def test_a_drain_waits_for_it_and_the_next_attempt_sees_it(w: World) -> None:
    gate = asyncio.Event()

    async def handler(payload: Any) -> list[Any]:
        found: list[Any] = [patched("change")]
        await run("gate", gate.wait)
        return [*found, patched("later")]

    worker = await w.serve(handler)
    intent = await w.send()
    await w.until(intent, Status.IN_PROGRESS)
    while not w.seen("step.started"):
        await asyncio.sleep(0.002)
    stopping = asyncio.create_task(w.stop(worker))
    gate.set()
    await stopping
    await w.serve(handler)
    assert await w.result(intent) == [True, True]
    assert [e.change for e in await w.entries(intent, Patched)] == ["change", "later"]


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", 5])
def test_a_malformed_name_is_refused(name: Any) -> None:
    with pytest.raises(UsageError) as refused:
        patched(name)
    assert refused.value.code == "BAD_ARGUMENT"


def test_outside_an_intent_it_is_the_new_way() -> None:
    assert patched("anything")


def test_a_step_is_no_place_for_it() -> None:
    @step
    async def inside() -> bool:
        return patched("inside")

    async def handler(payload: Any) -> bool:
        return await inside()

    found = testing.run(handler)
    assert found.error is not None
    assert "inside a step" in found.error.message
