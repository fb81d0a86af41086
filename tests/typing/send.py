"""What a producer gets when it names the handler itself: the type of its result."""

from __future__ import annotations

from typing import assert_type

from redurable import Client, IntentId, handler


@handler
async def order(payload: dict[str, str]) -> dict[str, int]:
    """An async handler."""
    return {key: len(value) for key, value in payload.items()}


@handler(queue="sums")
def total(payload: list[int]) -> int:
    """A sync handler."""
    return sum(payload)


def plain(payload: str) -> float:
    """No decorator is needed."""
    return float(payload)


async def produce(client: Client) -> None:
    """A producer."""
    intent = await client.send(order, {})
    assert_type(intent, IntentId[dict[str, int]])
    assert_type(await client.wait_for(intent), dict[str, int])
    assert_type(await client.wait_for(await client.send(total, [1])), int)
    assert_type(await client.wait_for(await client.send(plain, "1")), float)
    assert_type(await client.call(order, {}), dict[str, int])
    assert_type(await client.send_many(total, [[1]]), list[IntentId[int]])
