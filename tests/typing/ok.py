"""What users may write: every checker must accept all of it, and find the types that are asserted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from redurable import Client, IntentId, Retry, emit, handler, progress, resume_offset, run, step, testing


@dataclass
class Order:
    id: int
    note: str = ""


@step
async def fetch(source: str, *, limit: int = 10) -> list[str]:
    """A bare decorator."""
    return [source] * limit


@step(retry=Retry(attempts=2), timeout=timedelta(seconds=5), name="charge-card")
async def charge(order: Order, amount: float) -> bool:
    """A decorator with options."""
    return amount > 0


@step(run_in="thread")
def shrink(data: bytes, factor: int = 2) -> bytes:
    """A plain def: called in a sync handler, or by `.aio` in an async one."""
    return data[::factor]


@step
def count(words: list[str]) -> int:
    """A plain def under the bare decorator."""
    return len(words)


@step
async def tokens(prompt: str) -> AsyncIterator[str]:
    """A stream step."""
    yield prompt


@step(resume=True)
async def rows(table: str) -> AsyncGenerator[int, None]:
    """One that goes on."""
    yield resume_offset()


async def listen() -> list[str]:
    """Items are typed."""
    async for row in rows("t"):
        assert_type(row, int)
    emit({"any": "thing"})
    progress(1, 2, "halves")
    return [token async for token in tokens("p")]


class Shop:
    """Steps may be methods."""

    @step
    async def price(self, item: str) -> float:
        """A method's step is called on the instance."""
        return float(len(item))


@handler
async def order(payload: Order) -> dict[str, int]:
    """A handler keeps its signature."""
    words = await fetch("s3://x", limit=3)
    assert_type(words, list[str])
    assert_type(await charge(payload, 1.5), bool)
    assert_type(await charge(order=payload, amount=2), bool)
    assert_type(await shrink.aio(b"abc", factor=3), bytes)
    assert_type(await run("hash", hash, "x"), int)
    assert_type(await run("fetch", fetch_plain, 1), str)
    price = await Shop().price("tea")
    first, second = await asyncio.gather(fetch("a"), charge(payload, 1))
    assert_type(first, list[str])
    assert_type(second, bool)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fetch("b"))
    assert_type(task.result(), list[str])
    return {word: int(price) for word in words}


@handler(queue="orders.eu", retry=Retry(attempts=1), timeout=60, strict=True)
def order_sync(payload: Order) -> int:
    """A sync handler with options."""
    assert_type(shrink(b"abc"), bytes)
    return count(["a"])


async def fetch_plain(n: int) -> str:
    """Not ours: called by `run`."""
    return str(n)


fetch_as_callable: Callable[[str], Coroutine[Any, Any, list[str]]] = fetch
order_as_callable: Callable[[Order], Coroutine[Any, Any, dict[str, int]]] = order
order_sync_as_callable: Callable[[Order], int] = order_sync


async def produce(client: Client) -> None:
    """A producer."""
    intent = await client.send("orders", {"id": 1}, idempotency_key="a", delay=timedelta(minutes=1))
    await client.wait_for(intent, timeout=5)
    known: IntentId[int] = IntentId("0192f0c1-2345-7000-8abc-0123456789ab")
    assert_type(await client.wait_for(known), int)
    await client.send(order, Order(1))
    await client.send_many("orders", [Order(n) for n in range(3)])


async def calls_like_any_function() -> None:
    """Outside a worker steps and handlers are ordinary functions."""
    assert_type(await order(Order(1)), dict[str, int])
    assert_type(order_sync(Order(1)), int)


async def priced(order: Order) -> float:
    return 1.0


def counted(order: Order) -> int:
    return 1


def in_memory() -> None:
    """What a run in memory returns is typed by its handler."""
    assert_type(testing.run(priced, {"id": 1}).result, float)
    assert_type(testing.run(counted, Order(1), stub={fetch: []}, deadline=timedelta(days=1)).result, int)
    assert_type(testing.replay_check(priced, Order(1), reset=list).result, float)
