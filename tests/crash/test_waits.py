"""
Waits under kill -9: children once each, outcomes once each, timers once and on time, one winner of a race.

These are the quick sizes; the full ones are commands of their own:

    uv run python -m tests.crash trees | cancel | timers | races
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from redurable.model import TimerSet
from tests.crash.branching import cancel_drill, tree_drill
from tests.crash.killing import Drill
from tests.crash.timing import race_drill, timer_drill
from tests.support.fleet import Fleet, until

pytestmark = [pytest.mark.anyio, pytest.mark.crash, pytest.mark.timeout(300)]


def told(figures: dict[str, Any]) -> dict[str, Any]:
    """Print *figures*, for who looks at a failure, and return them."""
    print(json.dumps(figures))
    return figures


async def test_a_tree_of_children_is_started_once_and_heard_once_whatever_dies() -> None:
    plan = Drill(5, 2, 4, pace=0.1, pause=0.6, concurrency=100, seed=3, within=90)
    figures = told(await tree_drill(plan))
    assert figures["intents"] == 31
    assert figures["kills"] > 0


async def test_a_cancel_at_the_root_leaves_nothing_open_and_undoes_each_once() -> None:
    plan = Drill(4, 2, 3, pace=0.1, pause=0.5, concurrency=100, seed=5, within=90)
    figures = told(await cancel_drill(plan))
    assert figures["intents"] == 21
    assert figures["kills"] > 0


async def test_timers_fire_once_whoever_dies() -> None:
    plan = Drill(300, 3, 2, pace=0.0, pause=0.0, concurrency=100, seed=2, within=90)
    figures = told(await timer_drill(plan))
    assert figures["kills"] == 2
    assert figures["late p50 ms"] < 500  # on a crowded machine; a lost wake-up would cost seconds


async def test_a_race_has_the_winner_it_had_however_often_it_is_replayed() -> None:
    plan = Drill(6, 0, 2, pace=0.0, pause=0.0, concurrency=100, within=90)
    assert told(await race_drill(plan))["replays of each, at least"] >= 2


async def test_a_timer_of_an_hour_keeps_its_due_time_through_the_deaths_of_workers_and_server(
    lone_fleet: Fleet,
) -> None:
    (worker,) = await lone_fleet.start()
    intent = await lone_fleet.client.send("hour", {"gate": "hour"})
    await lone_fleet.line(intent, "gated99")

    async def due() -> int:
        entries = [entry for _, entry in await lone_fleet.client.history(intent)]
        (timer,) = [e for e in entries if isinstance(e, TimerSet)]
        return timer.due

    async def parked() -> bool:
        return (await lone_fleet.client.get(intent)).wake is not None

    set_at = await due()
    worker.kill()  # while the timer waits in the process, beside a step
    await lone_fleet.start()
    await lone_fleet.line(intent, "gated99", count=2)
    lone_fleet.open("hour")
    await until(parked, 60)
    assert (await lone_fleet.client.get(intent)).wake == set_at
    for process in lone_fleet.processes:
        process.popen.kill()
    lone_fleet.server.kill()
    lone_fleet.server.restart()
    await lone_fleet.start()
    store = await lone_fleet.store()
    keys = store.keys_of(intent)
    assert await store.mux.command("HGET", keys.head(intent), "wake") == str(set_at).encode()
    assert await store.mux.command("ZSCORE", keys.timers, intent) == str(set_at).encode()
    assert await due() == set_at
    await store.wake(intent)  # a look too early: it finds that it is, and waits on
    await until(lambda: lone_fleet.client.get(intent), 60)

    async def waits_again() -> bool:
        found = await lone_fleet.client.get(intent)
        return found.attempt >= 3 and found.wake is not None

    await until(waits_again, 60)
    assert (await lone_fleet.client.get(intent)).wake == set_at
    assert await due() == set_at
