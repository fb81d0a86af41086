"""An order whose worker is killed in its third step, and whose handler and one step fail once."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace

from redurable import Retry, current, handler, step
from tests.crash.app import ROOM, gate, note

AT_ONCE = Retry(attempts=4, first=0, jitter=False)


def once(name: str) -> bool:
    """Whether nobody has asked this before, in any process."""
    mark = ROOM / f"once.{name}.{current().id}"
    asked = mark.exists()
    mark.touch()
    return not asked


@step
async def reserve(item: str) -> str:
    return item


@step
async def pack(secret: str) -> str:
    with trace.get_tracer("users.own").start_as_current_span("wrap"):
        note("pack")
        await gate("packing")
    return secret


@step(retry=AT_ONCE)
def bill(secret: str) -> str:
    if once("bill"):
        raise LookupError(f"{secret} was refused")
    return secret


@step
async def ship(secret: str) -> str:
    return secret


@handler(queue="orders", retry=AT_ONCE)
async def order(payload: dict[str, Any]) -> str:
    for item in payload["items"]:
        await reserve(item)
    await pack(payload["secret"])
    await bill.aio(payload["secret"])
    if once("order"):
        raise LookupError(f"{payload['secret']} was lost on the way")
    return await ship(payload["secret"])
