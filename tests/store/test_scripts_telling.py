"""What an owner tells watchers, and what a child's progress means to its parent: tell, heed."""

from __future__ import annotations

import pytest

from redurable.news import Progress, pack
from redurable.store import archive, watching
from redurable.store.keys import told_keys
from tests.store.world import CHILD, FINAL, OPEN, STALE, World

pytestmark = pytest.mark.anyio


async def told(world: World) -> list[tuple[str, bytes]]:
    rows = await world.mux.command("XRANGE", told_keys(world.keys, world.id)[0], "-", "+")
    return [(number.decode(), fields[1]) for number, fields in rows]


async def marks(world: World) -> dict[str, bytes]:
    flat = await world.mux.command("HGETALL", told_keys(world.keys, world.id)[1])
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


class TestTell:
    async def test_events_have_numbers_without_a_gap_and_each_part_its_place(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.twice("tell") == (2, 2)
        assert await world.twice("tell", number=2, told=[b"c"], places=["e:", 3, "i:x#1", 1]) == (3, 3)
        assert await told(world) == [("1-0", b"a"), ("2-0", b"b"), ("3-0", b"c")]
        found = await marks(world)
        assert (found["seq"], found["e:"], found["i:x#1"]) == (b"3", b"3", b"1")
        assert 0 < await world.mux.command("TTL", told_keys(world.keys, world.id)[0]) <= 60

    async def test_what_the_owner_dropped_leaves_its_numbers_unused(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.twice("tell", skip=5) == (7, 7)
        assert [number for number, _ in await told(world)] == ["6-0", "7-0"]

    async def test_the_oldest_go(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        for number in range(1, 21):
            await world.call("tell", number=number, most=100, told=[b"x" * 50] * 100)
        first = int((await told(world))[0][0].split("-")[0])
        assert 1000 < first <= 1901, "trimmed by whole nodes, never below what is to be kept"

    async def test_a_turn_that_begins_forgets_the_parts_of_the_one_before(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("tell", progress=b"p1")
        assert await world.twice("tell", number=2, turn=2, told=[b"c"], places=["e:", 1, "e:b", 4]) == (3, 3)
        found = await marks(world)
        assert (found["p"], found["e:"], found["e:b"], found["turn"]) == (b"p1", b"1", b"4", b"2")

    async def test_progress_alone_adds_no_event(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        data = pack(Progress(3, 10, "files"))
        assert await world.twice("tell", told=[], places=[], progress=data) == (0, 0)
        assert await told(world) == []
        assert await watching.progress(world.store, world.id) == Progress(3, 10, "files")

    @pytest.mark.parametrize("state", [*OPEN, *FINAL])
    async def test_only_the_owner_tells(self, world: World, state: str) -> None:
        await world.bring(state)
        before = await world.dump()
        assert await world.call("tell", fence=STALE) == "FENCED"
        if state != "IN_PROGRESS":
            assert await world.call("tell") in ("WRONG_STATE", "FENCED")
        assert await world.dump() == before

    async def test_an_unknown_intent_is_not_found(self, world: World) -> None:
        before = await world.dump()
        assert await world.call("tell") == "NOT_FOUND"
        assert await world.dump() == before

    @pytest.mark.parametrize("how", ["sweep", "delete"])
    async def test_it_is_removed_with_the_intent(self, world: World, how: str) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("tell")
        assert await world.call("settle") == "OK"
        if how == "delete":
            await archive.delete(world.store, world.id)
        else:
            world.advance(1 << 40)
            assert await world.call("sweep") == "OK"
        assert await told(world) == []
        assert await marks(world) == {}


class TestHeed:
    @pytest.mark.parametrize("state", [s for s in OPEN if s != "DELIVERED"])
    async def test_a_child_is_noted_once_in_every_open_state(self, world: World, state: str) -> None:
        await world.bring(state)
        assert await world.twice("heed") == ("OK", "OK")
        assert await world.call("heed", child=CHILD[::-1]) == "OK"
        assert (await marks(world))["c"].decode() == CHILD + CHILD[::-1]

    @pytest.mark.parametrize("state", FINAL)
    async def test_an_intent_that_has_ended_heeds_none(self, world: World, state: str) -> None:
        await world.bring(state)
        before = await world.dump()
        assert await world.call("heed") == "WRONG_STATE"
        assert await world.dump() == before

    async def test_an_unknown_intent_is_not_found(self, world: World) -> None:
        before = await world.dump()
        assert await world.call("heed") == "NOT_FOUND"
        assert await world.dump() == before

    async def test_the_fractions_of_open_children_are_added(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("tell", told=[], places=[], progress=pack(Progress(3, 10)))
        child = await world.submit(CHILD)
        await world.call("heed")
        assert await watching.progress(world.store, world.id) == Progress(3, 10), "it has told nothing"
        await world.mux.command("HSETNX", told_keys(world.keys, child)[1], "p", pack(Progress(1, 4)))
        assert await watching.progress(world.store, world.id) == Progress(3.25, 10)
        await world.store.cancel(child)
        assert await watching.progress(world.store, world.id) == Progress(3, 10), "one that ended is not open"
