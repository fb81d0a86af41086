"""Killed at any turn of its loop, once or twice, a handler tells each reader each thing once, or a reset before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redurable import Event, UsageError, emit, progress, resume_offset, sleep, step
from redurable.testing.lease import Kill
from redurable.testing.story import live

RUNS: list[int] = []
LAST = 700  # about the turns of an undisturbed run
Kept = dict[tuple[str, str], list[Any]]


@step
async def fresh(n: int) -> AsyncIterator[list[int]]:
    """Never the same twice."""
    RUNS.append(len(RUNS))
    emit("begun")
    for i in range(n):
        yield [RUNS[-1], i]
        await asyncio.sleep(0.013)


@step(resume=True)
async def further(n: int) -> AsyncIterator[int]:
    for i in range(resume_offset(), n):
        yield i
        await asyncio.sleep(0.031)


@step
async def tell(n: int) -> int:
    for i in range(n):
        emit(i)
        await asyncio.sleep(0.007)
    return n


async def branch(name: str) -> list[int]:
    emit(f"{name}1")
    await tell(3)
    emit(f"{name}2")
    return [i async for i in further(9)]


async def handler(_: None) -> list[Any]:
    emit("a")
    items = [item async for item in fresh(6)]
    emit("b")
    found = await asyncio.gather(branch("left"), branch("right"))
    progress(1, 2)
    await sleep(100)
    emit("c")
    for i in range(3):
        await tell(2)
        emit(i)
    return [items, found]


def read(events: tuple[Event, ...]) -> Kept:
    """Return what a reader has in the end, by step and kind; what comes must fit what he had."""
    kept: Kept = {}
    for event in events:
        kind = event.value if event.kind == "reset" else "item" if event.kind == "end" else event.kind
        mine = kept.setdefault((event.step, kind), [])
        if event.kind == "reset":
            assert event.offset < len(mine), event
            del mine[event.offset :]
        else:
            assert event.offset == len(mine), event
            mine += [event.value] * (event.kind != "end")
    return kept


@pytest.fixture(scope="module")
def undisturbed() -> Kept:
    return read(live(handler, None, {}, []).events)


@pytest.mark.parametrize("first", range(7))
def test_killed_at_any_turn(undisturbed: Kept, first: int) -> None:
    killed = 0
    for turn in range(first * 5 + 1, LAST, 35):
        for kills in ([Kill(turn=turn)], [Kill(turn=turn), Kill(turn=turn // 2 + 1)]):
            try:
                run = live(handler, None, {}, kills)
            except UsageError:  # it had ended before
                continue
            killed += 1
            kept = read(run.events)
            assert kept["fresh#1", "item"] == run.result[0]
            mine = ("fresh#1", "item")
            assert {k: v for k, v in kept.items() if k != mine} == {k: v for k, v in undisturbed.items() if k != mine}
    assert killed > 20
