"""`continue_as_new`: turn after turn under one id, each with an empty journal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import msgspec
import pytest

from redurable import (
    ContinuedAsNew,
    SerialisationError,
    UsageError,
    call,
    compensate,
    continue_as_new,
    current,
    handler,
    idempotency_key,
    promise,
    run,
    sleep,
    state,
    step,
    uuid4,
)
from redurable.client import Client
from redurable.codecs import AesGcm, Vault
from redurable.model import Claimed, Continued, Status, StepDone
from redurable.news import Place
from redurable.runtime.handlers import spec_of
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio
RAN: list[Any] = []


@step
async def note(value: Any) -> Any:
    RAN.append((value, idempotency_key()))
    return value


async def counting(payload: dict[str, int]) -> list[int]:
    """Count down in turns."""
    n = payload["n"]
    await note(n)
    if n:
        continue_as_new({"n": n - 1, "turns": payload["turns"] + 1})
    return [payload["turns"], current().attempt]


async def test_turns_follow_each_other_under_one_id_with_empty_journals(w: World) -> None:
    RAN.clear()
    await w.serve(counting)
    intent = await w.send({"n": 4, "turns": 1})
    assert await w.result(intent) == [5, 5]
    assert [value for value, _ in RAN] == [4, 3, 2, 1, 0]
    assert len({key for _, key in RAN}) == 5, "a key of one turn is no other's"
    first, *rest = await w.journal(intent)
    assert isinstance(first, Continued)
    assert first.turn == 5
    assert [type(entry) for entry in rest] == [Claimed, StepDone]
    info = await w.get(intent)
    assert (info.turn, info.losses, info.entries) == (5, 0, 3)
    assert len(w.seen("intent.continued")) == 4


async def test_seqs_go_on_through_the_turns(w: World) -> None:
    gate = asyncio.Event()

    async def handler(n: int) -> int:
        await note(n)
        await run("gate", gate.wait) if n == 1 else None
        if n < 3:
            continue_as_new(n + 1)
        return n

    await w.serve(handler)
    intent = await w.send(0)
    await w.event("intent.continued")
    seen: list[tuple[int, Any]] = []

    async def follow() -> None:
        async for place, entry in w.client.observe(intent):
            seen.append((Place.of(place).entries, entry))
            gate.set()

    await asyncio.wait_for(follow(), 15)
    seqs = [seq for seq, _ in seen]
    assert seqs == sorted(set(seqs)), "never the same twice, never back"
    history = await w.client.history(intent)
    assert [seq for seq, _ in history] == list(range(history[0][0], seqs[-1] + 1))
    assert history[0][0] == history[0][1].before + 1
    assert await w.client.history(intent, since=history[0][0]) == history[1:] or len(history) > 1
    assert await w.client.history(intent, since=seqs[-1]) == []


async def test_a_turn_that_is_replayed_is_the_same_and_unlike_the_others(w: World) -> None:
    seen: dict[int, set[str]] = {}

    async def handler(n: int) -> int:
        seen.setdefault(n, set()).add(str(uuid4()))
        again(current().attempt if len(seen[n]) == 0 else 2 * n + 1)
        if n < 2:
            continue_as_new(n + 1)
        return n

    await w.serve(handler)
    assert await w.call(0) == 2
    assert [len(found) for found in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3


async def test_branches_undo_work_and_checkpoints_end_with_the_turn(w: World) -> None:
    RAN.clear()
    cut: list[str] = []

    async def endless() -> None:
        await note("branch")
        try:
            await sleep(3600)
        except asyncio.CancelledError:
            cut.append("cut")
            raise

    async def handler(n: int) -> int:
        if n == 0:
            compensate(note, "undone")
            async with asyncio.TaskGroup() as group:
                group.create_task(endless())
                await note("main")
                continue_as_new(1)
        raise ValueError("the second turn fails, and has nothing to undo")

    await w.serve(handler, retry=None)
    failed = await w.failure(await w.send(0))
    assert "nothing to undo" in failed.error.message
    assert {value for value, _ in RAN} <= {"branch", "main"}


async def test_a_value_that_came_and_was_not_awaited_is_kept_for_the_next_turn(w: World) -> None:
    async def handler(n: int) -> Any:
        if n == 0:
            first = await promise("first", of=str)
            await run("wait", lambda: None)
            continue_as_new(len(first))
        return [n, await promise("early", of=str), await promise("first", of=str)]

    await w.serve(handler)
    intent = await w.send(0)
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "early", "e")
    await w.client.resolve(intent, "first", "abc")
    await w.event("intent.continued")
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "early", "e")  # the same again is answered alike
    await w.client.resolve(intent, "first", "again")  # a name of this turn
    assert await w.result(intent) == [3, "e", "again"]


async def test_children_are_others_in_every_turn_and_those_cut_off_are_cancelled(w: World) -> None:
    async def child(n: int) -> str:
        if n < 0:
            await sleep(3600)
        return current().id

    handler(queue="child")(child)

    async def parent(found: list[str]) -> list[str]:
        if len(found) == 2:
            async with asyncio.TaskGroup() as group:
                group.create_task(call(child, -1))
                await call(child, 5)
                await run("started", lambda: None)
                continue_as_new([*found, "cut"])
        if len(found) < 4:
            continue_as_new([*found, await call(child, 1)])
        return found

    await w.serve_specs(spec_of(child))
    await w.serve(parent)
    found = await w.call([])
    ids = [name for name in found if name != "cut"]
    assert len(set(ids)) == len(ids) == 3
    (cut,) = [i.id for i in await w.client.list(queue="child") if i.status is not Status.COMPLETED]
    assert (await w.failure(cut)).status == "CANCELED"


async def test_what_a_turn_left_open_is_cancelled_by_the_end_if_no_other_turn_begins(w: World) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def child(payload: None) -> None:
        await sleep(3600)

    async def wait() -> None:
        begun.set()
        await go_on.wait()

    async def parent(payload: None) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(call(child))
            await run("wait", wait)
            continue_as_new()

    await w.serve_specs(spec_of(handler(queue="child")(child)))
    await w.serve(parent)
    intent = await w.send()
    await begun.wait()
    async with asyncio.timeout(30):
        while not (found := await w.client.list(queue="child", status="WAITING")):
            await asyncio.sleep(0.01)
    await w.client.pause_queue("q")  # so that the next turn does not begin
    await w.event("queues.turned")
    go_on.set()
    await w.until(intent, Status.SUBMITTED)
    await w.client.kill(intent)
    assert (await w.failure(found[0].id)).status == "CANCELED"


async def test_a_cancel_is_met_before_the_next_turn(w: World) -> None:
    begun = asyncio.Event()
    goes_on = asyncio.Event()

    async def hold() -> None:
        begun.set()
        await goes_on.wait()

    async def handler(n: int) -> None:
        try:
            await run("hold", hold)
            await sleep(0.001)
        finally:
            continue_as_new(n + 1)

    await w.serve(handler)
    intent = await w.send(0)
    await asyncio.wait_for(begun.wait(), 10)
    await w.client.cancel(intent)
    goes_on.set()
    assert (await w.failure(intent)).status == "CANCELED"
    assert (await w.get(intent)).turn == 1


async def test_the_state_of_a_session_is_written_and_the_session_held(w: World) -> None:
    async def handler(n: int) -> list[int]:
        seen = await state.get("seen", of=list[int], default=[])
        await state.set("seen", [*seen, n])
        if n % 3:
            continue_as_new(n - 1)
        return [*seen, n]

    await w.serve(handler)
    first, second = await w.send(5, key="s"), await w.send(11, key="s")
    assert await w.result(first) == [5, 4, 3]
    assert await w.result(second) == [5, 4, 3, 11, 10, 9]


async def test_a_plain_handler_and_a_codec(w: World) -> None:
    secret = "tip-top-secret"
    codec = AesGcm({"k": bytes(range(32))})

    def plain(payload: dict[str, Any]) -> Any:
        if payload["n"]:
            continue_as_new({"n": payload["n"] - 1, "text": secret})
        return payload["text"]

    w.client = Client(w.url, namespace=w.namespace, codec=codec)
    await w.serve(plain, vault=Vault([codec]))
    intent = await w.send({"n": 3})
    assert await w.result(intent) == secret
    keys = w.store.keys[0]
    for key in (keys.envelope(intent), keys.outcome(intent)):
        assert secret.encode() not in (await w.store.mux.command("GET", key) or b"")


class TestSlips:
    async def test_a_payload_that_the_handler_does_not_take_leaves_the_turn_as_it_is(self, w: World) -> None:
        async def handler(n: int) -> str:
            await note(n)
            for wrong in ("text", object(), [n]):
                with pytest.raises(SerialisationError):
                    continue_as_new(wrong)
            return "still here"

        await w.serve(handler)
        assert await w.call(1) == "still here"

    async def test_outside_of_an_intent_and_inside_of_a_step(self, w: World) -> None:
        with pytest.raises(UsageError, match="needs an intent"):
            continue_as_new(1)

        async def body() -> str:
            with pytest.raises(UsageError, match="inside a step") as refused:
                continue_as_new(1)
            return refused.value.code

        async def handler(n: int) -> str:
            return await run("body", body)

        await w.serve(handler)
        assert await w.call(1) == "INSIDE_STEP"

    async def test_who_swallows_it_continues_all_the_same(self, w: World) -> None:
        async def handler(n: int) -> str:
            if n == 0:
                with contextlib.suppress(ContinuedAsNew):
                    continue_as_new(1)
                return "not yet"
            return "second turn"

        await w.serve(handler)
        assert await w.call(0) == "second turn"


async def test_thousands_of_turns_leave_nothing_behind(w: World) -> None:
    """`python -m tests.crash turns` has 100,000 of them in a worker process."""
    turns = 2000
    RAN.clear()
    objects: list[int] = []

    async def handler(n: int) -> int:
        await note(0)
        RAN.clear()
        if n in (200, turns - 1):
            w.events.clear()
            gc.collect()
            objects.append(len(gc.get_objects()))
        if n % 200 == 0:
            w.events.clear()
        if n < turns - 1:
            continue_as_new(n + 1)
        return n

    await w.serve(handler)
    intent = await w.send(0)
    assert await w.client.wait_for(intent, 800) == turns - 1
    info = await w.get(intent)
    assert (info.turn, info.entries) == (turns, 3)
    assert objects[1] - objects[0] < 2000, f"{objects}"
    assert await w.store.mux.command("MEMORY", "USAGE", w.store.keys[0].journal(intent)) < 1000
    (last, entry) = (await w.client.history(intent))[-1]
    assert last > turns
    assert isinstance(entry, StepDone)


async def test_it_leaves_no_trace_but_its_own(w: World) -> None:
    await w.serve(counting)
    intent = await w.send({"n": 2, "turns": 1})
    await w.result(intent)
    head = await w.store.mux.command("HGETALL", w.store.keys[0].head(intent))
    assert b"kept" not in head[::2]
    envelope = await w.store.mux.command("GET", w.store.keys[0].envelope(intent))
    assert msgspec.msgpack.decode(envelope)[1] == {"n": 0, "turns": 3}
