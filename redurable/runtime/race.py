"""
Races: several waits at once, the first to end wins, the others are given up.

The winner is the one whose entry comes first in the journal, live and on every replay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from redurable.errors import ConfigurationError
from redurable.runtime.promises import LOST

__all__ = ["Winner", "race"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Winner(Generic[T]):
    """The contender that ended first, and its result."""

    name: str
    value: T


async def race(**contenders: Awaitable[T]) -> Winner[T]:
    """
    Wait until the first of *contenders* has ended; return its name and value, or raise its error.

    `first = await race(answer=promise("answer"), late=sleep(3600))`. The others are cancelled, as `asyncio` does it,
    and over when this returns: a promise among them takes no value any more.

    Raises:
        ConfigurationError: There is nobody to race.
    """
    if not contenders:
        raise ConfigurationError("race() needs contenders", hint="await race(a=..., b=...)")

    async def contend(contender: Awaitable[T]) -> T:
        return await contender

    tasks: dict[str, asyncio.Task[T]] = {}
    for name, contender in contenders.items():
        run: Any = contend(contender)
        run.__qualname__ = f"race.{name}"  # the branch's name in the journal
        tasks[name] = asyncio.ensure_future(run)
    decided = False
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        winner, task = next((name, task) for name, task in tasks.items() if task.done())
        decided = True
    finally:
        losers = [task for task in tasks.values() if not task.done()]
        for loser in losers:
            loser.cancel(LOST if decided else None)
        if losers:
            await asyncio.wait(losers)
    for other in tasks.values():
        if other is not task and not other.cancelled():
            other.exception()  # an error that came with the result, or while it was given up, lost too
    return Winner(winner, task.result())
