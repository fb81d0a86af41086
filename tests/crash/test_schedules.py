"""Ticks and bursts under kill -9: each fired once, none left out, whoever is there to fire it."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from datetime import datetime

import pytest

from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
SCHEDULES = [f"drum{n}" for n in range(10)]
EVERY = 0.1
TICKS = 500


async def test_500_ticks_by_three_workers_of_which_two_are_killed_are_each_fired_once(fleet: Fleet) -> None:
    workers = await fleet.start(3)
    put, client = fleet.client.schedules.put, fleet.client
    await asyncio.gather(*(put(name, to="steps", payload={"n": 1}, every=EVERY, catch_up="all") for name in SCHEDULES))

    async def fired(least: int) -> bool:
        return sum([(await client.schedules.get(name)).fired for name in SCHEDULES]) >= least

    for worker, share in zip(workers, (TICKS // 3, 2 * TICKS // 3), strict=False):
        await until(lambda share=share: fired(share), 60, 0.05)  # type: ignore[misc]
        worker.kill()
    await until(lambda: fired(TICKS), 60, 0.05)
    await asyncio.gather(*(client.schedules.pause(name) for name in SCHEDULES))

    infos = {name: await client.schedules.get(name) for name in SCHEDULES}
    ticks: dict[str, list[datetime]] = defaultdict(list)
    intents = await client.list(queue="steps", limit=100_000)
    for intent in intents:
        ticks[intent.labels["schedule"]].append(datetime.fromisoformat(intent.labels["tick"]))
    assert len(intents) >= TICKS
    for name, info in infos.items():
        found = sorted(ticks[name])
        assert len(found) == info.fired, "as many intents as firings"
        assert {round((b - a).total_seconds(), 3) for a, b in itertools.pairwise(found)} == {EVERY}, "none twice or out"
        assert (info.missed, info.skipped) == (0, 0)

    told = [event["intent"] for event in fleet.events("schedule.fired")]
    assert len(told) == len(set(told)), "one of them tells of a tick"
    assert set(told) <= {intent.id for intent in intents}
    for intent in intents:
        assert await client.wait_for(intent.id, 30) == 40
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": len(intents)}


async def test_what_fell_due_while_no_worker_was_there_is_made_up_by_the_rule(fleet: Fleet) -> None:
    client = fleet.client
    for rule in ("all", "one", "none"):
        await client.schedules.put(rule, to="steps", payload={"n": 0}, every=0.2, catch_up=rule, window=600)
    first = (await client.schedules.get("all")).next
    assert first is not None
    await asyncio.sleep(1.5)
    await fleet.start(1)

    async def over(name: str) -> bool:
        info = await client.schedules.get(name)
        return info.fired > 0 and info.fired + info.missed >= 10

    for rule in ("all", "one", "none"):
        await until(lambda rule=rule: over(rule), 60)  # type: ignore[misc]
        await client.schedules.pause(rule)
    made_up, latest, none = [await client.schedules.get(rule) for rule in ("all", "one", "none")]
    assert made_up.missed == 0
    assert latest.missed >= 5
    assert none.missed >= 5
    ticks = sorted(i.labels["tick"] for i in await client.list(label=("schedule", "all"), limit=1000))
    assert datetime.fromisoformat(ticks[0]).timestamp() * 1000 == first


async def test_a_burst_outlives_the_worker_that_would_have_started_it(fleet: Fleet) -> None:
    (first,) = await fleet.start(1)
    sent = {await fleet.client.send("steps", {"n": n}, debounce=1.5) for n in range(3)}
    first.kill()
    await fleet.start(1)
    (intent,) = sent
    assert await fleet.client.wait_for(intent, 30) == 2 * 40
    assert len(fleet.ledger(intent)) == 2
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}
