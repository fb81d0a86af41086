"""A poison intent kills every process that runs it; its neighbours are innocent and must not pay for it."""

from __future__ import annotations

import asyncio
import time

import pytest

from redurable.errors import IntentFailed
from tests.support.fleet import Fleet
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


async def test_one_poison_among_99_slow_innocents_fails_alone(fleet: Fleet) -> None:
    fleet.supervise(3, "--concurrency", "40")
    await fleet.event("worker.started", 60)
    payloads = [{"pause": 0.5, "poison": n == 30} for n in range(100)]
    began = time.monotonic()
    intents = await fleet.client.send_many("mixed", payloads)
    results = await asyncio.wait_for(
        asyncio.gather(*(fleet.client.wait_for(i) for i in intents), return_exceptions=True), 60
    )
    took = time.monotonic() - began
    poison = results.pop(30)
    assert results == ["innocent"] * 99
    assert isinstance(poison, IntentFailed)
    assert poison.error is not None
    assert poison.error.code == "DELIVERY_ATTEMPTS_EXHAUSTED"
    deaths = fleet.events("worker.lost", by="parent")
    assert len(deaths) == 3, "it was allowed three owners"
    assert deaths[-1]["worker"] in poison.error.message, "the last worker is named"
    assert "work#0" in poison.error.message, "the last recorded step is named"
    assert [line.step for line in fleet.ledger(intents[30])].count("die1") == 3
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 99, "FAILED": 1}
    print(f"poison: {took:.1f} s for all, suspects {[e['taken'] for e in deaths]}")
