"""A drain while branches are at different points: what runs is finished and recorded, what waits is not told before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable import Status, run, step
from redurable.model import AttemptFailed, StepDone
from tests.runtime.test_unwinding import ways
from tests.runtime.world import World

pytestmark = pytest.mark.anyio


class Race:
    """A step that is still at work while another branch asks for its second one."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.at_work = asyncio.Event()
        self.go_on = asyncio.Event()
        self.let_long_end = asyncio.Event()

    async def short(self) -> str:
        self.ran.append("short")
        await self.go_on.wait()
        return "short"

    async def next(self) -> str:
        self.ran.append("next")
        return "next"

    async def long(self) -> str:
        self.ran.append("long")
        self.at_work.set()
        await self.let_long_end.wait()
        return "long"

    async def chain(self) -> str:
        return await run("short", self.short) + await run("next", self.next)

    async def drained(self, w: World, main: Any) -> str:
        """Send an intent, drain its worker while *chain* is at its second call and *long* at work; finish elsewhere."""
        worker = await w.serve(main)
        intent = await w.send()
        await self.at_work.wait()
        leaving = asyncio.ensure_future(w.stop(worker))
        await asyncio.sleep(0.02)
        self.go_on.set()
        await asyncio.sleep(0.05)
        self.let_long_end.set()
        await leaving
        assert (await w.get(intent)).status is Status.SUBMITTED
        assert not await w.entries(intent, AttemptFailed)
        done = [e for e in await w.entries(intent, StepDone) if e.name in ("short", "long", "tool")]
        assert not any(e.abandoned for e in done), done
        assert {"short", "long"} <= {e.name for e in done}  # what was in flight is recorded
        assert "tool" not in {e.name for e in done}
        self.recorded = len(done)
        await w.serve(main)
        return intent


@ways
async def test_a_branch_that_asks_for_more_while_another_works(w: World, way: Any) -> None:
    race = Race()

    async def main(payload: None) -> list[str]:
        return list(await asyncio.gather(way(race.chain), run("long", race.long)))

    intent = await race.drained(w, main)
    assert await w.result(intent) == ["shortnext", "long"]
    assert sorted(race.ran) == ["long", "next", "short"]


@ways
async def test_a_step_that_asks_inside_itself_for_more_while_another_works(w: World, way: Any) -> None:
    race = Race()

    @step
    async def tool() -> str:
        return str(await way(race.chain))

    async def main(payload: None) -> list[str]:
        return list(await asyncio.gather(tool(), run("long", race.long)))

    intent = await race.drained(w, main)
    assert await w.result(intent) == ["shortnext", "long"]
    assert sorted(race.ran) == ["long", "next", "short"]


@ways
async def test_a_lone_step_that_asks_inside_itself_for_more(w: World, way: Any) -> None:
    race = Race()
    race.at_work.set()
    race.let_long_end.set()

    @step
    async def tool() -> str:
        return str(await way(race.chain))

    async def main(payload: None) -> list[str]:
        return [await tool(), await run("long", race.long)]

    worker = await w.serve(main)
    intent = await w.send()
    while not race.ran:
        await asyncio.sleep(0.002)
    leaving = asyncio.ensure_future(w.stop(worker))
    await asyncio.sleep(0.02)
    race.go_on.set()
    await leaving
    assert [e.name for e in await w.entries(intent, StepDone)] == ["short"]
    await w.serve(main)
    assert await w.result(intent) == ["shortnext", "long"]
    assert sorted(race.ran) == ["long", "next", "short"]
