"""Plain functions: as handlers in threads, as steps in threads and processes; what blocks, and what is refused."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from redurable import Retry, Status, StepFailed, UsageError, run, step, sync
from redurable.model import StepDone, StepTried, TimerFired
from tests.runtime.apart import dies_once, fails_in_child, in_child
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio


async def test_a_plain_handler_runs_steps_and_replays_like_an_async_one(w: World) -> None:
    ran: list[str] = []
    threads: set[int] = set()

    @step
    def work(what: str) -> str:
        ran.append(what)
        threads.add(threading.get_ident())
        return what

    def main(payload: None) -> str:
        threads.add(threading.get_ident())
        found = work("a") + sync.run("b", lambda: ran.append("b") or "b")
        again(2)
        sync.sleep(0.05)
        return found + work("c")

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "abc"
    assert ran == ["a", "b", "c"]
    assert threading.get_ident() not in threads
    assert [(e.name, e.n) for e in await w.entries(intent, StepDone)] == [("work", 1), ("b", 1), ("work", 2)]
    assert len(await w.entries(intent, TimerFired)) == 1


async def test_branches_of_a_plain_handler_run_at_once_and_replay(w: World) -> None:
    ran: list[str] = []
    both = threading.Barrier(2, timeout=30)

    @step
    def work(what: str) -> str:
        if what in ("a1", "b1"):
            both.wait()
        ran.append(what)
        return what

    def branch(what: str) -> str:
        return work(what + "1") + work(what + "2")

    def main(payload: None) -> list[str]:
        found = sync.gather(lambda: branch("a"), lambda: branch("b"))
        again(2)
        return [*found, work("end")]

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == ["a1a2", "b1b2", "end"]
    assert sorted(ran) == ["a1", "a2", "b1", "b2", "end"]
    assert len({e.scope for e in await w.entries(intent, StepDone)}) == 3


async def test_an_error_of_one_branch_of_a_plain_handler_is_raised_after_all_have_ended(w: World) -> None:
    ran: list[str] = []

    @step(retry=Retry(attempts=1))
    def work(what: str) -> str:
        ran.append(what)
        if what == "bad":
            raise KeyError(what)
        time.sleep(0.05)
        return what

    def main(payload: None) -> str:
        with pytest.raises(StepFailed) as caught:
            sync.gather(lambda: work("bad"), lambda: work("good"))
        return caught.value.type

    await w.serve(main)
    assert await w.call() == "builtins.KeyError"
    assert sorted(ran) == ["bad", "good"]


async def test_a_plain_handler_that_sleeps_long_waits_without_a_worker(w: World) -> None:
    ran: list[str] = []

    @step
    def work(what: str) -> str:
        ran.append(what)
        return what

    def main(payload: None) -> str:
        found = work("a")
        sync.sleep(1.2)
        return found + work("b")

    worker = await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    while worker.running:
        await asyncio.sleep(0.01)
    assert await w.result(intent) == "ab"
    assert ran == ["a", "b"]


async def test_a_drain_does_no_harm_to_a_plain_handler_that_swallows_it(w: World) -> None:
    ran: list[str] = []
    in_step = threading.Event()

    @step
    def work(what: str) -> str:
        ran.append(what)
        in_step.set()
        time.sleep(0.05)
        return what

    def main(payload: None) -> str:
        found = ""
        for what in "abcdefgh":
            try:
                found += work(what)
            except BaseException:
                found += "?"
        return found

    worker = await w.serve(main)
    intent = await w.send()
    await asyncio.to_thread(in_step.wait)
    await w.stop(worker)
    assert (await w.get(intent)).status is Status.SUBMITTED
    await w.serve(main)
    assert await w.result(intent) == "abcdefgh"
    assert ran == list("abcdefgh")


async def test_a_cancel_reaches_a_plain_handler(w: World) -> None:
    met: list[str] = []
    in_step, go_on = threading.Event(), threading.Event()

    @step
    def work(what: str) -> str:
        met.append(what)
        in_step.set()
        go_on.wait(10)
        return what

    def main(payload: None) -> None:
        try:
            work("a")
            work("b")
            sync.sleep(100)
        except asyncio.CancelledError:
            met.append("cancelled")
            raise

    await w.serve(main)
    intent = await w.send()
    await asyncio.to_thread(in_step.wait)
    await w.client.cancel(intent)
    await asyncio.sleep(0.05)
    go_on.set()
    assert (await w.failure(intent)).status == "CANCELED"
    assert met[-1] == "cancelled"


async def test_a_cancel_wakes_a_plain_handler_that_sleeps_in_the_process(w: World) -> None:
    met: list[str] = []
    begun = threading.Event()

    def main(payload: None) -> None:
        begun.set()
        try:
            for _ in range(100):
                sync.sleep(0.5)
        except asyncio.CancelledError:
            met.append("cancelled")
            raise

    await w.serve(main)
    intent = await w.send()
    await asyncio.to_thread(begun.wait, 30)
    await asyncio.sleep(0.2)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    assert met == ["cancelled"]


async def test_a_plain_step_on_the_event_loop_is_refused_and_its_aio_is_not(w: World) -> None:
    @step
    def work(n: int) -> int:
        return n * 2

    async def main(payload: None) -> list[Any]:
        with pytest.raises(UsageError) as caught:
            work(1)
        return [caught.value.code, ".aio(" in str(caught.value), await work.aio(4)]

    await w.serve(main)
    assert await w.call() == ["BLOCKING_STEP", True, 8]


async def test_blocking_calls_of_sync_are_refused_on_the_event_loop(w: World) -> None:
    async def main(payload: None) -> list[str]:
        codes = []
        for call in (lambda: sync.sleep(1), lambda: sync.run("x", int), lambda: sync.gather(int)):
            with pytest.raises(UsageError) as caught:
                call()
            codes.append(caught.value.code)
        return codes

    await w.serve(main)
    assert await w.call() == ["BLOCKING_STEP"] * 3


async def test_a_step_in_a_bare_thread_has_lost_its_intent_and_says_so(w: World) -> None:
    codes: list[str] = []

    @step
    def work() -> int:
        return 1

    def lose() -> None:
        try:
            work()
        except UsageError as error:
            codes.append(error.code)

    def main(payload: None) -> None:
        thread = threading.Thread(target=lose)
        thread.start()
        thread.join()

    await w.serve(main)
    await w.call()
    assert codes == ["OUTSIDE_INTENT"]


async def test_a_step_in_a_thread_that_is_no_branch_is_refused(w: World) -> None:
    codes: list[str] = []

    @step
    def work() -> int:
        return 1

    def lose() -> None:
        try:
            work()
        except UsageError as error:
            codes.append(error.code)

    async def main(payload: None) -> None:
        await asyncio.to_thread(lose)  # carries the context, but nobody waits in order

    await w.serve(main)
    await w.call()
    assert codes == ["OUTSIDE_INTENT"]


async def test_run_takes_plain_functions_to_a_thread(w: World) -> None:
    ran: list[int] = []

    def work(n: int) -> int:
        ran.append(threading.get_ident())
        return n + 1

    async def main(payload: None) -> int:
        found = await run("add", work, 1)
        again(1)
        return found

    await w.serve(main)
    assert await w.call() == 2
    assert len(ran) == 1
    assert ran[0] != threading.get_ident()


async def test_nested_plain_steps_are_reused_while_the_outer_is_unfinished(w: World) -> None:
    ran: list[str] = []

    @step
    def part(n: int) -> int:
        ran.append(f"part{n}")
        return n

    @step(retry=Retry(attempts=3, first=0))
    def whole() -> int:
        ran.append("whole")
        total = part(1) + part(2)
        if ran.count("whole") < 2:
            raise ConnectionError
        return total

    def main(payload: None) -> int:
        return whole()

    await w.serve(main)
    assert await w.call() == 3
    assert ran == ["whole", "part1", "part2", "whole"]


async def test_a_process_step_runs_in_another_process_once(w: World, tmp_path: Path) -> None:
    async def main(path: str) -> int:
        pid = await in_child.aio(path)
        again(1)
        return pid

    await w.serve(main)
    pid = await w.call(str(tmp_path / "pids"))
    assert pid != os.getpid()
    assert (tmp_path / "pids").read_text() == f"{pid}\n"


async def test_the_death_of_a_process_step_is_an_error_that_is_tried_again(w: World, tmp_path: Path) -> None:
    async def main(path: str) -> str:
        return await dies_once.aio(path)

    await w.serve(main)
    intent = await w.send(str(tmp_path / "mark"))
    assert await w.result(intent) == "alive"
    assert [e.error.code for e in await w.entries(intent, StepTried)] == ["STEP_PROCESS_LOST"]


async def test_an_error_of_a_process_step_comes_back_and_local_functions_are_refused(w: World) -> None:
    @step(run_in="process")
    def local() -> None: ...

    async def main(payload: None) -> list[Any]:
        with pytest.raises(StepFailed) as first:
            await fails_in_child.aio()
        with pytest.raises(StepFailed) as second:
            await local.aio()
        return [first.value.matches(LookupError), first.value.reason, second.value.code, second.value.tries]

    await w.serve(main)
    assert await w.call() == [True, "'in the child'", "BAD_HANDLER", 1]
