"""`testing.run`: the whole life of a handler in memory, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from unittest.mock import Mock

import pytest

import redurable
from redurable import (
    ConfigurationError,
    Depends,
    IntentFailed,
    Retry,
    RetryLater,
    SerialisationError,
    Status,
    StepFailed,
    TerminalError,
    UsageError,
    checkpoint,
    compensate,
    current,
    handler,
    last_checkpoint,
    sleep,
    sleep_until,
    state,
    step,
    sync,
    testing,
)
from redurable.model import AttemptFailed, Claimed, StepDone, TimerFired

DAY = 86_400
HOURLY = Retry(attempts=4, first=3600, factor=1, max_delay=3600, jitter=False)


@contextmanager
def quick(seconds: float = 10.0) -> Iterator[None]:
    """Assert that what is inside takes no time to speak of, on however busy a machine."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@step(retry=HOURLY)
async def fetch(n: int) -> int:
    return n


@step
def plain(n: int) -> int:
    return n + 1


# --- time


def test_sleeps_pass_at_once_and_now_follows() -> None:
    async def main(payload: None) -> list[datetime]:
        seen = [redurable.now()]
        await sleep(30 * DAY)
        seen.append(redurable.now())
        await sleep(0.25)  # too short to be parked
        seen.append(redurable.now())
        await sleep_until(seen[0] + timedelta(days=40))
        return [*seen, redurable.now()]

    start = datetime(2031, 5, 1, 12, tzinfo=UTC)
    with quick():
        run = testing.run(main, now=start)
    days = [(seen - start).total_seconds() / DAY for seen in run.result]
    assert days == pytest.approx([0, 30, 30, 40], abs=1e-4)
    assert run.elapsed == pytest.approx(40 * DAY, abs=1)
    assert run.attempts == 3, "one, and one after each of the waits that are parked"
    assert sum(isinstance(entry, TimerFired) for entry in run.journal) == 3


def test_retries_of_a_step_pass_at_once() -> None:
    bank = Mock(side_effect=[ConnectionError(), ConnectionError(), 7])

    async def main(payload: int) -> int:
        return await fetch(payload)

    with quick():
        run = testing.run(main, 1, stub={fetch: bank})
    assert run.result == 7
    assert [(s.name, s.tries, s.result) for s in run.steps] == [("fetch", 3, 7)]
    assert run.elapsed == pytest.approx(2 * 3600, abs=1)
    bank.assert_called_with(1)


def test_retries_of_the_handler_pass_at_once() -> None:
    @handler(retry=HOURLY)
    async def main(payload: None) -> int:
        if current().attempt < 3:
            raise ValueError("not yet")
        return current().attempt

    run = testing.run(main)
    assert (run.result, run.attempts) == (3, 3)
    assert run.elapsed == pytest.approx(2 * 3600, abs=1)
    assert sum(isinstance(entry, AttemptFailed) for entry in run.journal) == 2


def test_retry_later_sets_the_pause() -> None:
    async def main(payload: int) -> int:
        return await fetch(payload)

    run = testing.run(main, 5, stub={fetch: Mock(side_effect=[RetryLater(7 * DAY), 5])})
    assert run.result == 5
    assert run.elapsed == pytest.approx(7 * DAY, abs=1)


def test_a_steps_timeout_and_its_own_waits_pass_at_once() -> None:
    @step(timeout=600, retry=Retry(attempts=2, first=60, jitter=False))
    async def hangs() -> None:
        await asyncio.sleep(DAY)

    @step
    async def takes_its_time() -> str:
        await asyncio.sleep(DAY)
        return "done"

    async def main(payload: None) -> str:
        with pytest.raises(StepFailed) as caught:
            await hangs()
        assert caught.value.matches(TimeoutError)
        return await takes_its_time()

    with quick():
        run = testing.run(main)
    assert run.result == "done"
    assert run.elapsed == pytest.approx(600 + 60 + 600 + DAY, abs=1)


def test_an_attempts_timeout_passes_at_once() -> None:
    @handler(attempt_timeout=60, retry=Retry(attempts=2, first=0))
    async def main(payload: None) -> None:
        await asyncio.Event().wait()

    run = testing.run(main)
    assert run.status is Status.FAILED
    assert run.error is not None
    assert "TimeoutError" in run.error.type
    assert run.elapsed == pytest.approx(120, abs=1)


