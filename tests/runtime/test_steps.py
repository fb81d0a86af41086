"""Steps: tried again, failed for good, nested, named by the caller; the same live and on replay."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from redurable import (
    Retry,
    RetryLater,
    Status,
    StepFailed,
    TerminalError,
    UsageError,
    current,
    idempotency_key,
    run,
    step,
)
from redurable.model import Reason, StepDone, StepFailedEntry, StepTried
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio

SOON = Retry(attempts=4, first=0.01, factor=1, jitter=False)


async def test_a_step_that_raises_is_tried_again_and_every_try_is_in_the_journal(w: World) -> None:
    tries: list[str] = []

    @step(retry=SOON)
    async def flaky() -> str:
        tries.append(idempotency_key())
        if len(tries) < 3:
            raise ConnectionError(f"no {len(tries)}")
        return "up"

    async def main(payload: None) -> str:
        found = await flaky()
        again(1)
        return found

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "up"
    tried = await w.entries(intent, StepTried)
    assert [(e.tries, e.error.type, e.error.message) for e in tried] == [
        (1, "builtins.ConnectionError", "no 1"),
        (2, "builtins.ConnectionError", "no 2"),
    ]
    assert len(tries) == 3
    assert len(set(tries)) == 1  # what an API is given is the same on every try


async def test_a_long_backoff_waits_without_a_worker_and_goes_on_counting(w: World) -> None:
    tries: list[int] = []

    @step(retry=Retry(attempts=3, first=1.3, factor=1, jitter=False))
    async def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return len(tries)

    async def main(payload: None) -> int:
        return await flaky()

    await w.serve(main)
    intent = await w.send()
    info = await w.until(intent, Status.WAITING)
    assert info.reason is Reason.RETRY
    assert info.wake is not None
    assert await w.result(intent) == 2
    assert (await w.get(intent)).attempt == 2
    first, second = (await w.entries(intent, StepTried))[0], (await w.entries(intent, StepDone))[0]
    assert second.at >= first.due


async def test_a_backoff_outlasts_a_crash(w: World) -> None:
    begun: list[float] = []
    loop = asyncio.get_running_loop()

    @step(retry=Retry(attempts=3, first=0.95, factor=1, jitter=False))
    async def flaky() -> int:
        begun.append(loop.time())
        if len(begun) < 2:
            raise ConnectionError
        return 1

    async def main(payload: None) -> int:
        return await flaky()

    await w.serve(main)
    intent = await w.send()
    while not await w.entries(intent, StepTried):
        await asyncio.sleep(0.01)
    assert await w.lose(intent) == "OK"
    assert await w.result(intent) == 1
    assert begun[1] - begun[0] >= 0.94


async def test_tries_of_earlier_attempts_count(w: World) -> None:
    tries: list[int] = []

    @step(retry=Retry(attempts=3, first=0.3, factor=1, jitter=False))
    async def broken() -> None:
        tries.append(1)
        raise ConnectionError("never")

    async def main(payload: None) -> None:
        await broken()

    await w.serve(main)
    intent = await w.send()
    while len(await w.entries(intent, StepTried)) < 1:
        await asyncio.sleep(0.005)
    await w.lose(intent)
    failure = await w.failure(intent)
    assert [e.tries for e in await w.entries(intent, StepTried)] == [1, 2]
    assert failure.error.type == "redurable.errors.StepFailed"
    assert (await w.entries(intent, StepFailedEntry))[0].tries == 3


class Trouble(ValueError):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = "TROUBLE"
        self.details = {"line": 7}


async def test_a_failed_step_raises_the_same_error_live_and_on_replay(w: World) -> None:
    seen: list[StepFailed] = []

    @step(retry=Retry(attempts=1))
    async def broken() -> None:
        raise Trouble("spilled")

    async def main(payload: None) -> str:
        try:
            await broken()
        except StepFailed as error:
            seen.append(error)
        again(1)
        return "went on"

    await w.serve(main)
    assert await w.call() == "went on"
    live, replayed = seen

    def looks(e: StepFailed) -> Any:
        return str(e), e.args, e.step, e.type, e.reason, e.code, e.details, e.bases, e.traceback, e.tries

    assert looks(live) == looks(replayed)
    assert live.type.endswith("test_steps.Trouble")
    assert (live.code, live.details, live.reason, live.tries) == ("TROUBLE", {"line": 7}, "spilled", 1)
    assert "spilled" in live.traceback
    for error in seen:
        assert error.matches(Trouble)
        assert error.matches(ValueError)
        assert not error.matches(KeyError)
    assert isinstance(live.__cause__, Trouble)
    assert replayed.__cause__ is None


@pytest.mark.parametrize(
    ("raised", "retry", "tries"),
    [
        (TerminalError("stop"), Retry(attempts=5, first=0), 1),
        (KeyError("x"), Retry(attempts=5, first=0, on=(OSError,)), 1),
        (ConnectionError("x"), Retry(attempts=3, first=0, on=(OSError,)), 3),
        (ConnectionError("x"), Retry(attempts=5, first=0, never=(ConnectionError,)), 1),
        (RetryLater(0.01), Retry(attempts=3, first=30), 3),
    ],
    ids=["terminal", "not in on", "in on", "never", "retry later"],
)
async def test_the_policy_decides_which_errors_are_tried_again(
    w: World, raised: Exception, retry: Retry, tries: int
) -> None:
    ran: list[int] = []

    @step(retry=retry)
    async def broken() -> None:
        ran.append(1)
        raise raised

    async def main(payload: None) -> int:
        with pytest.raises(StepFailed) as caught:
            await broken()
        return caught.value.tries

    await w.serve(main)
    assert await w.call() == tries
    assert len(ran) == tries


async def test_retry_later_sets_the_delay(w: World) -> None:
    ran: list[int] = []

    @step(retry=Retry(attempts=3, first=0, jitter=False))
    async def limited() -> int:
        ran.append(1)
        if len(ran) == 1:
            raise RetryLater(timedelta(seconds=0.4))
        return 1

    async def main(payload: None) -> int:
        return await limited()

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == 1
    tried = (await w.entries(intent, StepTried))[0]
    assert 380 <= tried.due - tried.at <= 420


async def test_a_try_that_takes_too_long_fails_with_timeout_error(w: World) -> None:
    ran: list[int] = []

    @step(timeout=0.05, retry=SOON)
    async def slow() -> str:
        ran.append(1)
        await asyncio.sleep(30 if len(ran) < 3 else 0)
        return "done"

    async def main(payload: None) -> str:
        return await slow()

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "done"
    assert [e.error.type for e in await w.entries(intent, StepTried)] == ["builtins.TimeoutError"] * 2


async def test_a_tool_of_three_calls_recovers_to_the_third(w: World) -> None:
    ran: list[str] = []

    @step
    async def fetch(page: int) -> str:
        ran.append(f"fetch{page}")
        if page == 3 and ran.count("fetch3") == 1:
            await w.lose(intent)
        return f"page {page}"

    @step
    async def tool() -> list[str]:
        ran.append("tool")
        return [await fetch(1), await fetch(2), await fetch(3)]

    async def main(payload: None) -> list[str]:
        found = await tool()
        again(3)
        return found

    intent = await w.send()
    await w.serve(main)
    assert await w.result(intent) == ["page 1", "page 2", "page 3"]
    assert ran == ["tool", "fetch1", "fetch2", "fetch3", "tool", "fetch3"]
    assert {e.scope for e in await w.entries(intent, StepDone) if e.name == "fetch"} == {"tool#1>>"}


async def test_a_step_tried_again_reuses_what_was_recorded_inside_it(w: World) -> None:
    ran: list[str] = []

    @step
    async def part(n: int) -> int:
        ran.append(f"part{n}")
        return n

    @step(retry=SOON)
    async def whole() -> int:
        total = sum(await asyncio.gather(part(1), part(2)))
        ran.append("whole")
        if ran.count("whole") < 3:
            raise ConnectionError
        return total + await part(3)

    async def main(payload: None) -> int:
        return await whole()

    await w.serve(main)
    assert await w.call() == 6
    assert sorted(ran) == ["part1", "part2", "part3", "whole", "whole", "whole"]


async def test_the_next_try_of_a_step_tries_again_what_failed_inside_it(w: World) -> None:
    ran: list[str] = []

    @step(retry=Retry(attempts=2, first=0))
    async def part() -> None:
        ran.append("part")
        raise ConnectionError

    @step(retry=Retry(attempts=3, first=0))
    async def whole() -> None:
        ran.append("whole")
        await part()

    async def main(payload: None) -> str:
        with pytest.raises(StepFailed) as caught:
            await whole()
        return caught.value.type

    await w.serve(main)
    assert await w.call() == "redurable.errors.StepFailed"
    assert ran == ["whole", "part", "part"] * 3


async def test_calls_named_by_their_caller_are_found_whatever_their_order(w: World) -> None:
    ran: list[str] = []

    @step(id=lambda call_id, **_: call_id)
    async def tool(call_id: str) -> str:
        ran.append(call_id)
        return call_id.upper()

    orders = [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]]

    async def main(payload: None) -> str:
        found = [await tool(name) for name in orders[current().attempt - 1]]
        again(2)
        return "".join(sorted(found))

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "ABC"
    assert ran == ["a", "b", "c"]
    assert [e.n for e in await w.entries(intent, StepDone)] == ["a", "b", "c"]
    assert (await w.get(intent)).attempt == 3
    assert not w.seen("intent.held")


async def test_a_call_named_by_its_caller_that_is_not_made_any_more_is_found(w: World) -> None:
    @step(id=lambda name: name)
    async def tool(name: str) -> str:
        return name

    async def main(payload: None) -> None:
        for name in ("a", "b", "c") if current().attempt == 1 else ("a", "c"):
            await tool(name)
        again(1)

    await w.serve(main)
    assert "tool#b" in await w.held(await w.send())


class Point(msgspec.Struct):
    x: int
    y: tuple[int, ...]


@dataclass
class Person:
    name: str
    born: datetime


@step
async def a_tuple() -> tuple[int, str]:
    return (1, "a")


@step
async def a_moment() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


@step
async def a_struct() -> Point:
    return Point(1, (2, 3))


@step
async def a_person() -> Person:
    return Person("Ada", datetime(1815, 12, 10, tzinfo=UTC))


@step
async def people() -> dict[str, list[Person]]:
    return {"x": [await a_person()]}


@step
async def a_set() -> set[int]:
    return {3, 1}


@step
async def loose():  # type: ignore[no-untyped-def]  # without an annotation, on purpose
    return {"a": (1, 2), "b": b"\x00"}


@step
async def some_bytes() -> bytes:
    return b"\xff" * 100


VALUES = [a_tuple, a_moment, a_struct, a_person, people, a_set, loose, some_bytes]


@pytest.mark.parametrize("source", VALUES, ids=lambda f: f.__name__)
async def test_a_value_is_the_same_live_and_on_replay(w: World, source: Any) -> None:
    seen: list[Any] = []

    async def main(payload: None) -> None:
        seen.append(await source())
        seen.append(await run("again", source))
        again(1)

    await w.serve(main)
    await w.call()
    first, *others = seen
    assert len(others) == 3
    for other in others:
        assert other == first
        assert repr(other) == repr(first)
        assert type(other) is type(first)


class Odd:
    pass


@step(retry=SOON)
async def unstorable() -> object:
    return Odd()


@step(retry=SOON)
async def wrongly_annotated() -> int:
    return "seven"  # type: ignore[return-value]  # on purpose


@step(retry=SOON)
async def huge() -> bytes:
    return b"x" * (2 << 20)


@pytest.mark.parametrize(
    ("source", "words"),
    [(unstorable, ["unstorable", "Odd"]), (wrongly_annotated, ["wrongly_annotated", "int"]), (huge, ["huge", "limit"])],
    ids=["unstorable", "not as annotated", "too large"],
)
async def test_a_result_that_cannot_come_back_is_refused_the_first_time(
    w: World, source: Any, words: list[str]
) -> None:
    async def main(payload: None) -> None:
        await source()

    await w.serve(main)
    intent = await w.send()
    failure = await w.failure(intent)
    for word in words:
        assert re.search(rf"\b{word}\b", failure.error.message), failure.error.message
    entry = (await w.entries(intent, StepFailedEntry))[0]
    assert entry.tries == 1  # another try would return the same
    assert (await w.get(intent)).attempt == 1


async def test_a_step_outside_any_worker_is_an_ordinary_call() -> None:
    @step
    async def double(n: int) -> int:
        return 2 * n

    @step
    def halve(n: int) -> int:
        return n // 2

    assert await double(4) == 8
    assert halve(4) == 2
    assert await halve.aio(8) == 4
    assert await run("d", double, 5) == 10


async def test_run_takes_whatever_gives_a_coroutine(w: World) -> None:
    class Adder:
        def __init__(self, base: int) -> None:
            self.base = base

        async def __call__(self, n: int) -> int:
            return self.base + n

    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    async def both() -> list[int]:
        return [await run("add", Adder(10), 1), await run("double", lambda: double(4))]

    async def main(payload: None) -> list[int]:
        found = await both()
        again(1)
        return found

    assert await both() == [11, 8]  # outside any worker
    await w.serve(main)
    assert await w.call() == [11, 8]


async def test_an_idempotency_key_is_a_steps_own_and_fit_for_a_header(w: World) -> None:
    keys: dict[str, list[str]] = {}

    def keep(what: str) -> None:
        keys.setdefault(what, []).append(idempotency_key())

    async def inner(what: str) -> None:
        keep(what)

    @step(name="bezahlen für alle, die es wünschen " * 9)
    async def outer(what: str) -> None:
        keep(what)
        await asyncio.gather(run("inner", inner, f"{what} 1"), run("inner", inner, f"{what} 2"))
        keep(what)
        if len(keys[what]) == 2:
            await w.lose(intent)

    async def main(payload: None) -> str:
        await outer("a")
        await outer("b")
        with pytest.raises(UsageError) as refused:
            idempotency_key()
        return refused.value.message

    intent = await w.send()
    await w.serve(main)
    assert await w.result(intent) == "idempotency_key() names a step; it was called outside of one"
    assert {what: len(tries) for what, tries in keys.items()} == {
        "a": 4,
        "a 1": 1,
        "a 2": 1,
        "b": 4,
        "b 1": 1,
        "b 2": 1,
    }
    assert [len(set(tries)) for tries in keys.values()] == [1] * 6
    assert len({key for tries in keys.values() for key in tries}) == 6
    assert all(re.fullmatch(rf"{intent}-[0-9a-f]{{16}}", key) for tries in keys.values() for key in tries)


async def test_an_idempotency_key_outside_any_worker_is_a_new_one() -> None:
    @step
    async def paid() -> str:
        return idempotency_key()

    assert await paid() != await paid()


async def test_what_is_inside_a_call_named_by_its_caller_is_found_again(w: World) -> None:
    ran: list[str] = []

    @step
    async def inner() -> int:
        ran.append("inner")
        return 1

    @step(id=lambda call: call)
    async def tool(call: str) -> int:
        ran.append(call)
        found = await inner()
        if ran.count(call) == 1:
            await w.lose(intent)
        return found

    async def main(payload: None) -> int:
        return sum(await asyncio.gather(tool("x"), tool("y")))

    intent = await w.send()
    await w.serve(main)
    assert await w.result(intent) == 2
    assert ran.count("inner") == 2


async def test_methods_can_be_steps(w: World) -> None:
    class Service:
        base = 10

        @step
        async def add(self, n: int) -> int:
            return self.base + n

        @step
        def take(self, n: int) -> int:
            return self.base - n

    service = Service()

    async def main(payload: None) -> list[int]:
        found = [await service.add(1), await service.take.aio(1)]
        again(1)
        return found

    assert service.take(2) == 8
    await w.serve(main)
    assert await w.call() == [11, 9]


async def test_the_id_of_a_sent_intent_is_a_result_like_any_other(w: World) -> None:
    @step
    async def sending() -> str:
        return await w.client.send("elsewhere", 1)

    async def main(payload: None) -> str:
        return await sending()

    await w.serve(main)
    assert len(await w.call()) == 36
