"""A run in memory is like one on a real server: the same journal, the same outcome, and a lease that can the same."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from redurable import (
    IntentFailed,
    Retry,
    StepFailed,
    TerminalError,
    checkpoint,
    compensate,
    current,
    handler,
    run,
    sleep,
    step,
    sync,
    testing,
)
from redurable.model import TimerFired, encode_entry
from redurable.store.lease import Lease
from redurable.testing.clock import Clock
from redurable.testing.lease import MemoryLease
from redurable.testing.memory import MemoryIntent
from redurable.testing.serving import Serve

SOON = Retry(attempts=3, first=0.01, jitter=False)


def test_what_a_lease_can_one_in_memory_can_too() -> None:
    def verbs(kind: type[Any]) -> dict[str, list[str]]:
        functions = inspect.getmembers(kind, inspect.isfunction)
        return {n: list(inspect.signature(f).parameters) for n, f in functions if not n.startswith("_")}

    theirs, ours = verbs(Lease), verbs(MemoryLease)
    del theirs["read_body"]  # the worker's, before there is an attempt
    assert {name: ours.get(name) for name in theirs} == theirs


def test_what_a_lease_tells_one_in_memory_tells_too() -> None:
    async def main() -> set[str]:
        return {name for name in dir(MemoryIntent(Clock()).claim()) if not name.startswith("_")}

    # where it lies in Redis is the worker's business, and the lease's own
    theirs = set(dir(Lease)) - {"entry", "head", "partition", "stream", "stream_index", "read_body"}
    assert {name for name in theirs if not name.startswith("_")} <= asyncio.run(main())


@step
async def double(n: int) -> int:
    return 2 * n


@step(retry=SOON)
async def breaks(n: int) -> int:
    await checkpoint(n)
    raise ConnectionError(f"no {n}")


@step
async def nested(n: int) -> list[int]:
    return await asyncio.gather(double(n), run("inline", double, n + 1))


@step
def plain(n: int) -> int:
    return n


async def straight(payload: int) -> Any:
    first = await double(payload)
    await sleep(0.01)
    return [first, await plain.aio(first)]


async def parked(payload: int) -> Any:
    first = await double(payload)
    await sleep(1.1)
    return await double(first)


async def branches(payload: int) -> Any:
    async def branch(n: int) -> int:
        await sleep(0.4 * n)  # so far apart that a loaded machine keeps their order
        return await double(n)

    return await asyncio.gather(nested(payload), branch(1), branch(2))


async def tries(payload: int) -> Any:
    try:
        await breaks(payload)
    except StepFailed as failure:
        return [failure.tries, failure.message]


@handler(retry=SOON)
async def attempts(payload: int) -> Any:
    await double(payload)
    if current().attempt < 3:
        raise ValueError("again")
    return current().attempt


async def undoes(payload: int) -> None:
    compensate(plain, await double(payload))
    compensate(double, 3)
    raise TerminalError("over")


async def misfit(payload: dict[str, int]) -> None:
    await double(1)


def blocking(payload: int) -> Any:
    first = plain(payload)
    sync.sleep(0.01)
    return [first, *sync.gather(lambda: plain(1))]


def told(journal: list[Any], outcome: Any) -> Any:
    shown = ("scope", "name", "n", "tries", "abandoned")
    return [(type(e).__name__, *(getattr(e, name, None) for name in shown)) for e in journal], outcome


@pytest.mark.parametrize(
    "function", [straight, parked, branches, tries, attempts, undoes, misfit, blocking], ids=lambda f: f.__name__
)
def test_a_run_in_memory_is_like_one_on_a_server(
    function: Callable[..., Any], redurable_worker: Serve, redurable_client: sync.Client
) -> None:
    redurable_worker(function)
    intent = redurable_client.send(f"{function.__module__}.{function.__qualname__}", 7)  # unchecked: one does not fit
    try:
        result = redurable_client.wait_for(intent, 60)
    except IntentFailed as failure:
        result = (failure.status, failure.error.type, failure.error.code, failure.error.message)
    real = told([entry for _, entry in redurable_client.history(intent)], result)

    def in_memory() -> Any:
        told_of = testing.run(function, 7)
        if told_of.error is None:
            return told(list(told_of.journal), told_of.result)
        error = told_of.error
        return told(list(told_of.journal), (told_of.status, error.type, error.code, error.message))

    assert in_memory() == real


def test_losses_are_counted_as_the_server_counts_them() -> None:
    async def main() -> list[int]:
        intent = MemoryIntent(Clock())
        counts = []
        for records in (0, 0, 1, 0):
            lease = intent.claim()
            counts.append(await lease.losses())
            if records:
                await lease.record([encode_entry(TimerFired("", "sleep", 1, 1))])
            intent.lose()
        return [*counts, await intent.claim().losses()]

    assert asyncio.run(main()) == [0, 1, 2, 1, 2], "a record between them begins anew"