def test_a_delay_comes_before_the_first_attempt() -> None:
    async def main(payload: None) -> float:
        return redurable.now().timestamp()

    start = datetime(2031, 1, 1, tzinfo=UTC)
    run = testing.run(main, delay=timedelta(days=2), now=start)
    assert run.result == start.timestamp() + 2 * DAY
    assert run.attempts == 1


def test_while_a_thread_works_time_passes_as_it_does() -> None:
    @step(timeout=60)
    def works() -> str:
        time.sleep(0.1)
        return "done"

    async def main(payload: None) -> str:
        return await works.aio()

    assert testing.run(main).result == "done", "its timeout has not passed meanwhile"


def test_while_a_socket_is_open_time_passes_as_it_does() -> None:
    @step(timeout=60)
    async def asks() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            return answer

    async def main(payload: None) -> bytes:
        return await asks()

    assert testing.run(main).result == b"hello\n"


# --- handlers of every kind


def test_a_plain_handler_with_threads_of_its_own() -> None:
    def main(payload: int) -> list[int]:
        first = plain(payload)
        sync.sleep(DAY)
        return [first, *sync.gather(lambda: plain(10), lambda: (sync.sleep(DAY), plain(20))[1])]

    with quick():
        run = testing.run(main, 1)
    assert run.result == [2, 11, 21]
    assert run.elapsed == pytest.approx(2 * DAY, abs=1)


