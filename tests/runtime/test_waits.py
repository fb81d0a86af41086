"""What an intent waits for is told to who asks why it does not go on: by name, since when, until when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from redurable import SerialisationError, Status, approval, call, promise
from redurable.news import Wait
from tests.runtime.world import World

pytestmark = pytest.mark.anyio
HOUR = 3_600_000


@dataclass
class Form:
    comment: str
    budget: int = 0


async def waits(w: World, intent: str, count: int) -> list[Wait]:
    """Return the waits of the intent, once it is put down and they are *count*."""
    async with asyncio.timeout(30):
        while True:
            info = await w.get(intent)
            if info.status is Status.WAITING and len(info.waits) == count:
                return list(info.waits)
            await asyncio.sleep(0.01)


async def test_promises_approvals_and_children_are_named(w: World) -> None:
    async def main(payload: None) -> list[Any]:
        return await asyncio.gather(
            promise("first"), promise("more", index=2).wait(timeout=3600), call("nobody", 1),
            approval("publish", title="Publish?", reminders=[600]).wait(timeout=3600),
        )  # fmt: skip

    await w.serve(main)
    intent = await w.send()
    found = {wait.name if wait.kind != "child" else "child": wait for wait in await waits(w, intent, 4)}
    first, more, publish, child = (found[name] for name in ("first", "more", "publish", "child"))
    info = await w.get(intent)
    assert (first.kind, first.name, first.index, first.until) == ("promise", "first", 0, None)
    assert first.since is not None
    assert info.created <= first.since <= (info.created + 60_000)
    assert (more.kind, more.name, more.index) == ("promise", "more", 2)
    assert more.since is not None
    assert more.until is not None
    assert HOUR <= more.until - more.since < HOUR + 60_000
    assert (publish.kind, publish.detail) == ("approval", "Publish?")
    assert publish.until is not None
    assert abs(publish.until - more.until) < 60_000, "the limit of the wait, not the reminder on the way"
    assert (child.kind, child.detail) == ("child", "nobody SUBMITTED")
    assert (await w.get(child.name)).waits == ()
    (listed,) = await w.client.list(queue="q")
    assert listed.waits == (), "a listing does not ask"
    await w.client.resolve(intent, "first", 1)
    assert {wait.name for wait in await waits(w, intent, 3)} == {"more", "publish", child.name}
    await w.client.kill(intent)
    assert (await w.get(intent)).waits == ()


async def test_a_promise_whose_time_is_over_is_waited_for_no_more(w: World) -> None:
    async def main(payload: None) -> str:
        try:
            await promise("never").wait(timeout=0.01)
        except TimeoutError:
            return str(await promise("other"))
        raise AssertionError

    await w.serve(main)
    intent = await w.send()
    (wait,) = await waits(w, intent, 1)
    while wait.name != "other":
        (wait,) = await waits(w, intent, 1)
    await w.client.resolve(intent, "other", "done")
    assert await w.result(intent) == "done"


async def test_a_value_that_nobody_has_asked_for_is_told(w: World) -> None:
    async def main(payload: None) -> list[Any]:
        asked = promise("approved", bool)
        return [await asked, await promise("late", str)]

    intent = await w.send()
    assert await w.client.resolve(intent, "late", "kept") == "UNASKED"
    assert await w.client.resolve(intent, "late", "kept") == "RESOLVED", "it is there"
    assert await w.client.reject(intent, "aproved", "no") == "UNASKED"
    await w.serve(main)
    assert [wait.name for wait in await waits(w, intent, 1)] == ["approved"]
    assert await w.client.resolve(intent, "approved", True) == "RESOLVED"
    assert await w.result(intent) == [True, "kept"]


async def test_who_answers_without_the_form_is_told_what_to_fill_in(w: World) -> None:
    async def main(payload: None) -> str:
        return (await approval("publish", of=Form)).value.comment

    await w.serve(main)
    intent = await w.send()
    await waits(w, intent, 1)
    with pytest.raises(SerialisationError, match="it has a form, and no value fills it in") as refused:
        await w.client.answer(intent, "publish", "approve")
    assert "{budget?: integer, comment: string}" in refused.value.hint
    assert """--value '{"comment": "..."}'""" in refused.value.hint
    with pytest.raises(SerialisationError, match="lacks 'comment'"):
        await w.client.answer(intent, "publish", "approve", value={"budget": 1})
    await w.client.answer(intent, "publish", "approve", value={"comment": "fine"})
    assert await w.result(intent) == "fine"
