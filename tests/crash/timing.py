"""
Durable timers while workers die, in two sizes: each fires once and on time, and a race has one winner for ever.

Every attempt that gets past its timer, or its race, leaves a line in the ledger that says how late it was, or who won.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

from redurable.bench.report import percentile
from redurable.errors import WrongState
from redurable.model import StepDone, TimerFired, decode_entry
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from tests.crash.killing import Drill
from tests.support.fleet import Fleet, Process, until
from tests.support.invariants import check_all

__all__ = ["race_drill", "timer_drill"]

_WORKERS = 3
_SHADOW = (0.25, 1.0)  # s before and after a kill in which a timer may wait for a recovery
_AT_ONCE = 500


async def timer_drill(plan: Drill) -> dict[str, Any]:
    """
    Let *plan.intents* intents sleep until moments at random in *plan.steps* seconds; kill *plan.kills* of 3 workers.

    Asserted: each timer fired once, none before its time, the step after it is recorded once, all are COMPLETED.
    Told: how late they woke, from the due time to the handler's next line; those due around a kill apart.
    """
    dice = random.Random(plan.seed)
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            workers = await fleet.start(_WORKERS, concurrency=plan.concurrency)
            store = await fleet.store()
            sent = 0
            for lead in (3, 10, 30):
                first = time.time() + lead + plan.intents / 500
                dues = [first + dice.uniform(0, plan.steps) for _ in range(plan.intents)]
                intents = list(await fleet.client.send_many("timed", [{"due": due} for due in dues]))
                sent += plan.intents
                if (spare := await _spare(store, first, plan)) > 0:
                    break
                await asyncio.gather(*(fleet.client.wait_for(i) for i in intents))
            assert spare > 0, "this machine is too slow to park them all before the first is due"
            kills = []
            for n, victim in enumerate(workers[: plan.kills], 1):
                await asyncio.sleep(max(0.0, first + plan.steps * n / (plan.kills + 1) - time.time()))
                kills.append(time.time())
                victim.kill()
            async with asyncio.timeout(plan.within):
                await asyncio.gather(*(fleet.client.wait_for(i) for i in intents))
            await _fired_once(fleet, intents)
            figures = _lateness(fleet, dict(zip(intents, dues, strict=True)), kills)
            await fleet.reap()
            assert await check_all(store) == {"COMPLETED": sent}
    return {"timers": plan.intents, "kills": len(kills), "parked s before": round(spare, 1)} | figures


async def _spare(store: Store, first: float, plan: Drill) -> float:
    """Return how long before *first* all were parked; 0 if they were not by then."""

    async def parked() -> bool:
        over = time.time() >= first
        return over or bool(await store.mux.command("ZCARD", store.keys[0].timers) == plan.intents)

    await until(parked, plan.within, 0.02)
    return max(0.0, first - time.time())


async def _fired_once(fleet: Fleet, intents: list[str]) -> None:
    store = await fleet.store()
    for start in range(0, len(intents), _AT_ONCE):
        some = intents[start : start + _AT_ONCE]
        raw = await asyncio.gather(
            *(store.mux.command("LRANGE", store.keys_of(i).journal(i), 0, -1) for i in some)
        )  # fmt: skip
        for intent, entries in zip(some, raw, strict=True):
            kinds = Counter(type(decode_entry(e)) for e in entries)
            assert kinds[TimerFired] == 1, f"{intent}: {kinds}"
            assert kinds[StepDone] == 1, f"{intent}: {kinds}"


def _lateness(fleet: Fleet, dues: dict[str, float], kills: list[float]) -> dict[str, Any]:
    late: dict[str, float] = {}
    for line in fleet.ledger():
        word, _, value = line.step.partition(":")
        if word == "woke" and line.intent in dues and line.intent not in late:
            late[line.intent] = float(value) * 1000
    assert late.keys() == dues.keys()
    # a due time is kept in whole ms
    assert min(late.values()) > -1.0, f"{min(late.values()):.1f} ms late: before its time"
    shadowed = {i for i, due in dues.items() for k in kills if k - _SHADOW[0] <= due <= k + _SHADOW[1]}
    usual = [ms for i, ms in late.items() if i not in shadowed]
    figures = {"late p50 ms": percentile(usual, 0.5), "late p99 ms": percentile(usual, 0.99), "late max ms": max(usual)}
    if shadowed:
        theirs = [late[i] for i in shadowed]
        figures |= {"around the kills p50 ms": percentile(theirs, 0.5), "around the kills max ms": max(theirs)}
    return {name: round(ms, 2) for name, ms in figures.items()} | {"around the kills": len(shadowed)}


async def race_drill(plan: Drill) -> dict[str, Any]:
    """
    Let *plan.intents* races be decided, half of them by a promise and half by a timer, and kill whoever holds them.

    One of two workers dies at a time, and only when it runs every race: so each race is replayed at each of
    *plan.kills* kills. Asserted: every replay saw the winner that the first attempt saw, and so does the result.
    """
    began = time.monotonic()
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            holder, *_ = await fleet.start(concurrency=plan.concurrency)
            half = plan.intents // 2
            answered = list(await fleet.client.send_many("replayed", [{"late": 3600.0}] * half))
            timed = list(await fleet.client.send_many("replayed", [{"late": 1.2}] * (plan.intents - half)))
            winner = dict.fromkeys(answered, "answer") | dict.fromkeys(timed, "late")
            await asyncio.gather(*(fleet.client.resolve(i, "answer", 1) for i in answered))
            async with asyncio.timeout(plan.within):
                await _all_replayed(fleet, holder, winner)
                # from here on the loser comes too, and changes nothing
                await asyncio.gather(*(_late_answer(fleet, i) for i in timed))
                for _ in range(plan.kills):
                    (heir,) = await fleet.start(concurrency=plan.concurrency)
                    holder.kill()
                    holder = heir
                    await _all_replayed(fleet, holder, winner)
                fleet.open("over")
                results = await asyncio.gather(*(fleet.client.wait_for(i) for i in winner))
            assert results == list(winner.values())
            seen = Counter((line.intent, line.step) for line in fleet.ledger() if line.step.startswith("won:"))
            assert {(i, f"won:{name}") for i, name in winner.items()} == set(seen), "a replay saw another winner"
            await fleet.reap()
            assert await check_all(await fleet.store()) == {"COMPLETED": plan.intents}
    least = min(seen.values())
    assert least > plan.kills
    return {
        "races": plan.intents,
        "kills": plan.kills,
        "replays of each, at least": least - 1,
        "seconds in all": round(time.monotonic() - began, 1),
    }


async def _all_replayed(fleet: Fleet, holder: Process, winner: dict[str, str]) -> None:
    """Return when *holder* runs every race and has got something done in each."""

    def look() -> bool:
        told = Counter(line.intent for line in fleet.ledger() if line.pid == holder.pid and line.step.startswith("on"))
        return all(told[i] >= 2 for i in winner)  # the second body begins after the first one's result is recorded

    await until(look, 60, 0.05)


async def _late_answer(fleet: Fleet, intent: str) -> None:
    try:
        await fleet.client.resolve(intent, "answer", 2)
    except WrongState:
        return  # the losing promise takes no value any more
    raise AssertionError(f"{intent} took an answer after its race was over")
