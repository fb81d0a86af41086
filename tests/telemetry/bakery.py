"""
Handlers for every number that is shown, and a ledger of what they did, kept outside of redurable.

Each line of the ledger is one thing that happened: `<what> <queue> <name>`, written with O_APPEND before or after the
fact as its name says.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from prometheus_client import Counter

from redurable import Limit, Retry, TerminalError, current, handler, sleep, step

ROOM = Path(os.environ.get("TELEMETRY_ROOM", "."))
MINE = Counter("shop_loaves", "A metric of user code.", ["kind"])
ONCE = Retry(attempts=3, first=0.05, jitter=False)


def note(what: str, name: str) -> None:
    """Write a line."""
    with open(ROOM / "ledger", "a") as ledger:
        ledger.write(f"{what} {current().queue} {name}\n")


@step
async def bake(n: int) -> int:
    MINE.labels("rye").inc()
    await asyncio.sleep(0.002 * (n % 5))
    note("ran", "bake")
    return n


@step(limit=Limit("oven", concurrency=1000, rate=10_000, per=86_400))
def knead(n: int) -> int:
    note("ran", "knead")
    return n


@step(retry=ONCE)
async def flaky(n: int) -> int:
    """Fails the first time that an intent asks for it."""
    note("ran", "flaky")
    mark = ROOM / f"flaky-{current().id}"
    if not mark.exists():
        mark.touch()
        note("step-retried", "flaky")
        raise RuntimeError("the oven is cold")
    return n


@step(retry=Retry(attempts=1))
async def hopeless(n: int) -> int:
    note("ran", "hopeless")
    note("step-failed", "hopeless")
    raise TerminalError("no flour")


@step(limit=Limit("gates", concurrency=2, key="gate"))
async def hold(gate: str) -> int:
    """Wait until the file *gate* is there."""
    note("held", gate)
    while not (ROOM / gate).exists():
        await asyncio.sleep(0.01)
    note("ran", "hold")
    return os.getpid()


@handler(queue="bread")
async def bread(n: int) -> int:
    return await bake(n) + await knead.aio(n)


@handler(queue="cake", retry=ONCE)
async def cake(kind: str) -> str:
    if kind == "flaky":
        await flaky(1)
    elif kind == "hopeless":
        await hopeless(1)
    elif kind == "again" and current().attempt == 1:
        note("handler-retried", "cake")
        raise RuntimeError("the guests are late")
    elif kind == "nap":
        await sleep(1.2)
    return kind


@handler(queue="slow")
async def slow(gate: str) -> int:
    return await hold(gate)


def _first() -> int:
    note("ran", "mix")
    return 1


def _second() -> int:
    return 2 + len("another code")


mix, mix_anew, other = step(name="mix")(_first), step(name="mix")(_second), step(name="other")(_first)


@handler(queue="odd", retry=ONCE)
async def odd(kind: str) -> int:
    """changed: the second attempt has other code under the step's name. mismatch: it asks for another step, once."""
    first = current().attempt == 1
    mismatched = ROOM / f"mismatched-{current().id}"
    asked = mix
    if not first and kind == "changed":
        note("changed", "mix")
        asked = mix_anew
    elif not first and not mismatched.exists():
        asked = other
    try:
        value = await asked.aio()
    except BaseException:
        mismatched.touch()
        note("mismatched", "odd")
        raise
    if first:
        note("handler-retried", "odd")
        raise RuntimeError("once more")
    return value


@handler(queue="typed", type="known")
async def known(n: int) -> int:
    return n


@handler(queue="block")
async def block(seconds: float) -> int:
    time.sleep(seconds)
    return 1
