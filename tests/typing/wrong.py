"""What checkers must refuse: exactly the lines marked with an E are reported, by each of them."""

from __future__ import annotations

from redurable import Client, IntentId, Retry, handler, run, step


@step
async def fetch(source: str, *, limit: int = 10) -> list[str]:
    """An async step."""
    return [source] * limit


@step(run_in="thread")
def shrink(data: bytes, factor: int = 2) -> bytes:
    """A sync step."""
    return data[::factor]


@handler(queue="orders")
async def order(payload: str) -> int:
    """A handler."""
    return len(payload)


async def steps() -> None:
    """Calls of steps."""
    await fetch(1)  # E: the argument's type
    await fetch()  # E: it is missing
    await fetch("a", 5)  # E: it is keyword-only
    await fetch("a", limits=5)  # E: there is no such keyword
    await fetch("a", limit="5")  # E: the keyword's type
    text: str = await fetch("a")  # E: the result's type
    words: list[str] = fetch("a")  # E: the await is missing
    for _ in fetch("a"):  # E: as above
        pass
    shrink("a")  # E: the argument's type
    await shrink(b"a")  # E: a sync step's result is no awaitable
    await shrink.aio(b"a", factor="2")  # E: the keyword's type
    number: int = await shrink.aio(b"a")  # E: the result's type
    print(text, words, number)


async def handlers() -> None:
    """Calls of handlers."""
    await order(5)  # E: the argument's type
    await order("a", key="b")  # E: there is no such keyword
    text: str = await order("a")  # E: the result's type
    print(text)


async def inline() -> None:
    """The inline form."""
    await run("len", len, 5)  # E: the argument's type
    await run(len, "abc")  # E: the name is missing


async def producers(client: Client) -> None:
    """The client."""
    await client.send(5)  # E: neither a queue nor a handler
    await client.send("orders", {}, idempotency_keys="a")  # E: there is no such keyword
    intent: IntentId[int] = IntentId("0192f0c1-2345-7000-8abc-0123456789ab")
    number = await client.wait_for(intent)
    text: str = number  # E: the result's type
    print(text)


@step(retry=3)  # E: a policy, not a number
async def first() -> None:
    """Wrong options."""


@step(run_in="coroutine")  # E: no such place
def second() -> None:
    """Wrong options."""


@handler(queues="a")  # E: no such option
async def third(payload: str) -> None:
    """Wrong options."""


Retry(attempts="3")  # E: a number
