"""A rolling upgrade to code that cannot read the journals of the old one, under load and SIGKILLs."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import pytest

from redurable import IntentId, Status
from tests.support.fleet import Fleet, Process, until
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio
ORDERS = {"v1": ["fetch", "check", "pack", "ship"], "v2": ["check", "weigh", "fetch", "ship", "tell"]}


class Rollout:
    """Workers of two versions, each killed and replaced as the dice say."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.alive: dict[str, list[Process]] = defaultdict(list)
        self.dice = random.Random(11)

    async def start(self, version: str, count: int) -> None:
        """Add *count* workers of *version*."""
        target = f"tests.crash.release{version[1:]}"
        self.alive[version] += await self.fleet.start(count, target=target, version=version, concurrency=8)

    async def strike(self, version: str) -> None:
        """Kill one worker of *version*, and start another in its place."""
        victim = self.alive[version].pop(self.dice.randrange(len(self.alive[version])))
        victim.kill()
        await self.start(version, 1)


def _ran(fleet: Fleet) -> dict[str, set[str]]:
    """Return which releases ran steps of each intent, by the ledger; each under the version it was pinned to."""
    ran: dict[str, set[str]] = defaultdict(set)
    for line in fleet.ledger():
        release, _, version = line.step.split(":")
        assert release == version, line
        ran[line.intent].add(release)
    return ran


@pytest.mark.timeout(240)  # eight processes start, one after the other
async def test_in_a_rolling_upgrade_every_intent_ends_on_the_version_it_began_on(fleet: Fleet) -> None:
    rollout, client = Rollout(fleet), fleet.client
    await rollout.start("v1", 2)
    payload = {"pause": 0.02, "nap": 0.4, "child": True}
    sent: list[IntentId[object]] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            sent.append(await client.send("release", payload))
            await asyncio.sleep(0.03)

    loading = asyncio.create_task(load())
    await until(lambda: len(_ran(fleet)) >= 10, 60)
    await rollout.strike("v1")
    await rollout.start("v2", 2)  # the newest: from here on fresh work is its own
    for version in ("v1", "v2"):
        await rollout.strike(version)
    await until(lambda: sum("v2" in some for some in _ran(fleet).values()) >= 10, 60)
    stop.set()
    await loading
    results = await asyncio.gather(*(client.wait_for(i, timeout=120) for i in sent))
    ran = _ran(fleet)
    for intent, result in zip(sent, results, strict=True):
        (release,) = ran[intent]
        assert result == [release] * len(ORDERS[release])
    assert all(len(some) == 1 for some in ran.values()), "an intent ran on two releases"
    began = {release: sum(some == {release} for some in ran.values()) for release in ORDERS}
    assert min(began.values()) >= 10, began
    rows = {d.version: d for d in await client.deployments.list()}
    assert (rows["v1"].safe, rows["v1"].intents, rows["v2"].current) == (True, 0, True)
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": len(ran)}


@pytest.mark.timeout(300)
async def test_a_promotion_reaches_workers_that_wait_and_the_old_one_waits_for_its_own(fleet: Fleet) -> None:
    rollout, client = Rollout(fleet), fleet.client
    await rollout.start("v1", 1)
    old = await client.send("release", {"pause": 0.0, "nap": None})
    await until(lambda: _ran(fleet).get(old), 60)
    await rollout.start("v2", 1)
    await client.deployments.promote("release", "v1")
    back = await client.send("release", {"pause": 0.0, "nap": 0.0})
    assert await client.wait_for(back, timeout=60) == ["v1"] * 4
    for process in rollout.alive["v1"]:
        process.kill()
    await until(lambda: _stranded(fleet), 60)
    await client.deployments.promote("release", None)
    new = await client.send("release", {"pause": 0.0, "nap": 0.0})
    assert await client.wait_for(new, timeout=60) == ["v2"] * 5
    await client.resolve(old, "go", 1)
    assert (await client.get(old)).status == "SUBMITTED", "nobody else takes it"
    await rollout.start("v1", 1)
    assert await client.wait_for(old, timeout=60) == ["v1"] * 4
    assert (await client.get(old)).version == "v1"


@pytest.mark.timeout(300)
async def test_without_versions_unfit_code_holds_what_is_open_and_the_old_code_ends_it(fleet: Fleet) -> None:
    client, v1, v2 = fleet.client, "tests.crash.release1", "tests.crash.release2"
    (old,) = await fleet.start(1, target=v1)
    sent = list(await client.send_many("release", [{"pause": 0.0, "nap": None}] * 20))

    async def rest() -> bool:
        return all([(await client.get(intent)).status is Status.WAITING for intent in sent])

    await until(rest, 60)  # killed at work it would begin a step again
    old.kill()
    (bad,) = await fleet.start(1, target=v2)
    for intent in sent:
        await client.resolve(intent, "go", 1)
    fresh = await client.send("release", {"pause": 0.0, "nap": 0.0})
    assert await client.wait_for(fresh, timeout=60) == ["v2"] * 5

    async def held() -> bool:
        seen = [await client.get(intent) for intent in sent]
        return all(info.reason == "HELD" and (info.held or "").startswith("JOURNAL_MISMATCH: entry") for info in seen)

    await until(held, 60)
    bad.terminate()
    assert await bad.ended() == 0
    assert not fleet.events("handler.failed")
    await fleet.start(1, target=v1)
    results = await asyncio.gather(*(client.wait_for(i, timeout=60) for i in sent))
    assert results == [["v1"] * 4] * 20
    for intent in sent:
        ran = [line.step.split(":")[1] for line in fleet.ledger(intent)]
        assert ran == ORDERS["v1"], "each step once, under the code that it began on"


async def _stranded(fleet: Fleet) -> bool:
    return any(d.why == "has work and no worker" for d in await fleet.client.deployments.list())
