"""What moves and removes whole intents: delete, import; and the exports that imports are made of."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import msgspec
import pytest

from redurable.errors import ConfigurationError, NotFound, WrongState
from redurable.ids import new_id
from redurable.model import Outcome, Status, StepDone, encode_entry
from redurable.store import archive, journals
from tests.store.conftest import answers
from tests.store.world import DAY, FINAL, IMPORTED, NOW_MS, QUEUE, STATES, STEP, World, result_of
from tests.support.invariants import check, check_all

pytestmark = pytest.mark.anyio


class TestDelete:
    @answers(
        *[(state, {}, "OK", None) for state in FINAL],
        *[(state, {}, "WRONG_STATE", state) for state in ("CREATED", "SUBMITTED", "IN_PROGRESS", "WAITING")],
        ("GONE", {}, "OK", None),
    )
    async def test_it_removes_what_is_finished_and_nothing_else(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, steps=3)
        assert await world.twice("delete", **given) == (reply, reply)
        assert await world.status() == after
        assert (await check(world.store, world.id) is None) == (after is None)

    async def test_the_store_says_what_it_did_not_find_or_may_not_remove(self, world: World) -> None:
        with pytest.raises(NotFound):
            await archive.delete(world.store, world.id)
        await world.bring("WAITING")
        with pytest.raises(WrongState, match="WAITING"):
            await archive.delete(world.store, world.id)
        assert await world.status() == "WAITING"

    async def test_the_idempotency_key_is_free_again(self, world: World) -> None:
        await world.bring("COMPLETED", digest="d1")
        await archive.delete(world.store, world.id)
        await world.submit(digest="d2")
        assert await world.status() == "SUBMITTED"


class TestImport:
    @answers(
        ("GONE", {}, "OK", "SUBMITTED"),
        ("GONE", {"status": "CREATED", "fields": [*IMPORTED["fields"], "start", NOW_MS + 5, "lane", "q:low"]},
         "OK", "CREATED"),
        ("GONE", {"status": "WAITING", "fields": [*IMPORTED["fields"], "wake", NOW_MS + 5, "reason", "TIME"]},
         "OK", "WAITING"),
        ("GONE", {"status": "COMPLETED", "fields": [*IMPORTED["fields"], "finished", NOW_MS]}, "OK", "COMPLETED"),
        ("GONE", {"status": "FAILED", "fields": [*IMPORTED["fields"], "finished", NOW_MS],
                  "result": result_of("FAILED")}, "OK", "FAILED"),
    )  # fmt: skip
    async def test_it_stores_an_intent_in_its_state(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        view = world.keys.done if given.get("status") == "COMPLETED" else world.keys.failed
        assert await world.twice("import", **given, view_key=view) == (reply, "EXISTS")
        assert await world.status() == after
        assert await world.journal() == [STEP]
        assert await check(world.store, world.id) == after

    @pytest.mark.parametrize("state", [s for s in STATES if s != "GONE"])
    async def test_what_is_there_is_never_written_over(self, world: World, state: str) -> None:
        await world.bring(state)
        before = await world.dump()
        assert await world.call("import") == "CONFLICT"
        assert await world.dump() == before

    async def test_a_passed_time_of_an_open_one_is_due_at_once(self, world: World) -> None:
        fields = [*IMPORTED["fields"], "wake", NOW_MS - 5, "reason", "TIME", "deadline", NOW_MS + 9]
        await world.call("import", status="WAITING", fields=fields)
        assert await world.keeper.due(NOW_MS, 9) == ({world.id: NOW_MS - 5}, NOW_MS - 5)

    async def test_thousands_of_entries_and_cursors(self, world: World) -> None:
        entries = [encode_entry(StepDone("", "s", n, NOW_MS, b"", msgspec.Raw(b"\x01"))) for n in range(5001)]
        kept = [word for n in range(1200) for word in (f"s#{n}", b"v")]
        await world.call("import", entries=entries, kept=kept)
        assert await world.journal() == entries
        assert await journals.entries_of(world.store, world.id) == entries
        assert await world.mux.command("HLEN", world.keys.checkpoint(world.id)) == 1200


async def moved(world: World) -> dict[str, Any]:
    """Export the world's intent, remove every trace, import it twice; return the record."""
    record = await archive.export(world.store, world.id)
    assert await archive.import_record(world.store, record) is False, "the very same is there"
    for key in await world.mux.command("KEYS", f"{world.store.namespace}:*"):
        if not key.endswith(b":meta"):
            await world.mux.command("DEL", key)
    record = msgspec.json.decode(msgspec.json.encode(record))  # as a file would give it back
    assert await archive.import_record(world.store, record) is True
    assert await archive.import_record(world.store, record) is False, "an import sent again"
    return record  # type: ignore[no-any-return]  # a JSON object


