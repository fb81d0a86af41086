"""A cancel is met at one place, live and on every replay: attempts on a fake lease, cancelled and cut anywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from redurable import Canceled, Status, compensate, step, sync
from redurable.model import CancelRequested, StepDone
from redurable.runtime.attempt import Attempt
from tests.support.harness import LOOPS, Bench, Kill, drive

loops = pytest.mark.parametrize("loop", LOOPS)


def after(bench: Bench, turns: int) -> Callable[[Attempt], Any]:
    """Return what cancels the bench's intent after so many turns of an attempt."""

    async def cancel(attempt: Attempt) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        bench.intent.interrupt(Status.CANCELED, "enough")

    return cancel


def trip() -> Bench:
    """A handler that books twice in turn and twice at a time, and cleans up by a step when it is cancelled."""

    @step
    async def book(what: str) -> str:
        for _ in range(4):
            await asyncio.sleep(0)
        bench.log(f"book {what}")
        return what

    @step
    async def tidy() -> None:
        bench.log("tidy")

    async def give_back(what: str) -> None:
        bench.log(f"give back {what}")

    async def booked(what: str) -> str:
        found = await book(what)
        compensate(give_back, what)
        bench.see(what)
        return found

    async def handle(payload: None) -> str:
        try:
            first = await booked("a")
            await asyncio.sleep(0.002)
            second = await asyncio.gather(booked("b"), booked("c"))
            return first + "".join(second) + await booked("d")
        except asyncio.CancelledError:
            bench.see("cancelled")
            await tidy()
            raise

    bench = Bench(handle)
    return bench


@loops
def test_what_was_booked_is_given_back_wherever_the_cancel_and_a_crash_come(loop: str) -> None:
    async def main() -> None:
        for turns in range(2, 70, 3):
            for cut in (None, 1, 2, 3, 4, 5, 6, 7, 8):
                bench = trip()
                kill = None if cut is None else Kill(at=cut)
                await bench.attempt(kill, during=after(bench, turns))
                ended = await bench.finish()
                if len(bench.of(CancelRequested)) < 2:
                    continue  # the crash, or the end, came first
                assert ended == "CANCELED"
                done = [e for e in bench.of(StepDone) if e.name == "book"]
                assert bench.ran.count("tidy") >= 1
                assert sum(str(x).startswith("give back") for x in set(bench.ran)) == len(done)
                lived = bench.seen[-1]
                assert lived[-1] == "cancelled"
                before = [s for s in bench.seen if s]
                assert all(s == lived[: len(s)] or "cancelled" not in s for s in before), bench.seen
                ran = len(bench.ran)
                bench.reopen()
                assert await bench.finish() == "CANCELED"
                assert len(bench.ran) == ran
                assert bench.seen[-1] == lived

    drive(main, loop=loop)


@loops
def test_the_result_of_a_step_that_finished_is_not_lost_to_the_cancel_after_it(loop: str) -> None:
    async def main() -> None:
        for turns in range(4, 12):
            bench = trip()
            await bench.attempt(during=after(bench, turns))
            assert bench.status == "CANCELED"
            assert bench.ran.count("book a") == bench.ran.count("give back a")

    drive(main, loop=loop)


@loops
def test_a_cancel_during_a_wait_that_is_not_durable_is_replayed_after_the_same_steps(loop: str) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        @step
        async def work(n: int) -> int:
            bench.log(n)
            if n == 2:
                gate.set()
                await asyncio.sleep(0.01)
            return n

        async def handle(payload: None) -> None:
            try:
                for n in range(9):
                    bench.see(await work(n))
                    await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                bench.see("cancelled")
                await work(100)
                raise

        async def cancel(attempt: Attempt) -> None:
            await gate.wait()
            bench.intent.interrupt()

        bench = Bench(handle)
        # step 2 is under way when the cancel comes; it is recorded, and only then is the cancel met
        await bench.attempt(during=cancel)
        assert bench.status == "CANCELED"
        assert bench.seen == [[0, 1, 2, "cancelled"]]
        bench.reopen()
        await bench.finish()
        assert bench.seen[-1] == bench.seen[0]
        assert bench.ran == [0, 1, 2, 100]

    drive(main, loop=loop)


@loops
@pytest.mark.parametrize("turns", [1, 5, 9, 14, 20, 27, 35])
def test_threads_meet_a_cancel_at_their_next_durable_call(loop: str, turns: int) -> None:
    async def main() -> None:
        @step
        def work(n: int) -> int:
            time.sleep(0.001)
            bench.log(n)
            return n

        def handle(payload: None) -> None:
            try:
                for n in range(500):
                    bench.see(work(n))
                    sync.gather(lambda: work(1000), lambda: work(2000))
            except Canceled as error:
                bench.see(str(error))
                work(-1)
                raise

        async def cancel(attempt: Attempt) -> None:
            await asyncio.sleep(turns / 1000)
            bench.intent.interrupt(Status.CANCELED, "enough")

        bench = Bench(handle)
        await bench.attempt(during=cancel)
        assert bench.status == "CANCELED"
        assert bench.seen[0][-1] == "enough"
        assert bench.ran[-1] == -1
        assert len(bench.ran) < 100

    drive(main, loop=loop)
