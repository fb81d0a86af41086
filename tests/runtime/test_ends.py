"""How attempts end: handlers tried again, exhausted, redriven; time limits; payloads; code that changed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest

from redurable import (
    IdempotencyConflict,
    Retry,
    RetryLater,
    SerialisationError,
    Status,
    StepFailed,
    TerminalError,
    UsageError,
    current,
    now,
    random,
    sleep,
    step,
    uuid4,
)
from redurable.model import AttemptFailed, Claimed, Reason, Reopened, StepDone
from redurable.runtime.handlers import HandlerSpec
from tests.runtime.world import AT_ONCE, QUEUE, World, again

pytestmark = pytest.mark.anyio


async def test_a_handler_that_raises_is_tried_again_with_its_steps_kept(w: World) -> None:
    ran: list[str] = []

    @step
    async def work(what: str) -> str:
        ran.append(what)
        return what

    async def main(payload: None) -> str:
        found = await work("a")
        again(2)
        return found + await work("b")

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "ab"
    assert ran == ["a", "b"]
    failures = await w.entries(intent, AttemptFailed)
    assert [e.error.type.rsplit(".", 1)[-1] for e in failures] == ["Again", "Again"]
    assert [e.attempt for e in await w.entries(intent, Claimed)] == ["2", "3"]


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
async def test_what_is_no_exception_ends_an_attempt_and_nothing_else(w: World, raised: BaseException) -> None:
    async def main(payload: None) -> str:
        if current().attempt == 1:
            raise raised
        return "up"

    worker = await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "up"
    assert not worker.stopping.is_set()
    assert len(await w.entries(intent, AttemptFailed)) == 1


async def test_a_client_in_a_handler_is_refused_outside_of_a_step(w: World) -> None:
    @step
    async def sending() -> str:
        return str(await w.client.send("elsewhere", 1))

    async def main(payload: None) -> str:
        with pytest.raises(UsageError) as caught:
            await w.client.send("elsewhere", 1)
        await sending()
        return caught.value.code

    await w.serve(main)
    assert await w.call() == "USE_DURABLE_SEND"
    assert len(await w.client.list(queue="elsewhere")) == 1


async def test_the_backoff_of_a_handler_waits_without_a_worker(w: World) -> None:
    async def main(payload: None) -> int:
        if current().attempt == 1:
            raise RetryLater(0.7)
        return current().attempt

    await w.serve(main, retry=Retry(attempts=2, first=0))
    intent = await w.send()
    info = await w.until(intent, Status.WAITING)
    assert info.reason is Reason.RETRY
    assert await w.result(intent) == 2
    failed, claimed = (await w.entries(intent, AttemptFailed))[0], (await w.entries(intent, Claimed))[0]
    assert 680 <= failed.due - failed.at <= 720
    assert claimed.at - failed.at >= 680


@pytest.mark.parametrize(
    ("error", "attempts"), [(ValueError("x"), 3), (TerminalError("x"), 1), (KeyError("x"), 1)], ids=repr
)
async def test_a_handler_fails_when_its_policy_gives_up(w: World, error: Exception, attempts: int) -> None:
    async def main(payload: None) -> None:
        raise error

    await w.serve(main, retry=Retry(attempts=3, first=0, never=(KeyError,)))
    intent = await w.send()
    failure = await w.failure(intent)
    assert failure.status == "FAILED"
    assert failure.error.type.endswith(type(error).__name__)
    info = await w.get(intent)
    assert info.attempt == attempts
    assert info.error is not None


async def test_a_failed_step_ends_the_handler_without_handler_retries(w: World) -> None:
    ran: list[int] = []

    @step(retry=Retry(attempts=2, first=0))
    async def broken() -> None:
        ran.append(1)
        raise ConnectionError("down")

    async def main(payload: None) -> None:
        await broken()

    await w.serve(main)
    intent = await w.send()
    assert (await w.failure(intent)).error.type == "redurable.errors.StepFailed"
    assert (await w.get(intent)).attempt == 1
    assert len(ran) == 2


@pytest.mark.parametrize("in_branch", [False, True], ids=["straight", "in branches"])
async def test_an_operators_retry_continues_at_the_faulty_step(w: World, in_branch: bool) -> None:
    ran: list[str] = []
    broken = [True]

    @step(retry=Retry(attempts=2, first=0))
    async def work(what: str) -> str:
        ran.append(what)
        if what == "bad" and broken:
            raise ConnectionError("down")
        return what

    async def branch(what: str) -> str:
        return await work(what)

    async def main(payload: None) -> str:
        found = await work("a")
        if in_branch:
            found += "".join(await asyncio.gather(branch("b"), branch("bad"), branch("c")))
        else:
            found += await work("b") + await work("bad") + await work("c")
        return found

    await w.serve(main)
    intent = await w.send()
    assert (await w.failure(intent)).status == "FAILED"
    broken.clear()
    await w.client.retry(intent)
    assert await w.result(intent) == "abbadc"
    assert ran.count("a") == ran.count("b") == 1
    assert ran.count("bad") == 3
    assert ran.count("c") == 1
    assert len(await w.entries(intent, Reopened)) == 1


async def test_an_operators_retry_leaves_a_failure_that_the_handler_dealt_with(w: World) -> None:
    ran: list[str] = []
    broken = ["first", "last"]

    @step(retry=Retry(attempts=1))
    async def work(what: str) -> str:
        ran.append(what)
        if what in broken:
            raise ConnectionError("down")
        return what

    async def main(payload: None) -> str:
        try:
            found = await work("first")
        except StepFailed:
            found = await work("instead")
        return found + await work("last")

    await w.serve(main)
    intent = await w.send()
    assert (await w.failure(intent)).status == "FAILED"
    broken.clear()
    await w.client.retry(intent)
    assert await w.result(intent) == "insteadlast"
    assert ran == ["first", "instead", "last", "last"]


async def test_an_operators_retry_gives_the_handler_all_its_attempts_again(w: World) -> None:
    ran: list[int] = []

    async def main(payload: None) -> int:
        ran.append(1)
        if len(ran) < 5:
            raise ConnectionError
        return len(ran)

    await w.serve(main, retry=Retry(attempts=3, first=0))
    intent = await w.send()
    await w.failure(intent)
    assert len(ran) == 3
    await w.client.retry(intent)
    assert await w.result(intent) == 5


async def test_a_canceled_intent_can_be_taken_up_again(w: World) -> None:
    ran: list[str] = []

    @step
    async def work(what: str) -> str:
        ran.append(what)
        return what

    async def main(payload: None) -> str:
        found = await work("a")
        await sleep(1.5)
        return found + await work("b")

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    await w.client.retry(intent)
    assert await w.result(intent) == "ab"
    assert ran == ["a", "b"]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_an_attempt_that_takes_too_long_fails(w: World, sync: bool) -> None:
    begun: list[int] = []

    async def main(payload: None) -> int:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(60)
        return len(begun)

    def main_sync(payload: None) -> int:
        begun.append(1)
        if len(begun) == 1:
            time.sleep(0.6)
        return len(begun)

    await w.serve(main_sync if sync else main, attempt_timeout=0.2)
    intent = await w.send()
    ran = await w.result(intent)
    assert ran >= 2  # a loaded machine may keep a quick one from its end for as long
    assert [e.error.type for e in await w.entries(intent, AttemptFailed)] == ["builtins.TimeoutError"] * (ran - 1)


async def test_a_handler_with_a_time_limit_still_waits_without_a_worker(w: World) -> None:
    async def main(payload: None) -> int:
        await sleep(1.2)
        return current().attempt

    await w.serve(main, attempt_timeout=1)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    assert await w.result(intent) == 2
    assert await w.entries(intent, AttemptFailed) == []


async def test_time_and_chance_are_the_same_on_every_replay(w: World) -> None:
    seen: list[Any] = []

    @step
    async def pause() -> None:
        await asyncio.sleep(0.02)

    async def branch() -> Any:
        return random(), uuid4()

    async def main(payload: None) -> None:
        first = now(), random(), uuid4(), random()
        await pause()
        second = now(), random(), uuid4(), *(await asyncio.gather(branch(), branch()))
        seen.append((first, second))
        again(3)

    await w.serve(main)
    await w.call()
    assert all(s == seen[0] for s in seen)
    assert len(seen) == 4
    (at, r1, u1, r2), (later, r3, u2, (r4, u3), (r5, u4)) = seen[0]
    assert later > at
    assert len({r1, r2, r3, r4, r5}) == 5
    assert len({u1, u2, u3, u4}) == 4


# --- payloads --------------------------------------------------------------------------------------------------------


@dataclass
class Order:
    item: str
    count: int = 1


async def test_payloads_come_as_annotated(w: World) -> None:
    async def main(order: Order) -> Order:
        assert isinstance(order, Order)
        return Order(order.item, order.count + 1)

    await w.serve(main)
    assert await w.result(await w.send({"item": "x", "count": 2}), of=Order) == Order("x", 3)


async def test_payloads_come_by_keyword(w: World) -> None:
    async def main(item: str, count: int = 7) -> str:
        return item * count

    await w.serve(main)
    assert await w.call({"item": "x", "count": 2}) == "xx"
    assert await w.call({"item": "y"}) == "yyyyyyy"


@pytest.mark.parametrize(
    ("payload", "word"),
    [({"item": "x", "count": "many"}, "count"), ({"count": 1}, "item"), ({"item": "x", "other": 1}, "other"), (5, "")],
    ids=["wrong type", "missing", "unknown", "no fields"],
)
async def test_a_payload_that_does_not_fit_fails_the_intent_at_once(w: World, payload: Any, word: str) -> None:
    ran: list[int] = []

    async def main(item: str, count: int = 7) -> None:
        ran.append(1)

    await w.serve(main)
    intent = await w.send(payload)
    failure = await w.failure(intent)
    assert failure.code == "TYPE_MISMATCH"
    assert "main" in failure.error.message
    assert word in failure.error.message
    assert (await w.get(intent)).attempt == 1
    assert ran == []


async def test_a_payload_for_a_known_handler_is_refused_by_send(w: World) -> None:
    async def main(order: Order) -> None: ...

    await w.serve(main)
    with pytest.raises(SerialisationError, match="main"):
        await w.client.send(main, {"item": 5})
    assert await w.client.list(queue=QUEUE) == []


# --- sending ---------------------------------------------------------------------------------------------------------


async def test_fresh_intents_are_taken_by_priority(w: World) -> None:
    order: list[str] = []

    async def main(name: str) -> None:
        order.append(name)

    ids = [await w.send(p, priority=p) for p in ("low", "normal", "high")]
    await w.serve(main, concurrency=1)
    for intent in ids:
        await w.result(intent)
    assert order == ["high", "normal", "low"]


async def test_a_delayed_intent_starts_when_it_is_due(w: World) -> None:
    async def main(payload: None) -> float:
        return time.time()

    await w.serve(main)
    for _ in range(6):  # the best of a few, on a loaded machine
        before = time.time()
        intent = await w.send(delay=0.4)
        took = await w.result(intent) - before
        assert took >= 0.39
        if took <= 1.0:
            break
    assert took <= 1.0
    assert (await w.get(await w.send(delay=60))).status is Status.CREATED


async def test_an_idempotency_key_sends_once(w: World) -> None:
    ran: list[int] = []

    async def main(n: int) -> int:
        ran.append(n)
        return n

    await w.serve(main)
    first = await w.send(1, idempotency_key="k")
    assert await w.send(1, idempotency_key="k") == first
    with pytest.raises(IdempotencyConflict):
        await w.send(2, idempotency_key="k")
    assert await w.result(first) == 1
    assert await w.send(1, idempotency_key="k") == first
    assert ran == [1]


async def test_labels_are_seen_by_the_handler_and_found_by_list(w: World) -> None:
    async def main(payload: None) -> str:
        return current().labels["tenant"]

    await w.serve(main)
    mine = await w.send(labels={"tenant": "a"})
    other = await w.send(labels={"tenant": "b"})
    assert await w.result(mine) == "a"
    assert await w.result(other) == "b"
    assert [i.id for i in await w.client.list(label=("tenant", "a"))] == [mine]


# --- code that changed -----------------------------------------------------------------------------------------------


def _steps(*names: str, ret: Any = None) -> Any:
    made = {}
    for name in set(names):

        async def body() -> str:
            return "x"

        made[name] = step(name=name)(body)

    async def main(payload: None) -> str:
        for name in names:
            await made[name]()
        if ret is None:
            again(3)
        return "end"

    return main


@pytest.mark.parametrize(
    ("old", "new", "recorded", "asked"),
    [
        (("a", "b", "c"), ("a", "renamed", "c"), "b#1", "renamed#1"),
        (("a", "b", "c"), ("b", "a", "c"), "a#1", "b#1"),
        (("a", "b", "c"), ("a", "c"), "b#1", "c#1"),
        (("a", "b", "c"), ("a",), "b#1", "nothing"),
        (("a", "a", "b"), ("a", "b"), "a#2", "b#1"),
    ],
    ids=["renamed", "reordered", "removed", "returned early", "one fewer"],
)
async def test_code_that_asks_for_other_steps_is_told_both_sides(
    w: World, old: tuple[str, ...], new: tuple[str, ...], recorded: str, asked: str
) -> None:
    first = HandlerSpec(_steps(*old), QUEUE, "main", retry=Retry(attempts=2, first=0.4, jitter=False))
    worker = await w.serve_specs(first)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.stop(worker)
    second = HandlerSpec(_steps(*new, ret=1), QUEUE, "main", retry=Retry(attempts=2, first=0))
    worker = await w.serve_specs(second)
    held = await w.held(intent)
    assert held.startswith("JOURNAL_MISMATCH: ")
    assert f" {recorded}, " in held
    assert f" {asked}" in held
    told = await w.event("intent.held")
    assert (told["recorded"], told["asked"]) == (recorded, asked)
    failures = await w.entries(intent, AttemptFailed)
    assert len(failures) == 1, "what the first code raised"
    assert len(await w.entries(intent, StepDone)) == 3  # the journal is as it was
    await w.stop(worker)
    # the code that wrote the journal goes on with it
    third = HandlerSpec(_steps(*old, ret=1), QUEUE, "main", retry=AT_ONCE)
    await w.serve_specs(third)
    assert await w.result(intent) == "end"
    assert await w.entries(intent, AttemptFailed) == failures


def _scoring(most: int) -> Any:
    if most == 10:

        async def body() -> int:
            return 7 * 10 // 10
    else:

        async def body() -> int:
            return 7 * 100 // 10

    score = step(name="score")(body)

    async def main(payload: None) -> int:
        found = await score()
        again(1)
        return found

    return main


@pytest.mark.parametrize("policy", ["warn", "hold", "ignore"])
async def test_a_tool_that_was_changed_between_attempts_is_reported(w: World, policy: Any) -> None:
    retry = Retry(attempts=3, first=0.3, factor=1, jitter=False)
    worker = await w.serve_specs(HandlerSpec(_scoring(10), QUEUE, "main", retry=retry))
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.stop(worker)
    await w.serve_specs(HandlerSpec(_scoring(100), QUEUE, "main", retry=retry, on_code_change=policy))
    if policy == "hold":
        held = await w.held(intent)
        assert held.startswith("JOURNAL_MISMATCH: ")
        assert "other code of step score#1" in held
    else:
        assert await w.result(intent) == 7
    seen = w.seen("step.code_changed")
    assert bool(seen) is (policy != "ignore")
    assert (await w.get(intent)).changed == (() if policy == "ignore" else ("score",))


async def test_code_that_is_the_same_is_not_reported(w: World) -> None:
    retry = Retry(attempts=3, first=0.3, factor=1, jitter=False)
    worker = await w.serve_specs(HandlerSpec(_scoring(10), QUEUE, "main", retry=retry))
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.stop(worker)
    await w.serve_specs(HandlerSpec(_scoring(10), QUEUE, "main", retry=retry))
    assert await w.result(intent) == 7
    assert w.seen("step.code_changed") == []
