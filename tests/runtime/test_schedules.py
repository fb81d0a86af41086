"""Schedules as their handlers see them: declared in code, sealed, told their tick; what is refused at the door."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from redurable import Client, ConfigurationError, SerialisationError, Status, current, schedule, sync
from redurable.codecs import AesGcm, Vault
from redurable.model import IntentInfo
from redurable.runtime.handlers import HandlerSpec, handler, is_handler, spec_of
from redurable.schedules import ScheduleInfo
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio


async def fired(w: World, name: str, count: int = 1) -> ScheduleInfo:
    """Return the schedule once it has fired so often, and its last intent has ended."""
    async with asyncio.timeout(30):
        while (await w.client.schedules.get(name)).fired < count:
            await asyncio.sleep(0.01)
    await w.client.schedules.pause(name)
    return await w.client.schedules.get(name)


async def intents_of(w: World, name: str) -> list[IntentInfo]:
    return await w.client.list(label=("schedule", name), limit=1000)


async def test_a_handler_is_given_the_payload_and_knows_its_tick(w: World) -> None:
    ticks: list[str] = []

    async def main(payload: dict[str, int]) -> int:
        ticks.append(current().labels["tick"])
        return payload["n"] + 1

    await w.serve(main)
    await w.client.schedules.put("beat", to=main, payload={"n": 1}, every=timedelta(seconds=0.2))
    info = await fired(w, "beat", 3)
    for intent in await intents_of(w, "beat"):
        assert await w.result(intent.id) == 2
    assert len(set(ticks)) == info.fired
    assert all(datetime.fromisoformat(tick).timestamp() * 1000 % 200 == 0 for tick in ticks)
    told = w.seen("schedule.fired")
    assert len(told) == info.fired
    assert all(0 <= fields["late"] < 20 for fields in told)


async def test_what_a_handler_declares_is_put_at_the_start_once(w: World) -> None:
    @schedule(name="mine", every=0.2, payload=5)
    @schedule(name="other", cron="0 0 1 1 *", tz="Europe/Berlin", payload=6)
    async def main(n: int) -> int:
        return n

    assert is_handler(main)
    spec = spec_of(main, QUEUE)
    first = await w.serve_specs(spec)
    info = await fired(w, "mine", 2)
    assert info.declared == spec.name
    assert (info.queue, (await w.client.schedules.get("other")).tz) == (QUEUE, "Europe/Berlin")
    assert [await w.result(i.id) for i in await intents_of(w, "mine")] == [5] * info.fired
    await w.stop(first)
    second = await w.serve_specs(spec)
    again = await w.client.schedules.get("mine")
    assert again.paused, "what an operator paused stays paused"
    assert again.fired == info.fired
    await w.stop(second)


async def test_a_changed_declaration_takes_its_place(w: World) -> None:
    def served(**options: Any) -> HandlerSpec:
        async def main(n: int) -> int:
            return n

        schedule(name="mine", **options)(main)
        return spec_of(main, QUEUE)

    worker = await w.serve_specs(served(cron="0 0 1 1 *", payload=1))
    before = await w.client.schedules.get("mine")
    await w.stop(worker)
    worker = await w.serve_specs(served(cron="0 0 2 1 *", payload=1))
    after = await w.client.schedules.get("mine")
    assert (before.cron, after.cron, after.made) == ("0 0 1 1 *", "0 0 2 1 *", before.made)
    assert before.next is not None
    assert after.next == before.next + 86_400_000
    await w.stop(worker)


async def test_the_current_version_alone_declares(w: World) -> None:
    def served(cron: str) -> HandlerSpec:
        async def main(n: int) -> int:
            return n

        return spec_of(schedule(name="mine", cron=cron, payload=1)(main), QUEUE)

    async def cron() -> str | None:
        return (await w.client.schedules.get("mine")).cron

    await w.serve_specs(served("0 0 1 1 *"), version="v1")
    assert await cron() == "0 0 1 1 *"
    await w.serve_specs(served("0 0 2 1 *"), version="v2")
    assert await cron() == "0 0 2 1 *"
    await w.serve_specs(served("0 0 1 1 *"), version="v1")
    assert await cron() == "0 0 2 1 *", "a worker of the old version came back"
    await w.client.deployments.promote(QUEUE, "v1")
    async with asyncio.timeout(30):
        while await cron() != "0 0 1 1 *":
            await asyncio.sleep(0.01)


async def test_a_declaration_whose_payload_does_not_fit_keeps_the_worker_away(w: World) -> None:
    @schedule(every=5, payload="seven")
    async def main(n: int) -> int:
        return n

    with pytest.raises(SerialisationError):
        await w.serve_specs(spec_of(main, QUEUE), version="v1")
    assert await w.client.schedules.list() == []
    assert await w.client.deployments.list() == []


async def test_a_payload_is_sealed_in_the_schedule_and_opened_by_the_handler(w: World) -> None:
    codec = AesGcm({"k1": bytes(32)}, current="k1")

    async def main(payload: str) -> str:
        return payload

    await w.serve(main, vault=Vault([codec]))
    async with Client(w.url, namespace=w.namespace, codec=codec) as client:
        await client.schedules.put("secret", to=QUEUE, payload="tip-top-secret", every=0.2)
        stored = await w.store.mux.command("HGETALL", w.store.keys[0].schedule("secret"))
        assert b"tip-top-secret" not in b"".join(stored)
        await fired(w, "secret")
        (intent, *_) = await intents_of(w, "secret")
        assert await client.wait_for(intent.id, 30) == "tip-top-secret"


async def test_skipped_while_the_one_before_runs_and_queued_one_at_a_time(w: World) -> None:
    gate, running, most = asyncio.Event(), 0, 0

    async def main(payload: None) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    await w.serve(main)
    for rule in ("skip", "queue"):
        gate.clear()
        most = 0
        await w.client.schedules.put(rule, to=QUEUE, every=0.2, overlap=rule)
        async with asyncio.timeout(30):
            while (info := await w.client.schedules.get(rule)).fired + info.skipped < 4:
                await asyncio.sleep(0.01)
        await w.client.schedules.pause(rule)
        gate.set()
        for intent in await intents_of(w, rule):
            await w.result(intent.id)
        assert most == 1
        info = await w.client.schedules.get(rule)
        assert (info.fired, info.skipped) == ((1, info.skipped) if rule == "skip" else (info.fired, 0))


async def test_a_replaced_one_is_cancelled(w: World) -> None:
    async def main(payload: None) -> None:
        await asyncio.sleep(60)

    await w.serve(main)
    await w.client.schedules.put("r", to=QUEUE, every=0.3, overlap="replace")
    await fired(w, "r", 3)
    last = (await w.client.schedules.get("r")).last
    assert last is not None
    for intent in await intents_of(w, "r"):
        if intent.id != last:
            assert (await w.failure(intent.id)).status == "CANCELED"
    await w.until(last, Status.IN_PROGRESS)
    await w.client.kill(last)


async def test_the_blocking_client_has_them_too(w: World) -> None:
    def work() -> list[Any]:
        with sync.Client(w.url, namespace=w.namespace) as client:
            client.schedules.put("s", to=QUEUE, cron="@daily")
            client.schedules.pause("s")
            client.schedules.resume("s")
            found = [client.schedules.trigger("s"), client.schedules.get("s"), client.schedules.list()]
            client.schedules.delete("s")
            return found

    intent, info, listed = await asyncio.to_thread(work)
    assert info.last == intent
    assert [i.name for i in listed] == ["s"]
    assert await w.client.schedules.list() == []


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "code"),
        [
            ({"cron": "nonsense"}, "BAD_CRON"),
            ({"cron": ""}, "BAD_CRON"),
            ({"cron": 5}, "BAD_CRON"),
            ({"cron": "* * * * *", "tz": "Mars/Olympus"}, "BAD_TIMEZONE"),
            ({"cron": "* * * * *", "tz": None}, "BAD_TIMEZONE"),
            ({}, "BAD_ARGUMENT"),
            ({"every": 0}, "BAD_ARGUMENT"),
            ({"every": -5}, "BAD_ARGUMENT"),
            ({"every": "5m"}, "BAD_ARGUMENT"),
            ({"every": 5, "cron": "* * * * *"}, "BAD_ARGUMENT"),
            ({"every": 5, "overlap": "sometimes"}, "BAD_ARGUMENT"),
            ({"every": 5, "catch_up": "most"}, "BAD_ARGUMENT"),
            ({"every": 5, "jitter": -1}, "BAD_ARGUMENT"),
            ({"every": 5, "window": "a day"}, "BAD_ARGUMENT"),
            ({"every": 5, "key": "k", "overlap": "queue"}, "BAD_ARGUMENT"),
            ({"every": 5, "shared": True, "overlap": "replace"}, "BAD_ARGUMENT"),
            ({"every": 5, "priority": "urgent"}, "BAD_ARGUMENT"),
            ({"every": 5, "labels": {"n": 1}}, "BAD_ARGUMENT"),
            ({"every": 5, "to": "a queue"}, "BAD_ARGUMENT"),
            ({"every": 5, "name": "a:b"}, "BAD_ARGUMENT"),
        ],
    )
    async def test_a_put_that_cannot_be(self, w: World, given: dict[str, Any], code: str) -> None:
        options = {"name": "s", "to": QUEUE} | given
        with pytest.raises(ConfigurationError) as caught:
            await w.client.schedules.put(**options)
        assert caught.value.code == code
        assert await w.client.schedules.list() == []

    async def test_a_payload_that_the_handler_would_not_take(self, w: World) -> None:
        async def main(payload: int) -> None: ...

        with pytest.raises(SerialisationError):
            await w.client.schedules.put("s", to=main, payload="seven", every=5)

    def test_a_declaration_that_cannot_be(self) -> None:
        for given, code in (
            ({"cron": "nonsense"}, "BAD_CRON"), ({"every": 1, "tzone": "x"}, "BAD_ARGUMENT"), ({}, "BAD_ARGUMENT"),
        ):  # fmt: skip
            with pytest.raises(ConfigurationError) as caught:
                schedule(**given)
            assert caught.value.code == code

    def test_two_of_one_name_on_a_handler(self) -> None:
        async def main(payload: int) -> None: ...

        with pytest.raises(ConfigurationError, match="two schedules"):
            schedule(every=5)(schedule(every=6)(main))

    async def test_from_a_handler_outside_of_a_step(self, w: World) -> None:
        async def main(payload: None) -> str:
            try:
                await w.client.schedules.put("s", to=QUEUE, every=5)
            except Exception as error:
                return str(getattr(error, "code", ""))
            return "put"

        await w.serve(main)
        assert await w.call() == "USE_DURABLE_SEND"

    def test_a_decorated_function_keeps_its_policy(self) -> None:
        @handler(queue="elsewhere")
        @schedule(every=5)
        async def main(payload: int) -> None: ...

        assert spec_of(main).queue == "elsewhere"
