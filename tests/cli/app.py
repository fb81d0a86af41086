"""Handlers for the tests of the command line."""

from __future__ import annotations

import asyncio
import logging
import os
from enum import Enum
from pathlib import Path
from typing import Any

import structlog

from redurable import Limit, Retry, approval, emit, handler, progress, promise, sleep, step

log = logging.getLogger("tests.app")
slog = structlog.get_logger("tests.app")
SECRET = "tip-top-secret"


@step
async def double(n: int) -> int:
    log.info("doubling")
    return n * 2


@step(retry=Retry(attempts=1))
async def fragile(path: str) -> str:
    if not Path(path).exists():
        raise LookupError(f"no file {os.path.basename(path)}")
    return "mended"


@handler(queue="sum")
async def add(numbers: list[int]) -> int:
    log.info("begin")
    doubled = await asyncio.gather(*(double(n) for n in numbers))
    slog.info("added", count=len(doubled))
    return sum(doubled)


@handler(queue="nap")
async def nap(seconds: float) -> str:
    log.info("before the nap")
    await asyncio.gather(double(1))
    slog.info("still before the nap")
    await sleep(seconds)
    log.info("after the nap")
    return SECRET


@handler(queue="fragile")
async def break_or_not(path: str) -> list[Any]:
    return [await double(4), await fragile(path)]


@handler(queue="forgetful")
async def forget(n: int) -> int:
    double(n)
    return n


forget_as_well = forget  # two names are one handler


class Card(Enum):
    VISA = "visa"


@step(retry=Retry(attempts=2, first=0))
async def charge(secret: str) -> str:
    if not secret.startswith("fine"):
        raise ConnectionError("the bank is away")
    log.info("charged")
    return secret


@handler(queue="charge", retry=Retry(attempts=2, first=0))
async def pay(secret: str, card: Card) -> list[str]:
    return [await charge(f"fine {secret}"), await charge(secret)]


@handler(queue="ask")
async def ask(payload: Any) -> bool:
    return await promise("approved", bool)


@handler(queue="narrow", limit=Limit(concurrency=1, rate=1000, per=60, key="who"))
async def narrow(who: str, path: str) -> str:
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    return who


@step
async def post(token: str) -> str:
    return token


@handler(queue="mailed")
async def by_mail(payload: None) -> bool:
    answer = promise("approved", bool)
    await post(answer.token)
    return await answer


@handler(queue="publish")
async def publish(payload: Any) -> list[str]:
    decision = await approval("publish", title="Publish the page?", of=str)
    return [decision.outcome, decision.value, decision.by]


@step
async def tell(n: int) -> int:
    for i in range(n):
        emit({"told": i})
    progress(n, n, "told")
    return n


@handler(queue="telling")
async def telling(n: int) -> str:
    progress(1, 4, "begun")
    await tell(n)
    progress(2, 4, "half way")
    return await promise("go on", str)


async def plain(payload: Any) -> Any:
    """No @handler: `module:function` alone finds it."""
    return payload


NOT_A_FUNCTION = 5