class TestExport:
    @pytest.mark.parametrize("state", [s for s in STATES if s != "GONE"])
    async def test_an_intent_comes_back_in_its_state(self, world: World, state: str) -> None:
        await world.bring(state, steps=2)
        before, journal = await world.dump(), await world.journal()
        record = await moved(world)
        after = {"DELIVERED": "SUBMITTED", "IN_PROGRESS": "SUBMITTED"}.get(state, state)
        assert await world.status() == after
        assert await world.journal() == journal
        assert await check_all(world.store) == {after: 1}
        head = before[world.keys.head(world.id)]
        for name in (b"created", b"fence", b"attempt", b"started", b"finished", b"start", b"reason"):
            assert await world.mux.command("HGET", world.keys.head(world.id), name) == head.get(name)
        assert record["id"] == world.id

    async def test_an_attempt_that_held_it_is_continued_with_a_higher_epoch(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=2)
        held = world.lease
        assert held is not None
        await moved(world)
        await world.keeper.open([*world.streams, world.solo])
        world.mux.clock = str(int(world.mux.clock) - 10_000_000)  # a server whose clock is behind
        (lease,) = await world.claim(number=9)
        assert (lease.attempt, lease.base, lease.entries[:2]) == (2, 3, [STEP, STEP])
        assert lease.epoch == held.epoch + 1
        assert lease.lane == "c:-"

    @pytest.mark.parametrize("lane", ["q:high", "q:low"])
    async def test_a_fresh_one_keeps_its_priority(self, world: World, lane: str) -> None:
        await world.bring("SUBMITTED", lane=lane)
        await moved(world)
        assert (await world.field("at") or "").startswith(f"{lane}/")

    async def test_a_finished_one_is_kept_for_its_time_and_a_day_at_least(self, world: World) -> None:
        await world.bring("COMPLETED")
        record = await archive.export(world.store, world.id)
        assert record["keep"] == NOW_MS + DAY
        await moved(world)
        score = float(await world.mux.command("ZSCORE", world.keys.done, world.id))
        assert score > NOW_MS + DAY, "what is old stays for a day"

    async def test_long_outcomes_and_cursors_come_too(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("checkpoint", name="load#1", value=b"\x93\x01\x02\x03")
        assert (await moved(world))["cursors"] == {"load#1": {"json": [1, 2, 3]}}
        assert await world.mux.command("HGETALL", world.keys.checkpoint(world.id)) == [b"load#1", b"\x93\x01\x02\x03"]
        await world.keeper.open([*world.streams, world.solo])
        (world.lease,) = await world.claim(number=7)
        outcome = encode_entry(Outcome(Status.COMPLETED, msgspec.Raw(msgspec.msgpack.encode("x" * 300))))
        await world.call("settle", result=outcome)
        await moved(world)
        assert await world.mux.command("GET", world.keys.outcome(world.id)) == outcome

    async def test_values_are_readable_where_json_holds_them_exactly(self, world: World) -> None:
        def step(value: Any) -> bytes:
            raw = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
            return encode_entry(StepDone("", "s", 1, NOW_MS, b"\x01\x02", msgspec.Raw(raw)))

        exact = [None, 1, 2.0, "é", [1, {"a": False}]]
        others = [{1: 2}, b"\xc4\x01a", msgspec.msgpack.Ext(82, b"zz"), float("nan"), b"\xca\x00\x00\x00\x00"]
        unknown = b"\x92\x63\x01"  # an entry of a later version
        await world.call("import", entries=[*map(step, [*exact, *others]), unknown])
        journal = (await moved(world))["journal"]
        assert [entry["value"] for entry in journal[:5]] == [{"json": value} for value in exact]
        assert all(entry["value"].keys() == {"msgpack"} for entry in journal[5:-1])
        assert journal[0]["code"] == {"hex": "0102"}
        assert journal[-1].keys() == {"msgpack"}
        assert await world.journal() == [*map(step, [*exact, *others]), unknown]
        await world.mux.command("RPOP", world.keys.journal(world.id))  # what checks the world cannot read it either

    async def test_one_that_grows_meanwhile_is_taken_at_a_moment(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=600)

        async def grow() -> None:
            for _ in range(40):
                await world.call("record")
                assert world.lease is not None
                world.lease.k += 1

        growing = asyncio.create_task(grow())
        lengths = [len((await archive.export(world.store, world.id))["journal"]) for _ in range(5)]
        await growing
        assert lengths == sorted(lengths)
        assert lengths[0] >= 600

    async def test_what_is_not_there(self, world: World) -> None:
        with pytest.raises(NotFound):
            await archive.export(world.store, new_id(0))


DAMAGE: list[tuple[str, Any, str]] = [
    ("redurable", 2, "format 2"),
    ("redurable", "1", "redurable"),
    ("id", 5, "id"),
    ("head", {"queue": QUEUE, "created": "1"}, "no status"),
    ("head", {"status": "DONE", "queue": QUEUE, "created": "1"}, "DONE"),
    ("head", {"status": "FAILED", "queue": QUEUE, "created": "1"}, "no finished"),
    ("head", {"status": "CREATED", "queue": QUEUE, "created": "1", "start": "1"}, "no lane"),
    ("head", {"status": "CREATED", "queue": QUEUE, "created": "1", "start": "1", "lane": "c:x"}, "c:x"),
    ("head", {"status": "SUBMITTED", "queue": QUEUE, "created": "soon"}, "soon"),
    ("head", {"status": "SUBMITTED", "queue": QUEUE, "created": "1", "fence": "x:w:1"}, "fence"),
    ("head", {"status": "COMPLETED", "queue": QUEUE, "created": "1", "finished": "2"}, "outcome"),
    ("envelope", {"type": ""}, "envelope"),
    ("envelope", {"msgpack": "!"}, "damaged"),
    ("journal", [{"kind": "Unheard"}], "entry 1"),
    ("journal", [{"kind": 5}], "entry 1"),
    ("journal", [{"kind": "StepDone", "name": "x"}], "entry 1"),
    ("journal", [{"kind": "StepDone", "scope": "", "name": "x", "n": 1, "at": "y", "code": {"hex": ""},
                  "value": {"json": 1}}], "entry 1"),
    ("journal", [{"kind": "StepDone", "scope": "", "name": "x", "n": 1, "at": 1, "code": {"hex": "zz"},
                  "value": {"json": 1}}], "entry 1"),
    ("outcome", {"status": "COMPLETED"}, "outcome"),
    ("cursors", {"a": {}}, "cursor 'a'"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "says"), DAMAGE, ids=[f"{d[0]}-{i}" for i, d in enumerate(DAMAGE)])
async def test_a_damaged_record_is_refused_and_nothing_is_stored(
    world: World, field: str, value: Any, says: str
) -> None:
    await world.bring("FAILED" if field == "outcome" or says == "outcome" else "SUBMITTED")
    record = copy.deepcopy(await archive.export(world.store, world.id))
    record["id"] = new_id(0)
    record[field] = value
    before = await world.dump()
    with pytest.raises(ConfigurationError, match=says) as refused:
        await archive.import_record(world.store, record)
    assert refused.value.code == "BAD_IMPORT"
    assert await world.dump() == before


async def test_ids_and_partitions_that_cannot_be(world: World) -> None:
    await world.bring("SUBMITTED")
    record = await archive.export(world.store, world.id)
    with pytest.raises(NotFound):
        await archive.import_record(world.store, record | {"id": "x"})
    with pytest.raises(ConfigurationError, match="of partition 7; this namespace has 1"):
        await archive.import_record(world.store, record | {"id": new_id(7)})
    for nothing in (None, [], "x", {}):
        with pytest.raises(ConfigurationError, match="no exported intent"):
            await archive.import_record(world.store, nothing)


async def test_another_moment_of_the_same_intent_is_a_conflict(world: World) -> None:
    await world.bring("IN_PROGRESS")
    record = await archive.export(world.store, world.id)
    await world.call("record")
    with pytest.raises(WrongState, match="is not the same") as refused:
        await archive.import_record(world.store, record)
    assert refused.value.code == "INTENT_EXISTS"
