"""
The programs whose journals released versions wrote: `tests/replay/<release>/<program>.jsonl`.

A program that stands here is never changed, not even its names: the files hold journals of these very functions.
What a new release can record gets a new program. Each comes, after what its name says, to a pause; there its journal
was exported. `RAN` names the bodies that ran in this process: on a replay those after the pause, no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redurable import (
    IntentFailed,
    PromiseRejected,
    Retry,
    StepFailed,
    TerminalError,
    call,
    checkpoint,
    compensate,
    continue_as_new,
    handler,
    last_checkpoint,
    now,
    patched,
    promise,
    race,
    random,
    run,
    sleep,
    step,
    sync,
    uuid4,
)

RAN: list[str] = []
FAULTS: set[str] = set()  # what goes wrong while the journals are written
ONCE = Retry(attempts=1)
SOON = Retry(attempts=5, first=2.0, factor=1, jitter=False)


@dataclass
class Loaf:
    """A value with a type."""

    name: str
    grams: int


@step
async def bake(name: str, grams: int = 500) -> Loaf:
    RAN.append(f"bake {name}")
    return Loaf(name, grams)


@step(retry=ONCE)
async def burn(name: str) -> None:
    RAN.append(f"burn {name}")
    raise LookupError(f"no oven for {name}")


@step(retry=SOON)
async def knead(name: str) -> str:
    RAN.append(f"knead {name}")
    if "knead" in FAULTS:
        raise OSError("no flour yet")
    return f"kneaded {name}"


@step(id=lambda key: key)
async def tool(key: str) -> str:
    RAN.append(f"tool {key}")
    return key.upper()


@step
async def order(names: list[str]) -> list[str]:
    RAN.append("order")
    return [(await bake(name)).name for name in names]


@step
async def hang() -> None:
    RAN.append("hang")
    await asyncio.sleep(3600)


@step(retry=SOON)
async def refund(cents: int) -> int:
    RAN.append(f"refund {cents}")
    if "refund" in FAULTS:
        raise OSError("the bank is closed")
    return cents


@step(retry=Retry(attempts=9, first=2.0, factor=1, jitter=False))
async def count(to: int) -> int:
    RAN.append("count")
    begun = int(await last_checkpoint(int, 0))
    await checkpoint(to // 2)
    if "count" in FAULTS:
        raise OSError("half way")
    return begun


@step
def weigh(name: str) -> int:
    RAN.append(f"weigh {name}")
    return len(name)


async def pause() -> None:
    """Where a journal is exported."""
    await sleep(timedelta(seconds=2))


@handler(queue="steps")
async def steps(names: list[str]) -> list[Any]:
    """Results with a type, a failure that is caught, a timer that fired, time and chance."""
    loaves = [await bake(name, grams=i) for i, name in enumerate(names)]
    try:
        await burn("rye")
    except StepFailed as failed:
        caught = [failed.type, failed.reason, failed.tries, failed.matches(LookupError)]
    await sleep(0.01)
    stamp = [now().timestamp(), random(), str(uuid4())]
    stood = await run("stamp", _same, stamp)
    values = await run("values", _values)
    await pause()
    last = await bake("last")
    return [[loaf.name for loaf in loaves], caught, stood == stamp, values, last.grams]


async def _same(value: list[Any]) -> list[Any]:
    RAN.append("stamp")
    return value


async def _values() -> dict[str, Any]:
    RAN.append("values")
    return {"none": None, "text": "é", "list": [1, 2.5, True], "nested": {"a": {"b": []}}}


@handler(queue="branches")
async def branches(names: list[str]) -> Any:
    """Branches by gather and TaskGroup, a step in a step, calls with ids of their own."""
    loaves = await asyncio.gather(*(bake(name) for name in names), weigh.aio("flour"))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(order(["a", "b"]))
        second = group.create_task(order(["c"]))
    tools = [await tool(key) for key in ("k2", "k1")]
    await asyncio.gather(pause(), bake("meanwhile"))
    more = await asyncio.gather(tool("k3"), order(["d"]))
    return [[getattr(loaf, "name", loaf) for loaf in loaves], first.result(), second.result(), tools, more]


@handler(queue="given_up")
async def given_up(payload: None) -> list[Any]:
    """A call that is cancelled while its scope goes on, and a race whose loser is."""
    try:
        async with asyncio.timeout(0.05):
            await hang()
    except TimeoutError:
        pass
    tasks = {asyncio.create_task(each, name=name) for name, each in (("fast", bake("fast")), ("slow", hang()))}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    winners = sorted(task.get_name() for task in done)
    await bake("after")
    await pause()
    return [winners, (await bake("last")).name]


@handler(queue="tried")
async def tried(payload: None) -> str:
    """A step whose next try is due: the intent waits for it."""
    await bake("first")
    return await knead("dough")


@handler(queue="half_way")
async def half_way(to: int) -> int:
    """A long step that kept its cursor and failed."""
    return await count(to)


@handler(queue="again", retry=Retry(attempts=5, first=2.0, factor=1, jitter=False))
async def again(payload: None) -> str:
    """A handler that raised: its second attempt is due."""
    loaf = await bake("kept")
    if "again" in FAULTS:
        raise ConnectionError("the handler lost its way")
    return f"{loaf.name}, {(await bake('live')).name}"


@handler(queue="reopened")
async def reopened(payload: None) -> list[str]:
    """An intent that failed, and that an operator retried."""
    loaf = await bake("kept")
    broken = await mended("dough")
    await pause()
    return [loaf.name, broken, (await bake("last")).name]


@step(retry=ONCE)
async def mended(name: str) -> str:
    RAN.append(f"mended {name}")
    if "mended" in FAULTS:
        raise LookupError("not yet")
    return f"mended {name}"


@handler(queue="undone")
async def undone(payload: None) -> None:
    """Undo work of a failure that has begun and has to be tried again."""
    await bake("sold")
    compensate(refund, 250)
    await burn("all")


@handler(queue="canceled")
async def canceled(payload: None) -> None:
    """A cancel that the handler has met; its undo work has to be tried again."""
    await bake("sold")
    compensate(refund, 100)
    await sleep(3600)


@handler(queue="plain")
def plain(names: list[str]) -> list[Any]:
    """A plain function, its branches threads."""
    weights = sync.gather(*(lambda name=name: weigh(name) for name in names))
    sync.sleep(0.01)
    sync.sleep(2.0)
    return [weights, weigh("the last")]


@handler(queue="told")
async def told(payload: None) -> list[Any]:
    """A promise that was resolved, one that was rejected, one that was too late and lost a race."""
    found: list[Any] = [await promise("count", int)]
    try:
        await promise("refused")
    except PromiseRejected as error:
        found.append([error.name, error.reason, error.by])
    won = await race(answer=promise("answer").wait(3600), oven=bake("bun"))
    found.append([won.name, won.value.name])
    await pause()
    return [*found, (await bake("last")).name]


@handler(queue="called")
async def called(n: int) -> int:
    """A child that completed, and one that failed: both are intents of this very handler."""
    if n <= 0:
        if n < 0:
            raise TerminalError("below zero")
        return 40
    try:
        await call(called, -1)
    except IntentFailed as failed:
        n += len(failed.status)
    n += await call(called, 0)
    await pause()
    return n + (await bake("last")).grams


@handler(queue="turns")
async def turns(n: int) -> list[Any]:
    """The third turn of a handler that continues as new."""
    loaf = await bake(f"turn {n}")
    if n < 3:
        continue_as_new(n + 1)
    await pause()
    return [n, loaf.name, (await bake("last")).name]


@handler(queue="changed")
async def changed(name: str) -> list[Any]:
    """Code that was changed: its journals have the mark of it."""
    loaf = await bake(name)
    way = ["new" if patched("grams") else "old"]
    await bake("meanwhile")
    await pause()
    return [loaf.name, *way, patched("grams"), (await bake("last")).name]


@handler(queue="forked")
async def forked(names: list[str]) -> list[Any]:
    """One that was forked before its second step; what is drawn before it is the first one's."""
    drawn = [random(), str(uuid4()), now().timestamp()]
    stood = await run("stamp", _same, drawn)
    drawn += [random(), now().timestamp()]
    loaf = await bake(*names)
    await pause()
    return [stood == drawn[:3], loaf.name, (await bake("last")).name]


