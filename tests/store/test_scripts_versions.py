"""Deployment versions in the store: who is given what, and where everything that is pinned goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable.errors import ConfigurationError, NotFound
from redurable.ids import new_id
from redurable.store import archive, arrivals, control, deployments
from redurable.store.keeper import Keeper
from redurable.store.keys import GROUP, continuations, suspects
from redurable.store.lease import Lease
from tests.store.world import BODY, CLAIMED, NEXT_TURN, QUEUE, World
from tests.support.invariants import check, check_all

pytestmark = pytest.mark.anyio


class Side:
    """The workers of one version, "" for those without."""

    def __init__(self, world: World, version: str, name: str = "") -> None:
        self.world = world
        self.keeper = Keeper(world.store, 0, name or f"w-{version or 'none'}", version)
        self.lanes, self.alone = self.keeper.streams_of(QUEUE)
        self.number = 0

    async def claim(self, count: int = 9, *, given: list[Any] | None = None) -> list[Lease]:
        """Claim from all that this side ever reads, fresh streams too."""
        streams = [*self.lanes, *self.alone]
        await self.keeper.open(streams)
        self.number += 1
        limits = [""] * len(streams)
        return await self.keeper.claim(streams, limits, count, self.number, CLAIMED, given or [], gated=True)

    async def took(self) -> list[str]:
        """Return the ids that a claim gives."""
        return [lease.id for lease in await self.claim()]


@pytest.fixture
async def sides(world: World) -> tuple[Side, Side]:
    """Two versions; v2 came later, and is the current one."""
    one, two = Side(world, "v1"), Side(world, "v2")
    await one.keeper.deploy(QUEUE)
    await two.keeper.deploy(QUEUE)
    return one, two


async def _pinned(world: World, side: Side) -> Lease:
    """Return the lease of the world's intent, begun by *side* while its version was current."""
    await deployments.promote(world.store, QUEUE, side.keeper.version)
    await world.submit()
    (lease,) = await side.claim()
    await deployments.promote(world.store, QUEUE, None)
    world.lease = lease
    return lease


async def _lane(world: World) -> str:
    return (await world.field("at") or "").split("/")[0]


