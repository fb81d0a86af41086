"""
Handlers of every kind with one body behind another: the first waits for its gate, the second is what must not begin in
a process that has lost the intent while it stood still. Each leaves a line in the ledger.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from redurable import TerminalError, compensate, handler, step
from redurable.sync import gather as sync_gather
from tests.crash.app import ROOM, gate, note

KINDS = ("plain", "branched", "threaded", "blocking", "branches", "undoing")


@step
async def first() -> None:
    note("first")
    await gate("frozen")
    note("ending")


@step
async def second() -> None:
    note("second")


@step
def first_in_thread() -> None:
    note("first")
    while not (ROOM / "frozen").exists():
        time.sleep(0.005)  # a thread, and the sign comes from another process
    note("ending")


@step
def second_in_thread() -> None:
    note("second")


async def _both() -> None:
    await first()
    await second()


@handler(queue="plain")
async def plain(payload: Any) -> None:
    await _both()


@handler(queue="branched")
async def branched(payload: Any) -> None:
    await asyncio.gather(_both(), asyncio.sleep(0))


@handler(queue="threaded")
async def threaded(payload: Any) -> None:
    await first_in_thread.aio()
    await second_in_thread.aio()


def _both_in_thread() -> None:
    first_in_thread()
    second_in_thread()


@handler(queue="blocking")
def blocking(payload: Any) -> None:
    _both_in_thread()


@handler(queue="branches")
def branches(payload: Any) -> None:
    sync_gather(_both_in_thread, lambda: None)


@handler(queue="undoing")
async def undoing(payload: Any) -> None:
    compensate(second)
    compensate(first)
    raise TerminalError("undo it")
