"""Limits as handlers and steps meet them: how many at a time, how many within a time, and what becomes of who waits."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from redurable import ConfigurationError, Limit, Retry, Status, UsageError, compensate, handler, sleep, step, testing
from redurable.model import Reason
from redurable.runtime import seats
from redurable.runtime.handlers import spec_of
from redurable.store.limits import limits
from tests.runtime.world import QUEUE, World
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


class Room:
    """Counts who is inside, by key."""

    def __init__(self) -> None:
        self.inside: Counter[Any] = Counter()
        self.most: Counter[Any] = Counter()
        self.order: list[Any] = []
        self.open = asyncio.Event()

    @asynccontextmanager
    async def visit(self, name: Any = None, key: Any = None) -> AsyncIterator[None]:
        self.order.append(name)
        self.inside[key] += 1
        self.most[key] = max(self.most[key], self.inside[key])
        try:
            yield
        finally:
            self.inside[key] -= 1

    async def full(self, number: int, key: Any = None) -> None:
        """Return once *number* are inside."""
        async with asyncio.timeout(30):
            while self.inside[key] < number:
                await asyncio.sleep(0.002)


async def waiting(w: World, number: int, limit: str | None = None) -> None:
    """Return once *number* wait in the lines of all limits, or of one."""
    async with asyncio.timeout(30):
        while sum(i.waiting for i in await limits(w.store) if limit in (None, i.name)) != number:
            await asyncio.sleep(0.004)


async def free(w: World) -> None:
    """Return once nobody has a place or waits for one."""
    async with asyncio.timeout(30):
        while any(i.used or i.waiting for i in await limits(w.store)):
            await asyncio.sleep(0.004)


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_a_queue_runs_no_more_than_its_concurrency_over_two_workers(w: World) -> None:
    room = Room()

    async def main(payload: int) -> int:
        async with room.visit(payload):
            await asyncio.sleep(0.003)
        return payload

    await w.serve(main)
    handler(queue=QUEUE, limit=Limit(concurrency=3))(main)
    spec = spec_of(main)
    for worker in list(w._workers):
        await w.stop(worker)
    await w.serve_specs(spec)
    await w.serve_specs(spec)
    ids = [await w.send(n) for n in range(60)]
    assert [await w.result(i) for i in ids] == list(range(60))
    assert room.most[None] == 3
    assert len(room.order) == 60
    await free(w)
    assert (await check_all(w.store))["COMPLETED"] == 60


async def test_each_key_has_places_of_its_own_and_the_older_intent_goes_first(w: World) -> None:
    room = Room()

    async def main(customer: str, n: int) -> None:
        async with room.visit((customer, n), customer):
            await room.open.wait()

    handler(queue=QUEUE, limit=Limit(concurrency=1, key="customer"))(main)
    await w.serve_specs(spec_of(main))
    ids = []
    for n in range(5):
        for customer in "ab":
            ids.append(await w.send({"customer": customer, "n": n}))
            await asyncio.sleep(0.002)
    await waiting(w, 8)
    infos = {i.key: i for i in await limits(w.store)}
    assert {k: (i.name, i.used, i.concurrency, i.waiting) for k, i in infos.items()} == {
        "a": (QUEUE, 1, 1, 4), "b": (QUEUE, 1, 1, 4),
    }  # fmt: skip
    info = await w.get(ids[-1])
    assert (info.status, info.reason, info.attempt) == (Status.WAITING, Reason.LIMIT, 0)
    assert info.limit == f"{QUEUE}:b"
    room.open.set()
    for i in ids:
        await w.result(i)
    assert room.most == {"a": 1, "b": 1}
    assert [n for c, n in room.order if c == "a"] == [n for c, n in room.order if c == "b"] == [0, 1, 2, 3, 4]
    assert {(await w.get(i)).attempt for i in ids} == {1}, "to wait in line is no attempt"


async def test_one_that_waits_otherwise_is_not_at_work(w: World) -> None:
    """A durable wait gives the place to the next, and asks for one again when it is over."""
    room = Room()

    async def main(n: int) -> None:
        async with room.visit(n):
            await asyncio.sleep(0.001)
        await sleep(1.2)
        async with room.visit(n):
            await asyncio.sleep(0.001)

    handler(queue=QUEUE, concurrency=1)(main)
    await w.serve_specs(spec_of(main))
    ids = await w.client.send_many(QUEUE, range(5))
    for i in ids:
        await w.result(i)
    assert sorted(room.order[:5]) == list(range(5)), "they slept one after the other"
    assert room.most[None] == 1


@pytest.mark.parametrize("how", ["cancel", "kill", "deadline", "pause", "delete"])
async def test_what_waits_in_line_can_be_ended_or_put_off_and_leaves_no_hole(w: World, how: str) -> None:
    room = Room()

    async def main(n: int) -> int:
        async with room.visit(n):
            await room.open.wait()
        return n

    handler(queue=QUEUE, concurrency=1)(main)
    await w.serve_specs(spec_of(main))
    first = await w.send(1)
    await room.full(1)
    second = await w.send(2, **({"deadline": 0.8} if how == "deadline" else {}))
    await waiting(w, 1)
    third = await w.send(3)
    await waiting(w, 2)
    if how in ("cancel", "delete"):
        assert await w.client.cancel(second) == "CANCELED", "it has never run"
    if how == "delete":
        await w.client.delete(second)
    if how == "kill":
        assert await w.client.kill(second) == "CANCELED"
    if how == "deadline":
        await w.until(second, Status.TIMED_OUT)
    if how == "pause":
        assert await w.client.pause(second) == "PAUSED"
    room.open.set()
    assert [await w.result(first), await w.result(third)] == [1, 3]
    assert room.order == [1, 3]
    if how == "pause":
        await w.client.resume(second)
        assert await w.result(second) == 2
    await free(w)
    await check_all(w.store)


async def test_a_killed_one_gives_its_place_to_the_next_when_its_body_has_ended(w: World) -> None:
    room = Room()

    async def main(n: int) -> int:
        async with room.visit(n):
            await (asyncio.sleep(60) if n == 1 else asyncio.sleep(0))
        return n

    handler(queue=QUEUE, concurrency=1)(main)
    await w.serve_specs(spec_of(main))
    first = await w.send(1)
    await room.full(1)
    second = await w.send(2)
    await waiting(w, 1)
    assert await w.client.kill(first) == "CANCELED"
    assert await w.result(second) == 2
    assert room.most[None] == 1


async def test_an_intent_that_is_recovered_goes_on_in_its_place(w: World) -> None:
    room = Room()
    lost = asyncio.Event()

    async def main(n: int) -> int:
        async with room.visit(n):
            if n == 1 and not lost.is_set():
                lost.set()
                await room.open.wait()  # nobody tells the attempt that it lost its intent
        return n

    handler(queue=QUEUE, concurrency=1)(main)
    await w.serve_specs(spec_of(main))
    first = await w.send(1)
    await lost.wait()
    second = await w.send(2)
    await waiting(w, 1)
    assert await w.lose(first) == "OK"
    assert [await w.result(first), await w.result(second)] == [1, 2]
    room.open.set()
    assert room.order == [1, 1, 2]
    await free(w)


async def test_a_rate_counts_how_often_handlers_begin(w: World) -> None:
    begun: list[int] = []

    @step
    async def note(n: int) -> None:
        begun.append(n)

    async def main(n: int) -> None:
        await note(n)
        await sleep(1.1)  # goes on uncounted

    handler(queue=QUEUE, limit=Limit(rate=3, per=60))(main)
    await w.serve_specs(spec_of(main))
    ids = [await w.send(n) for n in range(5)]
    for i in ids[:3]:
        await w.result(i)
    assert sorted(begun) == [0, 1, 2]
    await waiting(w, 2)
    (info,) = await limits(w.store)
    assert (info.rate, info.per, info.counted, info.concurrency, info.used) == (3, 60, 3, None, 0)
    for i in ids[3:]:
        assert (await w.get(i)).reason is Reason.LIMIT
        assert await w.client.cancel(i) == "CANCELED"


async def test_two_limits_are_both_kept_and_who_waits_for_one_holds_neither(w: World) -> None:
    room, all_ = Room(), Room()

    async def main(customer: str) -> None:
        async with room.visit(None, customer), all_.visit():
            await asyncio.sleep(0.004)

    handler(queue=QUEUE, concurrency=3, limit=Limit("each", concurrency=2, key=lambda customer: customer))(main)
    await w.serve_specs(spec_of(main))
    ids = [await w.send(c) for c in "aaaaaaaabbbbccdd" * 2]
    for i in ids:
        await w.result(i)
    assert all_.most[None] <= 3
    assert max(room.most.values()) <= 2
    await free(w)


async def test_a_session_that_waits_for_its_turn_keeps_its_order(w: World) -> None:
    seen: list[tuple[str, int]] = []

    async def main(key: str, n: int) -> None:
        seen.append((key, n))
        await asyncio.sleep(0.002)

    handler(queue=QUEUE, concurrency=2)(main)
    await w.serve_specs(spec_of(main))
    ids = [await w.send({"key": k, "n": n}, key=k) for n in range(6) for k in "abc"]
    for i in ids:
        await w.result(i)
    for k in "abc":
        assert [n for key, n in seen if key == k] == list(range(6))
    await free(w)
    await check_all(w.store)


# --- steps ------------------------------------------------------------------------------------------------------------


async def test_steps_of_one_limit_share_it_over_handlers_and_branches(w: World) -> None:
    room = Room()
    shared = Limit("openai", concurrency=2)

    @step(limit=shared)
    async def ask(n: int) -> int:
        async with room.visit():
            await asyncio.sleep(0.003)
        return n

    @step(limit=shared)
    async def embed(n: int) -> int:
        async with room.visit():
            await asyncio.sleep(0.003)
        return -n

    async def main(n: int) -> list[int]:
        return await asyncio.gather(*(ask(n * 10 + i) for i in range(4)), embed(n))

    await w.serve(main)
    await w.serve_specs(spec_of(main))
    ids = [await w.send(n) for n in range(8)]
    for n, i in enumerate(ids):
        assert await w.result(i) == [n * 10, n * 10 + 1, n * 10 + 2, n * 10 + 3, -n]
    assert room.most[None] == 2
    await free(w)
    await check_all(w.store)


async def test_a_step_that_waits_long_is_put_down_and_called_up(w: World) -> None:
    room = Room()

    @step(limit=Limit(concurrency=1))
    async def work(n: int) -> int:
        async with room.visit(n):
            await room.open.wait()
        return n

    @step
    async def before(n: int) -> int:
        return n

    async def main(n: int) -> int:
        return await before(n) + await work(n)

    await w.serve(main)
    first = await w.send(1)
    await room.full(1)
    second = await w.send(2)
    info = await w.until(second, Status.WAITING)
    assert (info.reason, info.limit) == (Reason.LIMIT, "work")
    room.open.set()
    assert [await w.result(first), await w.result(second)] == [2, 4]
    assert room.order == [1, 2]
    await free(w)
    await check_all(w.store)


async def test_a_step_called_up_before_it_knows_that_it_stands_in_line_asks_at_once(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, ask = Room(), seats.occupy

    async def late(*args: Any) -> Any:
        word = await ask(*args)
        if isinstance(word, int):
            room.open.set()
            await asyncio.sleep(0.1)  # the first leaves and calls it up before this answer is here
        return word

    @step(limit=Limit(concurrency=1))
    async def work(n: int) -> int:
        async with room.visit(n):
            await room.open.wait()
        return n

    async def main(n: int) -> int:
        async with asyncio.timeout(100):  # a timer of the process: it is not put down
            return await work(n)

    monkeypatch.setattr(seats, "occupy", late)
    monkeypatch.setattr(seats, "_SOON", 60_000)
    await w.serve(main)
    first = await w.send(1)
    await room.full(1)
    second = await w.send(2)
    assert [await w.result(first), await w.result(second)] == [1, 2]


async def test_a_rate_is_never_exceeded_and_hardly_missed(w: World) -> None:
    """The times are the server's, taken in the body: what an API would see."""
    times: list[float] = []

    @step(limit=Limit("api", rate=20, per=0.5))
    async def call_api() -> None:
        seconds, micros = await w.store.mux.command("TIME")
        times.append(int(seconds) + int(micros) / 1e6)

    async def main(n: int) -> None:
        for _ in range(n):
            await call_api()

    await w.serve(main)
    await w.serve_specs(spec_of(main))
    ids = [await w.send(4) for _ in range(25)]
    for i in ids:
        await w.result(i)
    times.sort()
    assert len(times) == 100
    # a server that is kept from its processor says a later time than that of the body's first line
    assert sum(later - earlier < 0.5 for earlier, later in zip(times, times[20:], strict=False)) <= 2
    assert times[-1] - times[0] < 20, "it takes 2 s"


