"""An idle worker costs its server next to nothing, however much is parked, and wakes up at the first work of others."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import redis

from tests.support.fleet import Fleet, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
_OURS = ("cmdstat_info", "cmdstat_client|setinfo")
_LOOK = "cmdstat_pubsub|numsub"
_SECONDS = 12.0
_MOST = 100 / 60 * _SECONDS  # calls a worker


def _calls(server: redis.Redis) -> Counter[str]:
    stats: Any = server.info("commandstats")
    return Counter({name: s["calls"] for name, s in stats.items() if name not in _OURS})


async def _window(server: redis.Redis) -> Counter[str]:
    before = _calls(server)
    await asyncio.sleep(_SECONDS)
    return _calls(server) - before


async def test_idle_workers_call_the_server_seldom_and_notice_when_one_of_them_works(lone_fleet: Fleet) -> None:
    workers = await lone_fleet.start(2)
    for n in range(300):  # parked for longer than the test
        await lone_fleet.client.send("steps", {"n": 1}, delay=3600 + n)
    assert await lone_fleet.client.call("steps", {"n": 2}) == 80
    with redis.Redis.from_url(lone_fleet.server.url) as server:
        made = await _window(server)
        for _ in range(2):  # what was begun before the calm ends in the first
            if made.total() / len(workers) > _MOST:
                made = await _window(server)
        assert made.total() / len(workers) <= _MOST, made
        # the calm ends with the first work: the death of who took it is noticed as fast as ever
        intent = await lone_fleet.client.send("gated", {"gate": "calm"})
        held = await lone_fleet.line(intent, "gated99")
        looks = _calls(server)[_LOOK]
        await until(lambda: _calls(server)[_LOOK] > looks + 10, 20)  # calm ones would take a minute for that
    victim = next(w for w in workers if w.pid == held.pid)
    at = victim.kill()
    taken = await lone_fleet.line(intent, "gated99", count=2)
    assert taken.pid != held.pid
    assert taken.at - at < 8.0, "by its lease it would take ten seconds and more"
    lone_fleet.open("calm")
    assert await lone_fleet.client.wait_for(intent, 30)
