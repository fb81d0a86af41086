"""
The application of the crash tests: handlers whose step bodies leave a line each in a ledger that redurable never reads.

A line is (monotonic time, pid, epoch, intent, step); it is one write to a file opened with O_APPEND, so that lines of
many processes never mix and a SIGKILL leaves whole lines only. Events that tests wait for go to a second file alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redurable import (
    Limit,
    Retry,
    call,
    compensate,
    continue_as_new,
    current,
    handler,
    promise,
    race,
    sleep,
    sleep_until,
    state,
    step,
)
from redurable.events import subscribe
from tests.support.chain import chained

ROOM = Path(os.environ.get("CRASH_ROOM") or tempfile.mkdtemp(prefix="crash-"))
_WATCHED = (
    "attempt.started", "attempt.ended", "attempt.fenced", "handler.abandoned", "handler.failed", "worker.started",
    "worker.draining", "worker.stopped", "worker.lost", "worker.orphaned", "worker.stalled", "loop.blocked",
    "loop.failed", "task.failed", "lease.overdue", "intents.mended", "streams.reopened", "store.connected",
    "store.disconnected", "renewal.failed", "recovery.failed", "entries.returned", "loss.taken_back",
    "schedule.fired",
)  # fmt: skip


def _append(name: str) -> int:
    return os.open(ROOM / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


_ledger, _events = _append("ledger"), _append("events")


def _tell(name: str, fields: dict[str, Any]) -> None:
    line = {"event": name, "now": time.monotonic(), "pid": os.getpid(), **fields}
    os.write(_events, (json.dumps(line, default=repr) + "\n").encode())


subscribe(_tell, _WATCHED)


def note(name: str) -> None:
    """Leave a line in the ledger: the body of the step *name* begins."""
    here = current()
    os.write(_ledger, f"{time.monotonic():.6f} {os.getpid()} {here.epoch} {here.id} {name}\n".encode())


@contextlib.contextmanager
def visit(room: str) -> Iterator[None]:
    """Leave a line at the beginning and at the end."""
    note(f"in:{room}")
    try:
        yield
    finally:
        note(f"out:{room}")


async def gate(name: str) -> None:
    """Return once the test has opened the gate *name*."""
    while not (ROOM / name).exists():
        await asyncio.sleep(0.005)


# the caller's number is the identity, so that ledger and journal call a step alike
@step(id=lambda n, *_: str(n))
async def work(n: int, pause: float) -> str:
    note(f"work{n}")
    if pause:
        await asyncio.sleep(pause)
    return f"{n:04d}" * 10


@handler(queue="steps")
async def steps(payload: dict[str, Any]) -> int:
    """*n* steps of *pause* seconds each; returns how many characters came back."""
    total = 0
    for n in range(payload["n"]):
        total += len(await work(n, payload.get("pause", 0.0)))
    return total


@step
async def die() -> None:
    note("die1")
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)


@handler(queue="mixed")
async def mixed(payload: dict[str, Any]) -> str:
    """A slow innocent, or the poison that kills the process it runs in."""
    await work(0, 0.0)
    if payload.get("poison"):
        await die()
    await work(1, payload.get("pause", 0.0))
    return "innocent"


@step(id=lambda n, *_: str(n))
async def gated(n: int, name: str) -> int:
    note(f"gated{n}")
    await gate(name)
    return n


@handler(queue="gated")
async def gatekeeper(payload: dict[str, Any]) -> list[int]:
    """*before* quick steps, one that waits for the gate, *after* quick steps."""
    done = []
    for n in range(payload.get("before", 3)):
        await work(n, 0.0)
        done.append(n)
    done.append(await gated(99, payload["gate"]))
    for n in range(payload.get("after", 2)):
        await work(100 + n, 0.0)
        done.append(100 + n)
    return done


@handler(queue="blocking")
async def blocking(payload: dict[str, Any]) -> str:
    """Blocks the event loop, the first time only if *once*."""
    await work(0, 0.0)
    first = current().attempt == 1
    if first or not payload.get("once"):
        time.sleep(payload["seconds"])
    await work(1, 0.0)
    return "unblocked"


@handler(queue="stuck")
def stuck(payload: dict[str, Any]) -> str:
    """A sync handler that does not listen until its gate is open."""
    note("stuck")
    while not (ROOM / payload["gate"]).exists():
        time.sleep(0.01)
    note("unstuck")
    return f"attempt {current().attempt}"


@handler(queue="settling")
async def settling(payload: dict[str, Any]) -> int:
    """One step, then a wait that is not durable; returns its attempt."""
    await work(0, 0.0)
    await gate(payload["gate"])
    return current().attempt


@handler(queue="slow")
async def slow(payload: dict[str, Any]) -> int:
    """*n* steps, each behind a gate of its own: slow0, slow1, ..."""
    for n in range(payload["n"]):
        await gated(n, f"slow{n}")
    return int(payload["n"])


@step
async def turn(pause: float) -> None:
    await asyncio.sleep(pause)


@handler(queue="sessions", retry=Retry(attempts=3, first=0.01), max_delivery_attempts=10)
async def in_session(payload: dict[str, Any]) -> int:
    """The *n*-th of its session: reads the state, works, perhaps naps or raises once, writes the state."""
    n = payload["n"]
    note(f"begin:{current().key}:{n}")
    chain = await state.get("chain", of=str, default="")
    await turn(payload["pause"])
    await state.set("chain", chained(chain, n))
    if payload.get("nap"):
        await sleep(1.1)  # it parks: what was written so far is known from here on
    if payload.get("raises") and current().attempt == 1:
        raise ValueError("once")
    count = await state.get("count", of=int, default=0)
    await turn(payload["pause"] / 2)
    await state.set("count", count + 1)
    note(f"end:{current().key}:{n}")
    return count


@step
async def undo(name: str, pause: float) -> None:
    note(f"undo:{name}")
    await asyncio.sleep(pause)


@handler(queue="tree", retry=Retry(attempts=3, first=0.01), max_delivery_attempts=20)
async def tree(payload: dict[str, Any]) -> int:
    """A node with *width* children, down to depth 0; returns how many leaves there are below."""
    name, depth = payload["name"], payload["depth"]
    compensate(undo, name, payload.get("pause", 0.0))
    await work(0, payload.get("pause", 0.0))
    if depth == 0:
        return int(await promise("leave", int)) if payload.get("waits") else 1
    below = [payload | {"name": f"{name}{n}", "depth": depth - 1} for n in range(payload["width"])]
    return sum(await asyncio.gather(*(call(tree, child) for child in below)))


@handler(queue="timed", max_delivery_attempts=20)
async def timed(payload: dict[str, Any]) -> None:
    """Sleeps until *due*, tells how late it woke, makes a step."""
    await sleep_until(datetime.fromtimestamp(payload["due"], UTC))
    note(f"woke:{time.time() - payload['due']:.6f}")
    await turn(0.0)


@handler(queue="hour")
async def hour(payload: dict[str, Any]) -> None:
    """Sleeps for an hour beside a step that waits for its gate."""
    await asyncio.gather(sleep(3600), gated(99, payload["gate"]))


@step(id=lambda n: str(n))
async def over(n: int) -> bool:
    note(f"on{n}")
    await asyncio.sleep(0.2)
    return (ROOM / "over").exists()


@handler(queue="replayed", max_delivery_attempts=1000)
async def replayed(payload: dict[str, Any]) -> str:
    """A promise against a clock, then steps until the test is over; each attempt leaves the winner in the ledger."""
    won = await race(answer=promise("answer", int), late=sleep(payload["late"]))
    note(f"won:{won.name}")
    n = 0
    while not await over(n):
        n += 1
    return won.name


@handler(queue="turns")
async def turns(payload: dict[str, Any]) -> int:
    """*n* turns more, a step in each; returns how many there were."""
    await turn(0.0)
    if payload["n"] > 1:
        continue_as_new({"n": payload["n"] - 1, "done": payload["done"] + 1})
    return int(payload["done"]) + 1


@handler(queue="asks")
async def asks(payload: None) -> int:
    """Waits for a promise that nobody keeps."""
    return await promise("never", int)


@step(id=lambda key, n, *_: str(n), limit=Limit("inner", concurrency=3, key="key"))
async def inner(key: str, n: int, pause: float) -> int:
    with visit(f"step:{key}"):
        await asyncio.sleep(pause)
    return n


@handler(queue="keyed", limit=Limit(concurrency=5, key="key"), max_delivery_attempts=20)
async def keyed(payload: dict[str, Any]) -> int:
    """*n* steps of *pause* seconds each; five of a key at a time, and three of its steps."""
    with visit(f"handler:{payload['key']}"):
        if "gate" in payload:
            await gate(payload["gate"])
        return sum([await inner(payload["key"], n, payload.get("pause", 0.0)) for n in range(payload["n"])])


@step(id=lambda n: str(n), limit=Limit("api", rate=100, per=1.0))
async def call_api(n: int) -> int:
    note(f"api:{time.time():.6f}")  # the server is on this machine: its clock
    return n


@handler(queue="metered", max_delivery_attempts=20)
async def metered(payload: dict[str, Any]) -> int:
    """*n* steps that all share a rate."""
    return sum([await call_api(n) for n in range(payload["n"])])