async def test_every_try_of_a_step_asks_anew(w: World) -> None:
    tried: list[float] = []

    @step(limit=Limit(rate=1, per=1.0), retry=Retry(attempts=3, first=0, jitter=False))
    async def work() -> int:
        tried.append(time.monotonic())
        if len(tried) < 3:
            raise ValueError("no")
        return len(tried)

    async def main(_: None) -> int:
        return await work()

    await w.serve(main)
    assert await w.call() == 3
    assert tried[1] - tried[0] > 0.5
    assert tried[2] - tried[1] > 0.5


async def test_a_step_in_line_that_is_cancelled_leaves_it(w: World) -> None:
    room = Room()
    met: list[str] = []

    @step(limit=Limit(concurrency=1))
    async def work(n: int) -> int:
        async with room.visit(n):
            await room.open.wait()
        return n

    @step
    async def undo() -> None:
        met.append("undone")

    async def main(n: int) -> int:
        compensate(undo)
        return await work(n)

    await w.serve(main)
    first = await w.send(1)
    await room.full(1)
    second = await w.send(2)
    await waiting(w, 1)
    assert await w.client.cancel(second) == "REQUESTED"
    await w.until(second, Status.CANCELED)
    assert met == ["undone"]
    await waiting(w, 0)
    third = await w.send(3)
    await w.until(third, Status.WAITING)
    await w.client.cancel(third)
    await w.until(third, Status.CANCELED)
    room.open.set()
    assert await w.result(first) == 1
    await free(w)


