"""
Sessions under random SIGKILLs, in two sizes: order, exclusion and state, proved by a ledger outside.

Every attempt at an intent leaves a line where it begins and one where it ends. The file is appended to by all
processes, so the order of its lines is the order of what happened.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from typing import Any

from redurable.store.server import PrivateServer
from tests.crash.killing import Drill, strike
from tests.support.chain import chained
from tests.support.fleet import Fleet
from tests.support.invariants import check_all

__all__ = ["session_drill"]


async def session_drill(plan: Drill) -> dict[str, Any]:
    """
    Play *plan*, its `intents` being sessions and its `steps` the intents of each; return its figures.

    Asserted: in every session each intent begins after the one before it has ended, and never again; each completes,
    once; the state is that of a serial run.
    """
    began = time.monotonic()
    dice = random.Random(plan.seed + 1)
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            fleet.supervise(2, "--concurrency", str(plan.concurrency))
            await fleet.start(2, concurrency=plan.concurrency)
            await fleet.started(4)
            working = time.monotonic()
            sessions = [f"s{i}" for i in range(plan.intents)]
            sent = await asyncio.gather(*(_send(fleet, plan, key, dice) for key in sessions))
            striking = asyncio.create_task(strike(fleet, plan))
            async with asyncio.timeout(plan.within):
                results = await asyncio.gather(*(fleet.client.wait_for(i) for ids in sent for i in ids))
                worked = time.monotonic() - working
                struck = striking.done()
                gone = await striking
            assert results == list(range(plan.steps)) * plan.intents
            figures: dict[str, Any] = _judge(fleet, plan)
            expected = ""
            for n in range(plan.steps):
                expected = chained(expected, n)
            store = await fleet.store()
            for key in sessions:
                state = store.session(store.keys[0], "sessions", key)
                found = [await state.read(name) for name in ("chain", "count")]
                assert found == [b"\xb0" + expected.encode(), bytes([plan.steps])], f"{key}: {found}"
            figures |= {"kills": len(gone), "kills were over first": struck, "seconds of work": round(worked, 1)}
            await fleet.reap()
            assert await check_all(store) == {"COMPLETED": plan.intents * plan.steps}
            troubles = [e for n in ("task.failed", "loop.failed") for e in fleet.events(n)]
            assert not troubles, troubles
    return figures | {"seconds in all": round(time.monotonic() - began, 1)}


async def _send(fleet: Fleet, plan: Drill, key: str, dice: random.Random) -> list[str]:
    payloads = [
        {"n": n, "pause": dice.uniform(0, plan.pause), "nap": dice.random() < 0.02, "raises": dice.random() < 0.05}
        for n in range(plan.steps)
    ]
    return list(await fleet.client.send_many("sessions", payloads, key=key))


def _judge(fleet: Fleet, plan: Drill) -> dict[str, Any]:
    lines: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for line in fleet.ledger():
        word, _, rest = line.step.partition(":")
        key, _, n = rest.rpartition(":")
        if word in ("begin", "end"):
            lines[key].append((word, int(n), line.intent))
    assert len(lines) == plan.intents
    again = 0
    for key, told in lines.items():
        now, ended = 0, False
        intents: dict[int, str] = {}
        for word, n, intent in told:
            if n == now + 1:
                assert ended, f"{key}: {n} began before {now} had ended"
                now, ended = n, False
            assert n == now, f"{key}: {word} of {n} while {now} is the one"
            assert intents.setdefault(n, intent) == intent, f"{key}: two intents are number {n}"
            ended = ended or word == "end"
        assert now == plan.steps - 1
        assert ended
        again += sum(word == "begin" for word, _, _ in told) - plan.steps
    return {"sessions": plan.intents, "intents of each": plan.steps, "begun again": again}
