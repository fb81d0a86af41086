"""Two releases on one Redis: what the next one may write that this one does not know is survived, and kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redurable import promise, run
from redurable.model import Reason, Status
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio
LATER = msgspec.msgpack.encode([99, 1700000000000, "of the next release"])  # a kind of entry that nobody knows here


async def _one() -> int:
    return 1


async def handle(payload: Any) -> list[int]:
    first = await run("first", _one)
    return [first, await promise("go", int), await run("last", _one)]


async def _waiting(w: World) -> str:
    intent = await w.send(labels={"a": "b"})
    await w.until(intent, Status.WAITING)
    return intent


async def test_fields_of_a_head_that_nobody_knows_stay_and_harm_nothing(w: World) -> None:
    await w.serve(handle)
    intent = await _waiting(w)
    head = w.store.keys_of(intent).head(intent)
    await w.store.mux.command("HSET", head, "next", "1", "longer", "x" * 200)
    assert (await w.get(intent)).status is Status.WAITING
    assert [i.id for i in await w.client.list(queue=QUEUE)] == [intent]
    record = await w.client.export(intent)
    assert (record["head"]["next"], record["head"]["longer"]) == ("1", "x" * 200)
    await w.client.pause(intent)
    await w.client.resume(intent)
    await w.client.resolve(intent, "go", 5)
    assert await w.result(intent) == [1, 5, 1]
    assert await w.store.mux.command("HGET", head, "next") == b"1"
    await w.client.delete(intent)
    assert await w.client.import_(record)
    assert await w.store.mux.command("HGET", head, "next") == b"1"
    await w.client.resolve(intent, "go", 6)
    assert await w.result(intent) == [1, 6, 1]


async def test_a_reason_to_wait_that_nobody_knows_is_told_as_none(w: World) -> None:
    await w.serve(handle)
    intent = await _waiting(w)
    await w.store.mux.command("HSET", w.store.keys_of(intent).head(intent), "reason", "NEXT")
    info = await w.get(intent)
    assert (info.status, info.reason) == (Status.WAITING, None)
    assert [i.id for i in await w.client.list(status="WAITING")] == [intent]
    await w.client.queues()
    await w.client.resolve(intent, "go", 5)
    assert await w.result(intent) == [1, 5, 1]


async def test_an_entry_of_a_kind_that_nobody_knows_holds_the_intent_for_who_does(w: World) -> None:
    await w.serve(handle)
    intent = await _waiting(w)
    keys = w.store.keys_of(intent)
    await w.store.mux.command("RPUSH", keys.journal(intent), LATER)
    await w.client.resolve(intent, "go", 5)
    while (info := await w.until(intent, Status.WAITING)).reason is not Reason.HELD:
        pass
    assert (info.held or "").startswith("JOURNAL_UNREADABLE")
    assert (info.losses, info.error) == (0, None)
    record = await w.client.export(intent)
    await w.client.kill(intent)
    await w.client.delete(intent)
    record["head"] |= {"status": "WAITING", "reason": "HELD"}
    assert await w.client.import_(record)
    journal = await w.store.mux.command("LRANGE", keys.journal(intent), 0, -1)
    assert LATER in journal, "it survives a move"
    # the next release, here: one that knows the entry, and what to make of it
    await w.store.mux.command("LREM", keys.journal(intent), 0, LATER)
    await w.store.wake(intent)
    assert await w.result(intent) == [1, 5, 1]


async def test_workers_of_another_release_are_listed_and_worked_beside(w: World) -> None:
    keys = w.store.keys[0]
    await w.serve(handle)
    (mine,) = await w.client.workers()
    fields = {**msgspec.to_builtins(mine), "id": "next.1.0", "queues": ["other"], "types": [], "weather": {"sun": 1}}
    await w.store.mux.command("HSET", keys.workers, "next.1.0", msgspec.msgpack.encode(fields))
    for gone in ("version", "types", "alive"):  # and one of an earlier release
        fields.pop(gone)
    earlier = msgspec.msgpack.encode(fields | {"id": "old.1.0"})
    await w.store.mux.command("HSET", keys.workers, "old.1.0", earlier)
    assert {i.id for i in await w.client.workers()} >= {"next.1.0", "old.1.0", mine.id}

    async def beside(payload: Any) -> int:
        return 2

    from redurable import handler
    from redurable.runtime.handlers import spec_of

    handler(queue="beside")(beside)
    await w.serve_specs(spec_of(beside))
    assert await w.client.call("beside") == 2


async def test_streams_of_a_kind_that_nobody_knows_are_left_alone(w: World) -> None:
    await w.serve(handle)
    keys = w.store.keys[0]
    stream = keys.prefix + f"c:{QUEUE}:!next"
    await w.store.mux.command("XADD", stream, "*", "i", "nobody")
    await w.store.mux.command("SADD", keys.streams, stream)
    intent = await _waiting(w)
    await w.client.resolve(intent, "go", 5)
    assert await w.result(intent) == [1, 5, 1]
    assert [q.name for q in await w.client.queues()] == [QUEUE]
    assert await w.store.mux.command("XLEN", stream) == 1