def test_branches_and_races() -> None:
    async def late(n: int) -> int:
        await sleep(n * DAY)
        return await fetch(n)

    async def main(payload: None) -> Any:
        both = await asyncio.gather(late(1), late(2), plain.aio(3))
        tasks = [asyncio.create_task(late(n)) for n in (3, 4)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return both, [task.result() for task in done]

    run = testing.run(main)
    assert run.result == [[1, 2, 4], [3]]
    assert run.elapsed == pytest.approx(5 * DAY, abs=1)


@dataclass
class Order:
    card: str
    cents: int = 0


@dataclass
class Receipt:
    order: Order
    no: int


def test_payload_and_result_are_typed_as_a_worker_types_them() -> None:
    async def main(payload: Order) -> Receipt:
        assert isinstance(payload, Order)
        return Receipt(payload, payload.cents)

    assert testing.run(main, {"card": "4", "cents": 9}).result == Receipt(Order("4", 9), 9)
    wrong = testing.run(main, {"card": 4})
    assert wrong.status is Status.FAILED
    assert wrong.error is not None
    assert wrong.error.code == "TYPE_MISMATCH"
    with pytest.raises(SerialisationError):
        testing.run(main, {"card": object()})


closed: list[str] = []


async def pool() -> AsyncIterator[str]:
    yield "real"
    closed.append("real")


def test_what_a_process_provides_is_made_or_given() -> None:
    closed.clear()

    async def main(payload: None, pool: Annotated[str, Depends(pool)]) -> str:
        return pool

    assert testing.run(main).result == "real"
    assert closed == ["real"]
    assert testing.run(main, depends={pool: "fake"}).result == "fake"
    assert closed == ["real"]


def test_the_intent_is_known_by_the_same_id_on_every_run() -> None:
    async def main(payload: int) -> Any:
        me = current()
        return [me.id, me.labels, me.deadline is not None, redurable.random(), str(redurable.uuid4())]

    one, two = (testing.run(main, 1, labels={"a": "b"}, deadline=60) for _ in range(2))
    assert one.result == two.result
    assert one.result[:3] == [one.id, {"a": "b"}, True]
    assert testing.run(main, 2).id != one.id


def test_it_runs_in_async_code_too() -> None:
    async def main(payload: int) -> int:
        await sleep(DAY)
        return await fetch(payload)

    async def test() -> int:
        return testing.run(main, 3).result

    assert asyncio.run(test()) == 3


def test_the_clock_of_everyone_else_goes_on() -> None:
    from redurable.clock import now_ms

    async def main(payload: None) -> bool:
        await sleep(365 * DAY)
        return True

    before = now_ms()
    testing.run(main)
    assert before <= now_ms() < before + 60_000


# --- stubs


def test_stubs_are_values_functions_and_exceptions_by_step_or_name() -> None:
    async def later(n: int) -> int:
        await asyncio.sleep(DAY)
        return n * 100

    async def main(payload: None) -> Any:
        bad = None
        try:
            await redurable.run("inline", fetch, 1)
        except StepFailed as failure:
            bad = failure.type
        return [await fetch(1), await plain.aio(2), bad]

    run = testing.run(main, stub={fetch: 5, "plain": later, "inline": TerminalError("never")})
    assert run.result == [5, 200, "redurable.errors.TerminalError"]
    assert [(s.name, s.error.message) for s in run.steps if s.error] == [("inline", "never")]
    assert testing.run(main, stub={fetch: lambda n: n + 1, plain: 0, "inline": ValueError}).result[0] == 2


def test_stubs_stand_in_for_steps_of_plain_handlers_and_for_undo_work() -> None:
    undone: list[int] = []

    def undo(n: int) -> None:
        raise AssertionError("the real one")

    def main(payload: int) -> None:
        compensate(undo, plain(payload))
        raise TerminalError("over")

    run = testing.run(main, 1, stub={plain: 41, undo: undone.append})
    assert run.status is Status.FAILED
    assert undone == [41]


def test_a_stub_is_held_to_the_annotation_of_its_step() -> None:
    async def main(payload: int) -> int:
        return await fetch(payload)

    run = testing.run(main, 1, stub={fetch: "text"})
    assert run.error is not None
    assert "step 'fetch'" in run.error.message


# --- crashes


def test_after_a_crash_the_steps_that_ended_do_not_run_again() -> None:
    ran: list[str] = []

    @step
    async def one() -> str:
        ran.append("one")
        return "1"

    @step
    async def two() -> str:
        ran.append("two")
        return "2"

    async def main(payload: None) -> str:
        return await one() + await two()

    run = testing.run(main, crash_after="one")
    assert run.result == "12"
    assert ran == ["one", "two"]
    assert run.attempts == 2
    assert [type(entry) for entry in run.journal] == [StepDone, Claimed, StepDone]

    ran.clear()
    assert testing.run(main, crash_after=0).result == "12"
    assert ran == ["one", "one", "two"], "nothing was recorded"

    ran.clear()
    run = testing.run(main, crash_after=[1, "two"])
    assert (run.result, run.attempts) == ("12", 3)
    assert ran == ["one", "two"]


def test_a_checkpoint_outlives_a_crash() -> None:
    begun: list[int] = []

    @step
    async def long() -> int:
        page = await last_checkpoint(of=int, default=0)
        begun.append(page)
        if page == 0:
            await checkpoint(7)
            raise ConnectionError
        return page

    async def main(payload: None) -> int:
        return await long()

    assert testing.run(main).result == 7
    assert begun == [0, 7]


def test_a_crash_that_never_comes_is_an_error() -> None:
    async def main(payload: int) -> int:
        return await fetch(payload)

    for place in (9, "fech"):
        with pytest.raises(UsageError) as caught:
            testing.run(main, 1, crash_after=place)
        assert caught.value.code == "NO_SUCH_ENTRY"
        assert str(place) in caught.value.message
    with pytest.raises(ConfigurationError):
        testing.run(main, 1, crash_after=-1)


# --- ends


def test_a_failure_tells_why() -> None:
    async def main(payload: None) -> None:
        raise TerminalError("no such card")

    run = testing.run(main)
    assert run.status == "FAILED"
    assert run.error is not None
    assert run.error.message == "no such card"
    with pytest.raises(IntentFailed, match="no such card") as caught:
        _ = run.result
    assert caught.value.status == "FAILED"


def test_a_cancel_meets_the_handler_where_it_waits_and_undoes() -> None:
    undone: list[int] = []

    async def main(payload: None) -> None:
        compensate(undone.append, await fetch(3))
        await sleep(DAY)

    run = testing.run(main, cancel_after=3600)
    assert run.status is Status.CANCELED
    assert undone == [3]
    assert run.elapsed == pytest.approx(3600, abs=1)
    assert testing.run(main, cancel_after=2 * DAY).status is Status.COMPLETED


def test_a_cancel_meets_a_handler_that_works() -> None:
    @step(on_cancel="interrupt")
    async def endless() -> None:
        await asyncio.sleep(365 * DAY)

    async def main(payload: None) -> None:
        await endless()

    run = testing.run(main, cancel_after=3600)
    assert (run.status, run.steps) == (Status.CANCELED, [])


def test_a_deadline_ends_it() -> None:
    @handler(timeout=3600)
    async def main(payload: None) -> None:
        await sleep(DAY)

    assert testing.run(main).status is Status.TIMED_OUT
    assert testing.run(main, deadline=2 * DAY).status is Status.COMPLETED
    never = testing.run(main, deadline=60, delay=120)
    assert (never.status, never.attempts, never.elapsed) == (Status.TIMED_OUT, 0, 60)


def test_what_waits_for_ever_is_named() -> None:
    async def main(payload: None) -> None:
        await asyncio.Event().wait()

    with pytest.raises(UsageError) as caught:
        testing.run(main)
    assert caught.value.code == "STUCK"
    assert "test_run.py:" in caught.value.message


def test_a_handler_that_does_not_repeat_itself_is_told_what_it_asked_for_instead() -> None:
    names = iter(["a", "b"])

    async def main(payload: None) -> None:
        await redurable.run(next(names), lambda: 1)

    with pytest.raises(UsageError, match=r"main is held: JOURNAL_MISMATCH: .* is a#1, .* b#1") as told:
        testing.run(main, crash_after=1)
    assert told.value.code == "STUCK"


def test_what_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redurable.testing.story.MOST_ATTEMPTS", 20)

    async def main(payload: None) -> None:
        while True:
            await sleep(DAY)

    with pytest.raises(UsageError) as caught:
        testing.run(main)
    assert caught.value.code == "ENDLESS"


@pytest.mark.parametrize(
    "options",
    [{"delay": -1}, {"cancel_after": "soon"}, {"deadline": datetime(2031, 1, 1)}, {"now": datetime(2031, 1, 1)},
     {"labels": {"a": 1}}, {"stub": {3: 4}}, {"crash_after": 1.5}, {"crash_atfer": 1}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_wrong_options_are_refused(options: Any) -> None:
    async def main(payload: None) -> None: ...

    with pytest.raises(ConfigurationError):
        testing.run(main, **options)


def test_only_a_handler_is_run() -> None:
    with pytest.raises(ConfigurationError):
        testing.run(fetch, 1)


class TestState:
    @staticmethod
    async def shop(payload: str) -> list[str]:
        cart = await state.get("cart", of=list[str], default=[])
        await state.set("cart", [*cart, payload])
        await sleep(3600)
        await state.set("paid", True)
        await fetch(1)
        return await state.keys()

    def test_a_session_has_a_state_before_and_after(self) -> None:
        run = testing.run(self.shop, "tea", key="customer-7", state={"cart": ["milk"]})
        assert run.result == ["cart", "paid"]
        assert run.state == {"cart": ["milk", "tea"], "paid": True}

    def test_who_fails_discards_what_came_after_its_last_park(self) -> None:
        run = testing.run(self.shop, "tea", key="k", stub={fetch: TerminalError("no oven")})
        assert run.status == "FAILED"
        assert run.state == {"cart": ["tea"]}

    def test_a_crash_anywhere_changes_nothing(self) -> None:
        assert testing.replay_check(self.shop, "tea", key="k").state == {"cart": ["tea"], "paid": True}

    def test_a_shared_handler_only_reads(self) -> None:
        run = testing.run(handler(shared=True)(self.shop), "tea", key="k")
        assert run.error is not None
        assert run.error.code == "STATE_READ_ONLY"

    def test_what_cannot_be_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="give its key="):
            testing.run(self.shop, "tea", state={"cart": []})
        with pytest.raises(ConfigurationError, match="key of a session"):
            testing.run(self.shop, "tea", key="")
        with pytest.raises(SerialisationError, match="cart"):
            testing.run(self.shop, "tea", key="k", state={"cart": object()})
        assert testing.run(self.shop, "tea").error.code == "NO_SESSION"  # type: ignore[union-attr]  # it failed