@dataclass(frozen=True)
class Program:
    """
    A program, and what its replay has to come to.

    Attributes:
        faults: What goes wrong while its journal is written.
        ends: The status it ends with, with *result*.
        runs: The bodies that run on a replay.
        kinds: Entries that its journal must hold.
    """

    function: Callable[..., Any]
    payload: Any
    ends: str
    result: Any
    runs: tuple[str, ...]
    kinds: tuple[str, ...]
    faults: tuple[str, ...] = ()


_VALUES = {"none": None, "text": "é", "list": [1, 2.5, True], "nested": {"a": {"b": []}}}
PROGRAMS: dict[str, Program] = {
    p.function.__name__: p
    for p in (
        Program(
            steps, ["x", "y"], "COMPLETED",
            [["x", "y"], ["builtins.LookupError", "no oven for rye", 1, True], True, _VALUES, 500],
            ("bake last",), ("StepDone", "StepFailedEntry", "TimerSet", "TimerFired"),
        ),
        Program(
            branches, ["p", "q"], "COMPLETED",
            [["p", "q", 5], ["a", "b"], ["c"], ["K2", "K1"], ["K3", ["d"]]],
            ("bake d", "order", "tool k3"), ("StepDone", "TimerSet"),
        ),
        Program(given_up, None, "COMPLETED", [["fast"], "last"], ("bake last",), ("StepDone", "TimerSet")),
        Program(tried, None, "COMPLETED", "kneaded dough", ("knead dough",), ("StepTried",), ("knead",)),
        Program(half_way, 10, "COMPLETED", 5, ("count",), ("StepTried",), ("count",)),
        Program(again, None, "COMPLETED", "kept, live", ("bake live",), ("AttemptFailed",), ("again",)),
        Program(
            reopened, None, "COMPLETED", ["kept", "mended dough", "last"], ("bake last",),
            ("Reopened", "Claimed"), ("mended",),
        ),
        Program(
            undone, None, "FAILED", "redurable.errors.StepFailed", ("refund 250",),
            ("Compensating", "StepTried", "StepFailedEntry"), ("refund",),
        ),
        Program(
            canceled, None, "CANCELED", "redurable.CANCELED", ("refund 100",),
            ("CancelRequested", "Compensating", "StepTried"), ("refund",),
        ),
        Program(plain, ["a", "bc"], "COMPLETED", [[1, 2], 8], ("weigh the last",), ("StepDone", "TimerFired")),
        Program(
            told, None, "COMPLETED", [7, ["refused", "no", "ann"], ["oven", "bun"], "last"], ("bake last",),
            ("Arrived", "TimerSet", "StepDone"),
        ),
        Program(called, 1, "COMPLETED", 547, ("bake last",), ("Called", "Arrived")),
        Program(turns, 1, "COMPLETED", [3, "turn 3", "last"], ("bake last",), ("Continued", "Claimed", "StepDone")),
        Program(changed, "bun", "COMPLETED", ["bun", "new", True, "last"], ("bake last",), ("Patched", "StepDone")),
        Program(forked, ["bun"], "COMPLETED", [True, "bun", "last"], ("bake last",), ("Forked", "Claimed", "StepDone")),
    )
}  # fmt: skip
