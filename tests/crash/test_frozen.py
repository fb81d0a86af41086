"""
A process that stood still for longer than its lease begins nothing of an intent that another has by then.

What gives it the chance: the answer to its last record, or to its last claim, is read when it goes on. A body that had
begun before goes on; so may the one body of a process that was stopped between its last look at the clock and the
body's first line.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from redurable.store.keeper import Keeper
from redurable.store.private import PrivateServer
from tests.crash.freezing import KINDS
from tests.support.fleet import Fleet, Line, Process, judge, until
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio
LEASE = 1.0


async def _nothing_left(fleet: Fleet, frozen: list[Process]) -> None:
    """Return when others have taken all that the *frozen* held."""
    keeper = Keeper(await fleet.store(), 0, "outside")

    async def none() -> bool:
        streams = await keeper.all_streams()
        return not any([await keeper.pending(s, owner=p.id) for s in streams for p in frozen])

    await until(none, 60)


def _late(lines: list[Line]) -> list[Line]:
    """Return those whose intent another attempt had begun to work on before."""
    newest: dict[str, int] = {}
    late = []
    for line in lines:  # in the order of their writing
        if line.epoch < newest.setdefault(line.intent, line.epoch):
            late.append(line)
        newest[line.intent] = max(line.epoch, newest[line.intent])
    return late


async def test_no_body_begins_behind_a_record_that_is_answered_while_the_process_stands_still(
    lone_fleet: Fleet,
) -> None:
    fleet, target = lone_fleet, "tests.crash.freezing"
    (frozen,) = await fleet.start(1, lease=LEASE, target=target)
    ids = [await fleet.client.send(kind, None) for kind in KINDS for _ in range(4)]
    for intent in ids:
        await fleet.line(intent, "first")
    (other,) = await fleet.start(1, lease=LEASE, target=target)
    fleet.server.freeze()
    fleet.open("frozen")
    for intent in ids:
        await fleet.line(intent, "ending")
    await asyncio.sleep(0.5)  # each record has left, and none is answered
    frozen.freeze()
    fleet.server.thaw()
    for intent in ids:
        await fleet.line(intent, "second")
    await _nothing_left(fleet, [frozen])
    frozen.thaw()
    for intent in ids:
        await fleet.event("attempt.ended", pid=frozen.pid, intent=intent, ended="lost")
        lines = [(line.step, line.pid) for line in fleet.ledger(intent)]
        assert lines == [("first", frozen.pid), ("ending", frozen.pid), ("second", other.pid)]
    assert not fleet.events("task.failed")
    await fleet.reap()


@pytest.fixture
async def far_fleet(shared_server: PrivateServer, namespace: str) -> AsyncIterator[Fleet]:
    """A fleet whose workers are far from their server: at any moment many an answer is on its way."""
    async with Proxy(shared_server.port or 0) as proxy, Fleet(shared_server, namespace, url=proxy.url) as fleet:
        proxy.latency = 0.01
        yield fleet


async def test_stops_at_random_begin_no_body_that_another_has_taken_over(far_fleet: Fleet) -> None:
    chance, fleet = random.Random(11), far_fleet
    workers = await fleet.start(3, lease=LEASE, concurrency=20)
    ids = [await fleet.client.send("steps", {"n": 90, "pause": 0.02}) for _ in range(30)]
    stops = 0
    for _ in range(3):
        frozen = chance.sample(workers, 2)
        await asyncio.sleep(chance.random())
        for process in frozen:
            process.freeze()
            stops += 1
        await _nothing_left(fleet, frozen)
        await asyncio.sleep(chance.random())
        for process in frozen:
            process.thaw()
    for intent in ids:
        await fleet.client.wait_for(intent, 60)
    await fleet.reap()
    late = _late(fleet.ledger())
    print(f"{len(late)} late of {len(fleet.ledger())}, {len(fleet.events('attempt.fenced'))} fenced")
    assert fleet.events("attempt.fenced"), "nothing was taken from a frozen process"
    assert len(late) <= stops // 3, late  # stopped on the very threshold
    await judge(fleet, ids)
