"""The application of the turmoil drill: programs made of everything that a handler can do, chosen by a seed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from redurable import (
    Limit,
    Retry,
    call,
    compensate,
    current,
    emit,
    handler,
    progress,
    promise,
    race,
    sleep,
    state,
    step,
)
from tests.crash.app import note

__all__ = ["PROMISES", "QUEUE", "expected", "program", "turmoil"]

QUEUE = "turmoil"
PROMISES = ("red", "green", "blue")
Op = tuple[str, Any]


def program(seed: int, depth: int) -> list[Op]:
    """Return what the intent of *seed* does, in order; below *depth* 1 it has no children."""
    dice = random.Random(seed)
    names = list(PROMISES)
    dice.shuffle(names)
    ops: list[Op] = []
    for _ in range(dice.randint(3, 8)):
        kind = dice.choice(
            ("work", "gather", "nap", "promise", "race", "child", "children", "state", "raise", "limited")
        )
        if kind in ("promise", "race"):
            if names:
                ops.append((kind, names.pop()))
        elif kind in ("child", "children"):
            if depth:
                count = 1 if kind == "child" else 3
                ops.append((kind, [dice.randrange(1_000_000) for _ in range(count)]))
        else:
            ops.append((kind, dice.randint(2, 4) if kind == "gather" else dice.choice((0.01, 0.3, 1.2))))
    return ops


def expected(seed: int, depth: int) -> int:
    """Return the result of the intent of *seed*, if it completes."""
    total = 0
    for kind, what in program(seed, depth):
        if kind == "gather":
            total += int(what)
        elif kind in ("child", "children"):
            total += sum(expected(child, depth - 1) for child in what)
        else:
            total += 1
    return total


@step(id=lambda name, *_: name)
async def work(name: str, pause: float) -> int:
    note(f"work:{name}")
    await asyncio.sleep(pause)
    return 1


@step(id=lambda name, *_: name, limit=Limit("taps", concurrency=3, rate=30, per=1.0))
async def rationed(name: str, pause: float) -> int:
    note(f"rationed:{name}")
    progress(1, 2)
    await asyncio.sleep(pause)
    return 1


@step(id=lambda name: name)
async def undo(name: str) -> None:
    note(f"undo:{name}")


@handler(queue=QUEUE, retry=Retry(attempts=3, first=0.01), max_delivery_attempts=1000)
async def turmoil(payload: dict[str, int]) -> int:
    """Run the program of `payload["seed"]`; returns how much was done."""
    depth, total = payload["depth"], 0
    for n, (kind, what) in enumerate(program(payload["seed"], depth)):
        match kind:
            case "work":
                total += await work(f"{n}", what / 10)
                compensate(undo, f"{n}")
            case "gather":
                total += sum(await asyncio.gather(*(work(f"{n}.{k}", 0.02 * k) for k in range(what))))
            case "limited":
                emit({"op": n})
                total += await rationed(f"{n}", what / 10)
            case "nap":
                await sleep(what)
                total += 1
            case "promise":
                total += await promise(what, int)
            case "race":
                won = await race(answer=promise(what, int), late=sleep(0.5))
                total += 1 if won.name == "late" else won.value
            case "child" | "children":
                below = ({"seed": child, "depth": depth - 1} for child in what)
                total += sum(await asyncio.gather(*(call(turmoil, child) for child in below)))
            case "state":
                if current().key:
                    await state.set("seen", await state.get("seen", of=int, default=0) + 1)
                total += 1
            case "raise":
                if current().attempt == 1:
                    raise ValueError("once")
                total += 1
    return total