async def test_a_timeout_around_a_limited_step_gives_up_its_place_in_line(w: World) -> None:
    room = Room()

    @step(limit=Limit(concurrency=1))
    async def work(n: int) -> int:
        async with room.visit(n):
            await room.open.wait()
        return n

    async def main(n: int) -> str:
        try:
            async with asyncio.timeout(0.1 if n == 2 else None):
                await work(n)
        except TimeoutError:
            return "gave up"
        return "worked"

    await w.serve(main)
    first = await w.send(1)
    await room.full(1)
    assert await w.call(2) == "gave up"
    room.open.set()
    assert await w.result(first) == "worked"
    await free(w)


async def test_plain_handlers_and_thread_steps_keep_limits_to_their_real_end(w: World) -> None:
    inside: list[int] = []
    most: list[int] = []

    @step(limit=Limit(concurrency=2, key="n"), timeout=5)
    def work(n: int) -> int:
        inside.append(n)
        most.append(inside.count(n))
        time.sleep(0.005)
        inside.remove(n)
        return n

    def main(n: int) -> int:
        return work(n % 2) + work(n % 2)

    async def other(n: int) -> int:
        return await work.aio(n % 2)

    handler(queue="other")(other)
    await w.serve(main)
    await w.serve_specs(spec_of(other))
    ids = [await w.send(n) for n in range(10)]
    more = [await w.client.send("other", n) for n in range(10)]
    assert [await w.result(i) for i in ids] == [n % 2 * 2 for n in range(10)]
    assert [await w.result(i) for i in more] == [n % 2 for n in range(10)]
    assert max(most) <= 2
    await free(w)


