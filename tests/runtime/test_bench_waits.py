"""Calls that were given up, and entries whose calls are not asked for yet: attempts on a fake lease, cut anywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable import Retry, step
from redurable.runtime import early
from tests.support.harness import LOOPS, Bench, Kill, drive

loops = pytest.mark.parametrize("loop", LOOPS)
SOON = Retry(attempts=3, first=0, jitter=False)


async def killed_everywhere(make: Any) -> None:
    """Run make()'s bench to its end, then again and again, cut after each number of entries; each must end alike."""
    whole = make()
    assert await whole.finish() == "COMPLETED"
    for at in range(1, len(whole.intent.journal) + 2):
        bench = make()
        await bench.attempt(Kill(at=at))
        await bench.finish()
        assert bench.result == whole.result, at
        bench.reopen()
        ran = list(bench.ran)
        assert await bench.finish() == "COMPLETED"
        assert bench.result == whole.result
        assert bench.ran == ran


@loops
def test_a_call_given_up_in_one_branch_is_told_by_the_next_record_of_another(loop: str) -> None:
    @step
    async def slow() -> None:
        await asyncio.sleep(30)

    @step
    async def after() -> str:
        return "after"

    def make() -> Bench:
        async def handle(payload: None) -> str:
            gave_up = asyncio.Event()

            async def impatient() -> None:
                try:
                    async with asyncio.timeout(0.005):
                        await slow()
                except TimeoutError:
                    gave_up.set()

            async with asyncio.TaskGroup() as group:
                group.create_task(impatient())
                await gave_up.wait()
                return await after()

        return Bench(handle)

    drive(lambda: killed_everywhere(make), loop=loop)


@loops
def test_a_call_given_up_is_told_by_a_failed_try_too(loop: str) -> None:
    tried: list[int] = []

    @step
    async def slow() -> None:
        await asyncio.sleep(30)

    @step(retry=SOON)
    async def shaky() -> str:
        tried.append(1)
        if len(tried) % 2:
            raise ConnectionError
        return "up"

    def make() -> Bench:
        tried.clear()

        async def handle(payload: None) -> str:
            try:
                async with asyncio.timeout(0.005):
                    await slow()
            except TimeoutError:
                pass
            return await shaky()

        return Bench(handle)

    drive(lambda: killed_everywhere(make), loop=loop)


@loops
def test_a_semaphore_that_others_hold_is_no_change_of_code(loop: str) -> None:
    async def main() -> None:
        shared = asyncio.Semaphore(1)

        @step
        async def work() -> str:
            return "done"

        async def handle(payload: None) -> str:
            async def branch() -> str:
                async with shared:
                    return await work()

            return (await asyncio.gather(branch()))[0]

        bench = Bench(handle)
        await bench.attempt(Kill(at=1))
        await shared.acquire()
        asyncio.get_running_loop().call_later(0.1, shared.release)
        assert await bench.attempt() == "COMPLETED"

    drive(main, loop=loop)


@loops
def test_an_event_that_a_timer_of_the_process_sets_is_no_change_of_code(loop: str) -> None:
    async def main() -> None:
        @step
        async def work() -> str:
            return "done"

        async def handle(payload: None) -> str:
            late = asyncio.Event()
            asyncio.get_running_loop().call_later(0.05, late.set)

            async def branch() -> str:
                await late.wait()
                return await work()

            return await asyncio.create_task(branch())

        bench = Bench(handle)
        await bench.attempt(Kill(at=1))
        assert await bench.attempt() == "COMPLETED"

    drive(main, loop=loop)


@loops
@pytest.mark.parametrize("way", ["executor", "wait", "gather"])
def test_what_an_executor_does_is_waited_for(loop: str, way: str) -> None:
    async def main() -> None:
        @step
        async def work() -> str:
            return "done"

        async def handle(payload: None) -> str:
            async def branch() -> str:
                import time

                foreign = asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.06)
                await {"executor": lambda: foreign, "wait": lambda: asyncio.wait([foreign]),
                       "gather": lambda: asyncio.gather(foreign)}[way]()  # type: ignore[no-untyped-call]  # fmt: skip
                return await work()

            return await asyncio.create_task(branch())

        bench = Bench(handle)
        await bench.attempt(Kill(at=1))
        assert await bench.attempt() == "COMPLETED"

    drive(main, loop=loop)


@loops
def test_a_branch_that_waits_for_nothing_that_could_come_is_a_mismatch_after_a_while(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_PATIENCE", 0.05)

    async def main() -> None:
        changed: list[bool] = []

        @step
        async def work() -> str:
            return "done"

        async def handle(payload: None) -> str:
            never = asyncio.Event()

            async def branch() -> str:
                if changed:
                    await never.wait()
                return await work()

            return await asyncio.create_task(branch())

        bench = Bench(handle, retry=Retry(attempts=1))
        await bench.attempt(Kill(at=1))
        changed.append(True)
        assert await bench.attempt() == "held"
        held = str(bench.intent.head["held"])
        assert held.startswith("JOURNAL_MISMATCH: ")
        assert "work#1" in held

    drive(main, loop=loop)
