"""What comes between two awaits of the engine: each was once lost, taken for something else, or never ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest

from redurable import (
    Depends,
    Limit,
    Retry,
    Status,
    StepFailed,
    TerminalError,
    WrongState,
    call,
    compensate,
    promise,
    race,
    run,
    sleep,
    step,
    sync,
)
from redurable.model import CancelRequested, StepDone
from redurable.runtime import bodies, promises
from redurable.runtime.handlers import handler, spec_of
from redurable.runtime.recorder import Recorder
from redurable.store.lease import Lease
from redurable.tasks import background
from redurable.worker.worker import Worker
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio


async def test_a_plain_handler_is_not_taken_to_rest_while_its_branches_are_joined(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            super().join(timeout)
            if self.name == "slow":
                time.sleep(0.1)

    @step
    def work(n: int) -> int:
        return n

    def main(payload: None) -> list[int]:
        with monkeypatch.context() as patched:
            patched.setattr(sync.threading, "Thread", lambda **options: Slow(**options, name="slow"))
            found = sync.gather(lambda: work(1), lambda: work(2))
        found.append(work(3))
        again(1)
        return found

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == [1, 2, 3]
    assert w.seen("intent.held") == []


async def test_a_drain_ends_at_once_that_comes_while_a_promise_is_told_to_the_store(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    declare = Lease.declare

    def slow(self: Lease, *args: Any) -> Any:
        async def told() -> Any:
            asked.set()
            await go_on.wait()
            return await declare(self, *args)

        return asyncio.ensure_future(told())

    monkeypatch.setattr(Lease, "declare", slow)

    async def main(payload: None) -> Any:
        return await promise("answer")

    worker = await w.serve(main, grace=60)
    intent = await w.send()
    await asked.wait()
    leaving = asyncio.ensure_future(w.stop(worker))
    await w.event("worker.draining")
    await asyncio.sleep(0.02)
    go_on.set()
    await asyncio.wait_for(leaving, 10)
    assert (await w.get(intent)).status is Status.SUBMITTED


async def test_a_drain_starts_no_next_try_while_another_branch_works(w: World) -> None:
    tried: list[int] = []
    at_work, end = asyncio.Event(), asyncio.Event()

    @step(retry=Retry(first=0.3, jitter=False))
    async def fails() -> None:
        tried.append(1)
        raise ConnectionError

    @step
    async def works() -> None:
        at_work.set()
        await end.wait()

    async def main(payload: None) -> None:
        await asyncio.gather(fails(), works())

    worker = await w.serve(main, grace=60)
    await w.send()
    await at_work.wait()
    while not w.seen("step.failed"):
        await asyncio.sleep(0.01)
    leaving = asyncio.ensure_future(w.stop(worker))
    await asyncio.sleep(0.6)
    assert len(tried) == 1
    end.set()
    await leaving
    assert len(tried) == 1


async def test_a_call_with_an_option_that_is_none_fails_the_handler(w: World) -> None:
    async def main(payload: None) -> Any:
        return await call("elsewhere", 1, dealy=5)  # type: ignore[arg-type]

    await w.serve(main)
    failure = await w.failure(await w.send())
    assert "dealy" in str(failure)


@pytest.mark.parametrize("kind", ["waits", "asks", "works", "goes on"])
async def test_a_branch_that_its_handler_left_does_nothing_more_while_it_is_undone(w: World, kind: str) -> None:
    ran: list[str] = []
    begun, undoing, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    @step
    async def late() -> None:
        ran.append("late")

    @step
    async def slow() -> None:
        ran.append("slow")
        await undoing.wait()

    async def branch() -> None:
        if kind == "waits":
            begun.set()
            await promise("never")
        elif kind == "works":
            begun.set()
            await slow()
        elif kind == "asks":
            begun.set()
        else:
            await run("first", lambda: None)
            begun.set()
            await undoing.wait()
        await late()

    @step
    async def undo() -> None:
        undoing.set()
        await end.wait()
        ran.append("undo")

    async def main(payload: None) -> None:
        compensate(undo)
        tasks.append(asyncio.create_task(branch()))
        await begun.wait()
        raise TerminalError("no")

    await w.serve(main)
    intent = await w.send()
    await undoing.wait()
    await asyncio.sleep(0.1)
    end.set()
    await w.failure(intent)
    await asyncio.sleep(0.05)
    assert "late" not in ran
    assert ran[-1] == "undo"
    assert tasks[0].done()


async def test_a_thread_whose_time_is_up_does_nothing_more_while_it_is_undone(w: World) -> None:
    ran: list[str] = []
    undoing, end = threading.Event(), asyncio.Event()
    raised: list[BaseException] = []

    @step
    def late() -> None:
        ran.append("late")

    @step
    async def undo() -> None:
        undoing.set()
        await end.wait()

    def main(payload: None) -> None:
        compensate(undo)
        undoing.wait(10)
        try:
            late()
        except BaseException as error:
            raised.append(error)
            raise

    await w.serve(main, attempt_timeout=0.6, retry=Retry(attempts=1))
    intent = await w.send()
    async with asyncio.timeout(30):
        while not ran and not raised:
            await asyncio.sleep(0.01)
    end.set()
    await w.failure(intent)
    assert ran == []
    assert isinstance(raised[0], asyncio.CancelledError)


async def test_a_thread_whose_try_is_over_is_no_branch_any_more(w: World) -> None:
    tries: list[str] = []
    second = threading.Event()
    first_over = threading.Event()

    @step
    def inner(n: int) -> int:
        return n

    @step(timeout=1.0, retry=Retry(first=0, jitter=False))
    def outer() -> int:
        tries.append("outer")
        if len(tries) == 1:
            second.wait(10)
            try:
                inner(1)
                tries.append("inner")
            except Exception as error:
                tries.append(type(error).__name__)
            finally:
                first_over.set()
            return 0
        second.set()
        first_over.wait(10)
        time.sleep(0.02)
        return inner(2)

    async def main(payload: None) -> int:
        return await outer.aio()

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == 2
    assert tries == ["outer", "outer", "UsageError"]
    assert [e.scope for e in await w.entries(intent, StepDone) if e.name == "inner"] == ["outer#1>>"]


async def test_a_thread_whose_step_has_failed_asks_for_nothing_in_the_handler(w: World) -> None:
    told: list[str] = []
    go_on, over = threading.Event(), threading.Event()

    @step
    def inner() -> int:
        told.append("inner")
        return 1

    @step(timeout=1.0, retry=Retry(attempts=1))
    def outer() -> int:
        go_on.wait(10)
        try:
            return inner()
        except Exception as error:
            told.append(type(error).__name__)
            raise
        finally:
            over.set()

    async def main(payload: None) -> str:
        with pytest.raises(StepFailed):
            await outer.aio()
        go_on.set()
        await asyncio.to_thread(over.wait, 10)
        return "done"

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "done"
    assert told == ["UsageError"]
    assert [e.name for e in await w.entries(intent, StepDone)] == []


@pytest.mark.parametrize("undone", [False, True])
async def test_a_thread_that_waits_when_its_attempt_is_out_of_time_is_let_go(w: World, undone: bool) -> None:
    over = threading.Event()
    raised: list[BaseException] = []

    async def undo() -> None: ...

    def main(payload: None) -> None:
        if undone:
            compensate(undo)
        try:
            sync.sleep(0.9)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            over.set()

    await w.serve(main, attempt_timeout=0.6, retry=Retry(attempts=1))
    await w.failure(await w.send())
    assert await asyncio.to_thread(over.wait, 30)
    assert isinstance(raised[0], asyncio.CancelledError)


async def test_a_thread_that_ends_late_leaves_the_place_of_its_handler_alone(w: World) -> None:
    inside, go_on, over = threading.Event(), threading.Event(), threading.Event()

    @step
    def inner() -> int:
        inside.set()
        go_on.wait(10)
        return 1

    @step(timeout=1.0, retry=Retry(attempts=1))
    def outer() -> int:
        try:
            return inner()
        finally:
            over.set()

    async def main(payload: None) -> list[Any]:
        with pytest.raises(StepFailed):
            await outer.aio()
        go_on.set()
        await asyncio.to_thread(over.wait, 10)
        return [await run("next", lambda: 1), await call("child")]

    async def child(payload: None) -> int:
        return 2

    handler(queue="child")(child)
    handler(queue="q")(main)
    await w.serve_specs(spec_of(main), spec_of(child))
    intent = await w.send()
    assert await w.result(intent) == [1, 2]
    assert "next" in [e.name for e in await w.entries(intent, StepDone) if e.scope == ""]


class Picky(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.number = code


@step(run_in="process", retry=Retry(attempts=2, first=0))
def picky_in_child() -> None:
    raise Picky(5, "because")


async def test_an_error_of_a_process_step_that_cannot_be_unpickled_is_told_as_it_is(w: World) -> None:
    async def main(payload: None) -> Any:
        with pytest.raises(StepFailed) as failed:
            await picky_in_child.aio()
        error = failed.value
        return [error.matches(Picky), error.type.rpartition(".")[2], error.reason, error.code]

    await w.serve(main)
    assert await w.call() == [True, "Picky", "5: because", "STEP_FAILED"]


async def test_intents_that_begin_together_are_given_one_and_the_same(w: World) -> None:
    made: list[Any] = []

    async def make() -> Any:
        await asyncio.sleep(0.05)
        made.append(object())
        return made[-1]

    async def main(payload: None, thing: Any) -> bool:
        return thing is made[0]

    main.__annotations__["thing"] = Annotated[Any, Depends(make)]
    await w.serve(main)
    ids = await w.client.send_many("q", [None] * 5)
    assert await asyncio.gather(*(w.result(i) for i in ids)) == [True] * 5
    assert len(made) == 1


@pytest.mark.parametrize("sync_handler", [False, True])
async def test_a_result_that_is_too_large_with_its_entry_alone_fails_the_step(
    w: World, sync_handler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDURABLE_MAX_PAYLOAD", "5000")
    tries: list[int] = []

    def body() -> str:
        tries.append(1)
        return "x" * 4990

    large = step(body)

    def plain(payload: None) -> str:
        try:
            large()
        except StepFailed as failed:
            found = failed.code
        sync.run("after", lambda: 1)
        again(1)
        return found

    async def main(payload: None) -> str:
        async def branch() -> str:
            try:
                await large.aio()
            except StepFailed as failed:
                return failed.code
            return ""

        found, _ = await asyncio.gather(branch(), run("other", lambda: 1))
        await run("after", lambda: 1)
        again(1)
        return found

    await w.serve(plain if sync_handler else main)
    assert await w.call() == "PAYLOAD_TOO_LARGE"
    assert len(tries) == 1


async def test_a_body_that_swallows_the_end_of_its_attempt_is_given_the_signal(w: World) -> None:
    at_work = asyncio.Event()
    raised: list[BaseException] = []

    @step
    async def stubborn(way: str) -> int:
        at_work.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if way == "raises":
                raise ConnectionError from None
        return 1

    async def main(way: str) -> None:
        try:
            await stubborn(way)
        except BaseException as error:
            raised.append(error)
            raise

    await w.serve(main, concurrency=1)
    for way in ("raises", "returns"):
        at_work.clear()
        raised.clear()
        intent = await w.send(way)
        await at_work.wait()
        attempt = next(iter(next(iter(w._workers)).attempts.values()))
        attempt.lost("FENCED")
        async with asyncio.timeout(5):
            while not raised:
                await asyncio.sleep(0.01)
        assert isinstance(raised[0], asyncio.CancelledError), raised
        await w.client.kill(intent)


async def test_a_plain_step_that_is_cancelled_by_itself_is_given_up(w: World) -> None:
    ran: list[str] = []

    @step
    def odd() -> None:
        ran.append("odd")
        raise asyncio.CancelledError

    @step
    def after() -> str:
        ran.append("after")
        return "after"

    def main(payload: None) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            odd()
        found = after()
        sync.sleep(1.2)
        return found

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)


@pytest.mark.parametrize("policy", ["warn", "hold"])
async def test_changed_code_of_a_plain_handler_is_told_on_the_loop(
    w: World, policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    raised: list[BaseException] = []
    note = Lease.note

    def seen(self: Lease, name: str, value: str) -> Any:
        if name == "changed":
            noted.append(threading.get_ident())
        return note(self, name, value)

    monkeypatch.setattr(Lease, "note", seen)
    turn = 0

    def main(payload: None) -> None:
        nonlocal turn
        turn += 1
        first = step(name="work")(lambda: 1)
        other = step(name="work")(lambda: 2)
        try:
            (first if turn == 1 else other)()
        except BaseException as error:
            raised.append(error)
            raise
        again(1)

    await w.serve(main, on_code_change=policy)
    intent = await w.send()
    if policy == "warn":
        await w.result(intent)
    else:
        await w.held(intent)
        assert type(raised[0]).__name__ == "JournalMismatchError"
    assert noted
    assert set(noted) == {threading.get_ident()}


async def test_a_place_is_given_back_that_was_to_be_used_by_a_thread_that_never_began(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step(limit=Limit(name="one", concurrency=1))
    def limited() -> None: ...

    async def main(payload: None) -> list[int]:
        task = asyncio.create_task(limited.aio())
        async with asyncio.timeout(30):
            while not [limit for limit in await w.client.limits() if limit.used]:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30):
            while [limit for limit in await w.client.limits() if limit.used]:
                await asyncio.sleep(0.01)
        return []

    await w.serve(main)
    free = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(bodies, "_threads", pool)
        pool.submit(free.wait, 20)
        try:
            assert await w.call() == []
        finally:
            free.set()


async def test_an_attempt_that_ends_while_a_record_is_out_waits_for_it_without_spinning(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, looked = Lease.record, 0
    held: list[Any] = []

    def hold(self: Lease, *args: Any) -> Any:
        held.append(lambda: record(self, *args))

    def idle(self: Recorder) -> bool:
        nonlocal looked
        looked += 1
        return not self._flying and not self._queue and self._syncing is None

    async def main(payload: None) -> None:
        await run("work", lambda: 1)

    worker = await w.serve(main)
    monkeypatch.setattr(Lease, "record", hold)
    intent = await w.send()
    async with asyncio.timeout(30):
        while not held:
            await asyncio.sleep(0.01)
    monkeypatch.setattr(Recorder, "idle", property(idle))
    worker.attempts[intent].unwind()
    await asyncio.sleep(0.1)
    monkeypatch.setattr(Lease, "record", record)
    held[0]()
    assert await w.result(intent) is None
    assert [e.name for e in await w.entries(intent, StepDone)] == ["work"]
    assert looked < 20


async def test_an_error_that_carries_much_is_stored_without_it(w: World) -> None:
    undone: list[int] = []

    async def undo() -> None:
        undone.append(1)

    async def main(payload: None) -> None:
        compensate(undo)
        raise TerminalError("large", details={"all": "x" * 2_000_000})

    await w.serve(main)
    failure = await w.failure(await w.send())
    assert undone == [1]
    assert failure.error is not None
    assert (failure.error.message, failure.error.details) == ("large", None)


async def test_a_body_that_ends_the_process_in_a_branch_fails_its_step(w: World) -> None:
    @step(retry=Retry(attempts=1))
    async def exits() -> None:
        raise SystemExit(2)

    async def main(payload: None) -> str:
        found = await asyncio.gather(exits(), run("other", lambda: 1), return_exceptions=True)
        return type(found[0]).__name__

    await w.serve(main)
    assert await w.call() == "StepFailed"


@pytest.mark.parametrize("news", ["value", "cancel"])
@pytest.mark.parametrize("begun", [False, True])
async def test_news_of_an_attempt_that_has_not_begun_are_taken_once(w: World, news: str, begun: bool) -> None:
    making, made = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def make() -> int:
        making.set()
        await made.wait()
        return 1

    async def first(payload: None) -> None:
        await run("work", lambda: ran.append("work"))
        await sleep(1.2)
        await asyncio.sleep(60)

    async def main(payload: None, thing: Any) -> str:
        await run("work", lambda: ran.append("work"))
        await sleep(1.2)
        await run("more", lambda: ran.append("more"))
        return str(await promise("answer"))

    main.__annotations__["thing"] = Annotated[int, Depends(make)]
    intent = await w.send()
    if begun:
        worker = await w.serve(first)
        await w.until(intent, Status.WAITING)
        await w.stop(worker)
    await w.serve(main)
    await making.wait()
    if news == "value":
        await w.client.resolve(intent, "answer", "yes")
    else:
        await w.client.cancel(intent)
    await asyncio.sleep(0.1)
    made.set()
    if news == "value":
        assert await w.result(intent) == "yes"
        assert ran == ["work", "more"]
    else:
        assert (await w.failure(intent)).status == "CANCELED"
        assert ran == ["work"] * begun
        assert len(await w.entries(intent, CancelRequested)) == 2


def test_a_blocking_client_that_is_closed_while_another_thread_begins_a_call_leaves_nobody_waiting(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = sync.Client(redis_url, namespace=namespace)
    assert client.queues() == []
    loop = client._loop
    assert loop is not None
    called, closed = threading.Event(), threading.Event()
    real = asyncio.run_coroutine_threadsafe

    def slow(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Any:
        if threading.current_thread() is caller:
            called.set()
            closed.wait(0.5)
        return real(coroutine, loop)

    def call_it() -> None:
        with contextlib.suppress(Exception):
            client.queues()

    caller = threading.Thread(target=call_it, daemon=True)
    monkeypatch.setattr(sync.asyncio, "run_coroutine_threadsafe", slow)  # type: ignore[attr-defined]
    caller.start()
    assert called.wait(5)
    client.close()
    closed.set()
    caller.join(10)
    assert not caller.is_alive()
    until = time.monotonic() + 5
    while not loop.is_closed() and time.monotonic() < until:
        time.sleep(0.01)
    assert loop.is_closed()


async def test_a_drain_that_comes_while_an_envelope_is_read_begins_nothing(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()
    read_body, begin = Lease.read_body, Worker.begin
    ran: list[str] = []

    async def slow(self: Lease) -> Any:
        reading.set()
        await go_on.wait()
        return await read_body(self)

    def without(self: Worker, lease: Lease, **options: Any) -> None:
        lease.body = None  # as when a claim has no room for it
        begin(self, lease, **options)

    monkeypatch.setattr(Lease, "read_body", slow)
    monkeypatch.setattr(Worker, "begin", without)

    async def main(payload: None) -> None:
        ran.append("begun")

    worker = await w.serve(main, grace=60)
    intent = await w.send()
    await reading.wait()
    leaving = asyncio.ensure_future(w.stop(worker))
    await w.event("worker.draining")
    await asyncio.sleep(0.02)
    go_on.set()
    await leaving
    assert ran == []
    assert (await w.get(intent)).status is Status.SUBMITTED


async def test_a_promise_that_lost_its_race_before_it_was_told_to_the_store_takes_no_value(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, late = asyncio.Event(), asyncio.Event()

    def slowly(coroutine: Any, name: str = "") -> Any:
        async def later() -> None:
            opened.set()
            await late.wait()
            await coroutine

        return background(later(), name)

    monkeypatch.setattr(promises, "background", slowly)

    async def main(payload: None) -> str:
        winner = await race(answer=promise("answer"), other=opened.wait())
        late.set()
        await asyncio.sleep(0.05)
        await run("hold", wait)
        return winner.name

    held, end = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        held.set()
        await end.wait()

    await w.serve(main)
    intent = await w.send()
    await held.wait()
    with pytest.raises(WrongState):
        await w.client.resolve(intent, "answer", 1)
    end.set()
    assert await w.result(intent) == "other"