async def test_a_thread_that_outlives_its_timeout_still_has_the_place(w: World) -> None:
    inside: list[int] = []
    most: list[int] = []

    @step(limit=Limit(concurrency=1), timeout=0.05, retry=Retry(attempts=2, first=0, jitter=False))
    def work() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.3)
        inside.pop()

    async def main(_: None) -> str:
        try:
            await work.aio()
        except Exception:
            return "failed"
        return "done"

    await w.serve(main)
    assert await w.call() == "failed"
    assert max(most) == 1
    await free(w)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": 1.5},
        {"concurrency": 1001},
        {"rate": 0},
        {"rate": 10_001},
        {"rate": 1, "per": 0},
        {"rate": 1, "per": 90_000},
        {"rate": 1, "per": "1s"},
        {"rate": 1, "key": ""},
        {"rate": 1, "key": 7},
        {"rate": 1, "name": "a:b"},
        {"rate": 1, "name": "a b"},
        {"rate": 1, "name": "x" * 65},
        {"rate": 1, "name": 3},
    ],
    ids=str,
)
def test_a_limit_that_cannot_be_is_refused_where_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Limit(**wrong)


def test_what_is_no_limit_is_refused_where_it_is_declared() -> None:
    async def main(payload: int) -> None: ...

    many = [Limit(str(n), rate=1) for n in range(5)]
    for wrong in (3, "openai", [Limit(rate=1), "x"], many, [Limit(rate=1), Limit(concurrency=1)]):
        with pytest.raises((ConfigurationError, TypeError)):
            handler(limit=wrong)(main)  # type: ignore[arg-type]
        with pytest.raises((ConfigurationError, TypeError)):
            step(limit=wrong)(main)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="BAD_LIMIT"):
        handler(concurrency=0)(main)


