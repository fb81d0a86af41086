"""
Limits under SIGKILL. These are the quick sizes; the full ones (200 kills; 6,000 begun with 30 kills) are commands:

    uv run python -m tests.crash limits | rate
"""

from __future__ import annotations

import json

import pytest

from tests.crash.killing import Drill
from tests.crash.limiting import limit_drill, rate_drill
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


async def test_no_more_than_five_of_a_key_are_inside_through_kills_and_none_is_leaked() -> None:
    plan = Drill(intents=80, steps=3, kills=3, pace=0.1, pause=0.5, concurrency=20, seed=5, within=120)
    figures = await limit_drill(plan)
    print(json.dumps(figures))
    assert figures["kills"] == 3
    assert figures["handlers begun again"] > 0, "no kill hit an intent at work"


async def test_no_second_has_more_than_a_hundred_through_kills() -> None:
    figures = await rate_drill(Drill(30, 15, 2, pace=0.1, pause=0.0, concurrency=20, seed=3, within=120))
    print(json.dumps(figures))
    assert figures["kills"] == 2
    assert figures["a second"] > 40, "the rate was hardly used"


async def test_what_a_frozen_worker_has_goes_over_to_its_heirs_and_to_nobody_else(fleet: Fleet) -> None:
    (zombie,) = await fleet.start(1, lease=1.0)
    held = list(await fleet.client.send_many("keyed", [{"key": "k", "n": 1, "gate": "on"}] * 5))
    for intent in held:
        await fleet.line(intent, "in:handler:k")
    (other,) = await fleet.start(1, lease=1.0)
    zombie.freeze()
    others = list(await fleet.client.send_many("keyed", [{"key": "k", "n": 1, "gate": "on"}] * 3))
    for intent in held:
        taken = await fleet.line(intent, "in:handler:k", count=2, within=60)
        assert taken.pid == other.pid

    async def waiting() -> bool:
        return all([(await fleet.client.get(i)).reason == "LIMIT" for i in others])

    await until(waiting, 60)
    assert not [line for i in others for line in fleet.ledger(i)], "there was no place for them"
    fleet.open("on")
    zombie.thaw()
    for intent in (*held, *others):
        assert await fleet.client.wait_for(intent, 30) == 0
    inside = most = 0
    for line in fleet.ledger():
        if line.pid == other.pid and line.step.endswith("handler:k"):
            inside += 1 if line.step.startswith("in:") else -1
            most = max(most, inside)
    assert (inside, most) == (0, 5)
    await until(lambda: not zombie.alive or fleet.events("attempt.ended", pid=zombie.pid), 60)
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 8}