async def test_fresh_work_goes_to_the_newest_and_is_pinned(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    await world.submit()
    assert await one.took() == []
    (lease,) = await two.claim()
    assert (lease.id, lease.version, await world.field("version")) == (world.id, "v2", "v2")
    await check_all(world.store)


async def test_a_version_that_registers_again_is_not_the_newest(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    await one.keeper.deploy(QUEUE)
    await world.submit()
    assert await one.took() == []
    assert await two.took() == [world.id]


async def test_the_promoted_one_is_current_until_the_newest_is_again(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    ids = [new_id(0), new_id(0)]
    await deployments.promote(world.store, QUEUE, "v1")
    three = Side(world, "v3")
    await three.keeper.deploy(QUEUE)
    await world.submit(ids[0])
    assert await two.took() == await three.took() == []
    assert await one.took() == [ids[0]]
    await deployments.promote(world.store, QUEUE, None)
    await world.submit(ids[1])
    assert await one.took() == await two.took() == []
    assert await three.took() == [ids[1]]


async def test_a_blocking_read_of_another_version_puts_it_back_in_its_lane(
    world: World, sides: tuple[Side, Side]
) -> None:
    one, two = sides
    await world.submit(lane="q:high")
    stream = world.keys.stream(QUEUE, "q:high")
    await one.keeper.open([stream])
    read = await world.mux.command("XREADGROUP", "GROUP", GROUP, one.keeper.worker, "COUNT", 1, "STREAMS", stream, ">")
    ((entry, fields),) = read[0][1]
    assert await one.claim(given=[one.lanes.index(stream) + 1, entry, fields[1]]) == []
    assert await _lane(world) == "q:high"
    await check_all(world.store)
    assert await two.took() == [world.id]


async def test_workers_without_a_version_take_nothing_fresh_where_there_are_versions(
    world: World, sides: tuple[Side, Side]
) -> None:
    none = Side(world, "")
    await world.submit()
    assert await none.took() == []
    assert await sides[1].took() == [world.id]


async def test_what_began_without_a_version_is_served_by_every_one(world: World) -> None:
    none, one = Side(world, ""), Side(world, "v1")
    await world.submit()
    (world.lease,) = await none.claim()
    await one.keeper.deploy(QUEUE)
    assert await world.lease.release() == b"OK"
    assert await _lane(world) == "c:-"
    (lease,) = await one.claim()
    assert (lease.version, await world.field("version")) == ("", None)
    assert await lease.release() == b"OK"
    assert await _lane(world) == "c:-"
    assert await none.took() == [world.id]


async def test_whatever_continues_it_uses_its_versions_lane(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    lease = await _pinned(world, one)
    assert await lease.release() == b"OK"
    assert await _lane(world) == "c:v1"
    assert await two.took() == []
    (lease,) = await one.claim()
    assert await lease.park(lease.base, "PROMISE", None) == b"OK"
    assert await arrivals.resolve(world.store, world.id, arrivals.arrival("answer#0")) == "OK"  # asked or not, it came
    assert await world.store.wake(world.id) == "OK"
    assert await _lane(world) == "c:v1"
    (lease,) = await one.claim()
    assert await lease.park(lease.base, "TIME", 1) == b"OK"
    assert await one.keeper.fire(world.store, world.id) == "OK"
    assert await _lane(world) == "c:v1"
    (lease,) = await one.claim()
    assert await lease.park(lease.base, "PROMISE", None) == b"OK"
    assert await world.store.cancel(world.id) == "REQUESTED"
    assert await _lane(world) == "c:v1"
    assert await two.took() == []
    (lease,) = await one.claim()
    assert await lease.settle("CANCELED", b"", 60_000) == b"OK"
    await world.store.redrive(world.id)
    assert await _lane(world) == "c:v1"
    assert await control.pause(world.store, world.id) == "PAUSED"
    await control.resume(world.store, world.id)
    assert await _lane(world) == "c:v1"
    assert await one.took() == [world.id]
    await check_all(world.store)


async def test_recovered_work_and_suspects_stay_on_their_version(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    await _pinned(world, one)
    words, lanes = [], []
    for _ in range(2):
        (pending,) = [p for s in [*one.lanes, *one.alone] for p in await two.keeper.pending(s)]
        words.append(await two.keeper.recover(pending))
        lanes.append(await _lane(world))
        assert await two.took() == []
        (lease,) = await one.claim()
    assert (words, lanes) == (["OK", "SUSPECT"], ["c:v1", "c:!solo!v1"])
    assert await lease.release() == b"OK"
    assert await _lane(world) == "c:!solo!v1"
    assert await two.took() == []
    await check_all(world.store)


@pytest.mark.parametrize("lane", ["c:-", "c:v2", "c:!solo"])
async def test_what_went_astray_is_put_right_by_whoever_meets_it(
    world: World, sides: tuple[Side, Side], lane: str
) -> None:
    """Whoever read the head before it was pinned sends it to the wrong lane; who claims it there knows."""
    one, two = sides
    lease = await _pinned(world, one)
    assert await lease.park(0, "PROMISE", None) == b"OK"
    stream = world.keys.stream(QUEUE, lane)
    assert await world.call("wake", lane=lane, continuation_key=stream) == "OK"
    assert await two.took() == []
    assert await _lane(world) == ("c:!solo!v1" if lane == "c:!solo" else "c:v1")
    assert await one.took() == [world.id]
    await check_all(world.store)


async def test_what_was_delivered_and_never_begun_is_for_the_current_version(
    world: World, sides: tuple[Side, Side]
) -> None:
    one, two = sides
    await world.submit()
    stream = world.keys.stream(QUEUE, "q:normal")
    await one.keeper.open([stream])
    await world.mux.command("XREADGROUP", "GROUP", GROUP, "dead", "COUNT", 1, "STREAMS", stream, ">")
    (pending,) = await two.keeper.pending(stream)
    assert await two.keeper.recover(pending) == "OK"
    assert await one.took() == []
    assert await two.took() == [world.id]


async def test_the_next_turn_begins_on_the_current_version(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    lease = await _pinned(world, one)
    assert await lease.begin_turn(0, 2, BODY, NEXT_TURN["first"], []) == b"OK"
    assert (await _lane(world), await world.field("version")) == ("q:normal", "")
    assert await one.took() == []
    (lease,) = await two.claim()
    assert (lease.version, await world.field("version")) == ("v2", "v2")


async def test_an_export_keeps_the_pin(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    lease = await _pinned(world, one)
    assert await lease.park(0, "PROMISE", None) == b"OK"
    record = await archive.export(world.store, world.id)
    await control.kill(world.store, world.id)
    await archive.delete(world.store, world.id)
    record["head"]["status"] = "IN_PROGRESS"
    record["head"].pop("reason")
    assert await archive.import_record(world.store, record)
    assert await _lane(world) == "c:v1"
    assert await two.took() == []
    assert await one.took() == [world.id]
    record["head"]["version"] = "v 1"
    with pytest.raises(ConfigurationError, match="cannot be a deployment version"):
        await archive.import_record(world.store, record)


async def test_a_claim_sent_again_tells_the_pin_again(world: World, sides: tuple[Side, Side]) -> None:
    lease = await _pinned(world, sides[0])
    sides[0].number -= 1
    (again,) = await sides[0].claim()
    assert (again.id, again.fence, again.version) == (lease.id, lease.fence, "v1")


async def test_mending_puts_it_where_its_version_reads(world: World, sides: tuple[Side, Side]) -> None:
    one, _ = sides
    lease = await _pinned(world, one)
    assert await lease.release() == b"OK"
    await world.mux.command("DEL", world.keys.stream(QUEUE, "c:v1"))
    await asyncio.sleep(0.002)  # a stream that begins anew within the millisecond gives the same id again
    assert await one.keeper.mend(world.id) == "MENDED"
    assert await _lane(world) == "c:v1"
    assert await check(world.store, world.id) == "SUBMITTED"


async def test_deployments_are_counted_exactly(world: World, sides: tuple[Side, Side]) -> None:
    one, two = sides
    await _pinned(world, one)
    for _ in range(3):
        await world.submit(new_id(0))
    (begun,) = await two.claim(1)
    assert await begun.settle("COMPLETED", b"", 60_000) == b"OK"
    await two.claim(1)
    rows = {d.version: d for d in await deployments.deployments(world.store)}
    assert {v: (d.intents, d.fresh, d.current, d.safe) for v, d in rows.items()} == {
        "v1": (1, 0, False, False), "v2": (1, 0, True, False), None: (1, 1, False, False),
    }  # fmt: skip
    assert rows["v1"].why == rows["v2"].why == "has work and no worker"
    assert rows[None].why == "1 not begun, for v2"
    assert world.lease is not None
    assert await world.lease.settle("COMPLETED", b"", 60_000) == b"OK"
    rows = {d.version: d for d in await deployments.deployments(world.store, QUEUE)}
    assert (rows["v1"].safe, rows["v1"].why, rows["v1"].oldest) == (True, "", None)
    assert await deployments.deployments(world.store, "other") == []


@pytest.mark.parametrize(
    ("queue", "version", "hint"),
    [(QUEUE, "v9", "known are: v1, v2"), ("other", "v1", "start a worker"), ("other", None, "start a worker")],
)
async def test_only_known_versions_are_promoted(
    world: World, sides: tuple[Side, Side], queue: str, version: str | None, hint: str
) -> None:
    before = await world.dump()
    with pytest.raises(NotFound) as refused:
        await deployments.promote(world.store, queue, version)
    assert refused.value.code == "VERSION_NOT_FOUND"
    assert hint in (refused.value.hint or "")
    assert await world.dump() == before


@pytest.mark.parametrize("version", ["", "-", "a b", "a:b", "x" * 41, "ä", "!solo"])
async def test_malformed_versions_are_refused(world: World, version: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await deployments.promote(world.store, QUEUE, version)
    assert refused.value.code == "BAD_VERSION"


async def test_unversioned_work_costs_no_field_and_no_command(world: World) -> None:
    none = Side(world, "")
    await none.keeper.open([*none.lanes, *none.alone])
    await world.submit()
    await world.mux.command("CONFIG", "RESETSTAT")
    (lease,) = await none.keeper.claim(none.lanes, [""] * 4, 1, 1, CLAIMED, [])
    stats = str(await world.mux.command("INFO", "commandstats"))
    assert "cmdstat_hmget:calls=1," in stats
    assert lease.version == ""
    assert await world.field("version") is None
    assert (continuations(None), suspects(None)) == ("c:-", "c:!solo")