@pytest.mark.parametrize(
    ("key", "payload"),
    [
        ("customer", {}),
        ("customer.id", {"customer": 7}),
        ("customer", {"customer": None}),
        ("customer", {"customer": ""}),
        ("customer", {"customer": True}),
        ("customer", {"customer": "x" * 129}),
        ("customer", {"customer": ["a"]}),
        (lambda payload: payload["nobody"], {}),
    ],
)
async def test_a_payload_without_a_key_fails_its_intent(w: World, key: Any, payload: Any) -> None:
    async def main(payload: dict[str, Any]) -> None: ...

    handler(queue=QUEUE, limit=Limit(concurrency=1, key=key))(main)
    await w.serve_specs(spec_of(main))
    failure = await w.failure(await w.send(payload))
    assert failure.error is not None
    assert failure.error.code == "LIMIT_KEY"
    await free(w)


async def test_a_path_goes_through_objects_lists_and_maps(w: World) -> None:
    seen: set[str] = set()

    @step(limit=Limit("s", concurrency=1, key="order.lines.0.sku"))
    async def work(order: dict[str, Any]) -> None:
        seen.update(i.key for i in await limits(w.store))

    async def main(payload: dict[str, Any]) -> None:
        await work(payload["order"])

    handler(queue=QUEUE, limit=Limit("h", concurrency=1, key="order.customer"))(main)
    await w.serve_specs(spec_of(main))
    await w.call({"order": {"customer": 7, "lines": [{"sku": "tea"}]}})
    assert seen == {"7", "tea"}


async def test_a_step_does_not_wait_for_what_its_own_handler_has(w: World) -> None:
    @step(limit=Limit("x", concurrency=1))
    async def work() -> None: ...

    async def main(_: None) -> str:
        try:
            await work()
        except UsageError as error:
            return error.code
        return "worked"

    handler(queue=QUEUE, limit=Limit("x", concurrency=1))(main)
    await w.serve_specs(spec_of(main))
    assert await w.call() == "LIMIT_NESTED"
    await free(w)


async def test_two_numbers_for_one_name_are_refused_before_anything_is_claimed(w: World) -> None:
    async def make() -> None: ...

    make.__qualname__ = "make"  # as if it stood in a module: what is made in a function may be made with other numbers
    work = step(limit=Limit("disputed", concurrency=1))(make)

    async def main(_: None) -> None:
        await work()

    handler(queue=QUEUE, limit=Limit("disputed", concurrency=2))(main)
    with pytest.raises(ConfigurationError, match=r"limit 'disputed' .*\[BAD_LIMIT\]"):
        await w.serve_specs(spec_of(main))
    handler(queue=QUEUE, limit=[Limit("disputed", concurrency=2, key="x"), Limit("other", rate=1)])(main)
    await w.serve_specs(spec_of(main))  # those with a key are others


def test_a_run_in_memory_has_nobody_to_share_with() -> None:
    @step(limit=Limit("alone", rate=1, per=3600, key="n"))
    async def work(n: Any) -> Any:
        return n

    @handler(limit=Limit(concurrency=1, key="n"))
    async def main(payload: dict[str, Any]) -> list[Any]:
        return [await work(payload["m"]), await work(payload["m"])]

    assert testing.run(main, {"n": 1, "m": 2}).result == [2, 2]
    for payload in ({"m": 1}, {"n": 1, "m": None}):
        run = testing.run(main, payload)
        assert run.status == "FAILED"
        assert run.error is not None
        assert run.error.code == "LIMIT_KEY"


async def test_a_stream_holds_its_place_to_its_end(w: World) -> None:
    room = Room()

    @step(limit=Limit(concurrency=1))
    async def answer(n: int) -> AsyncIterator[int]:
        async with room.visit(n):
            for i in range(3):
                await asyncio.sleep(0.002)
                yield i

    async def main(n: int) -> list[int]:
        return [item async for item in answer(n)]

    await w.serve(main)
    ids = [await w.send(n) for n in range(6)]
    for i in ids:
        assert await w.result(i) == [0, 1, 2]
    assert room.most[None] == 1
    await free(w)
