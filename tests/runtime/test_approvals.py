"""Approvals: listed while they wait, answered by whoever may, reminded of and escalated once each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from redurable import Approval, ConfigurationError, NotFound, SerialisationError, Status, WrongState, approval, sync
from redurable.model import Arrived, Reason, StepDone
from tests.runtime.world import World

pytestmark = pytest.mark.anyio


@dataclass
class Form:
    comment: str
    budget: int = 0


async def asked(w: World, intent: str) -> Any:
    """Return the open approval of the intent, waiting for it."""
    async with asyncio.timeout(30):
        while True:
            for found in await w.client.approvals():
                if found.intent == intent:
                    return found
            await asyncio.sleep(0.005)


async def test_it_is_listed_answered_once_and_typed(w: World) -> None:
    async def main(payload: None) -> list[Any]:
        decision = await approval(
            "publish", title="Publish?", description="the page", outcomes=("yes", "no"), of=Form, assignees=["ann"],
            escalate_after=3600,
        )  # fmt: skip
        return [decision.outcome, decision.value.comment, decision.by, decision.at.tzinfo is not None]

    await w.serve(main)
    intent = await w.send()
    assert (await w.until(intent, Status.WAITING)).reason is Reason.HUMAN
    found = await asked(w, intent)
    assert (found.title, found.outcomes, found.assignees) == ("Publish?", ("yes", "no"), ("ann",))
    assert found.escalates == found.since + 3_600_000
    assert "comment" in str(found.form)
    with pytest.raises(ConfigurationError) as wrong:
        await w.client.answer(intent, "publish", "maybe", value={"comment": "x"})
    assert wrong.value.code == "BAD_OUTCOME"
    for bad in (None, {"budget": 1}, {"comment": 1}):
        with pytest.raises(SerialisationError):
            await w.client.answer(intent, "publish", "yes", value=bad)
    with pytest.raises(NotFound) as unknown:
        await w.client.answer(intent, "other", "yes")
    assert unknown.value.code == "APPROVAL_NOT_FOUND"
    await w.client.answer(intent, "publish", "yes", value=Form("fine"), by="bob")
    assert await w.result(intent) == ["yes", "fine", "bob", True]
    (entry,) = await w.entries(intent, Arrived)
    assert entry.by == "bob"
    with pytest.raises(WrongState):
        await w.client.answer(intent, "publish", "no", value=Form("fine"), by="bob")
    assert await w.client.approvals() == []


async def test_its_token_answers_it_and_what_came_before_it_was_asked_is_looked_at_too(w: World) -> None:
    tokens: list[str] = []

    async def main(payload: None) -> list[str]:
        first = approval("first")
        tokens.append(first.token)
        return [(await first).outcome, (await approval("second")).outcome]

    intent = await w.send()
    await w.client.resolve(intent, "second", {"outcome": "never heard of"})
    await w.serve(main)
    await asked(w, intent)
    await w.client.answer(tokens[0], "approve")
    while (await asked(w, intent)).name != "second":
        await asyncio.sleep(0.01)
    await w.client.resolve(intent, "second", "reject")
    assert await w.result(intent) == ["approve", "reject"]


async def test_reminders_and_the_escalation_happen_once_each_whatever_restarts(w: World) -> None:
    seen: list[str] = []

    async def remind(question: Approval[Any]) -> None:
        seen.append(f"remind {question.title} {question.assignees[0]}")

    def escalate(question: Approval[Any]) -> None:
        seen.append("escalate")

    async def main(payload: None) -> str:
        decision = await approval(
            "publish", title="Publish?", assignees=["ann"], reminders=[1.05, 0.2], on_reminder=remind,
            escalate_after=1.3, on_escalation=escalate,
        )  # fmt: skip
        return decision.outcome

    await w.serve(main)
    intent = await w.send()
    async with asyncio.timeout(30):
        while "escalate" not in seen:
            await w.lose(intent)
            await asyncio.sleep(0.05)
    await w.until(intent, Status.WAITING)
    await w.client.answer(intent, "publish", "reject")
    assert await w.result(intent) == "reject"
    done = [e.name for e in await w.entries(intent, StepDone)]
    assert done == ["reminded publish", "reminded publish", "escalated publish"]
    assert [e for e in seen if e == "escalate"]
    assert set(seen) == {"remind Publish? ann", "escalate"}


async def test_a_canceled_intent_asks_nobody_any_more(w: World) -> None:
    async def main(payload: None) -> None:
        await approval("publish", remind_every=60)

    await w.serve(main)
    intent = await w.send()
    await asked(w, intent)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    async with asyncio.timeout(30):
        while await w.store.mux.command("EXISTS", w.store.keys[0].asked):
            await asyncio.sleep(0.01)


async def test_a_plain_handler_asks_too(w: World) -> None:
    def main(payload: None) -> str:
        return sync.approval("publish").wait(timeout=60).outcome

    await w.serve(main)
    intent = await w.send()
    await asked(w, intent)
    await w.client.answer(intent, "publish", "approve")
    assert await w.result(intent) == "approve"


@pytest.mark.parametrize(
    "options",
    [{"outcomes": []}, {"outcomes": "yes"}, {"outcomes": ["a", "a"]}, {"assignees": [1]}, {"title": "x" * 3000},
     {"remind_every": 0.1}, {"reminders": [-1]}, {"escalate_after": "soon"}],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused(w: World, options: Any) -> None:
    async def main(payload: None) -> None:
        approval("publish", **options)

    await w.serve(main)
    assert (await w.failure(await w.send())).error.code == "BAD_ARGUMENT"


async def test_one_that_was_exported_is_asked_for_where_it_is_imported(w: World) -> None:
    async def main(payload: None) -> str:
        return (await approval("publish", outcomes=("yes", "no"), of=Form)).outcome

    worker = await w.serve(main)
    intent = await w.send()
    await asked(w, intent)
    await w.until(intent, Status.WAITING)
    await w.stop(worker)
    record = await w.client.export(intent)
    async with World(w.url, f"{w.namespace}b") as other:
        assert await other.client.import_(record)
        await other.serve(main)
        assert "comment" in str((await asked(other, intent)).form)
        await other.client.answer(intent, "publish", "yes", value=Form("fine"))
        assert await other.result(intent) == "yes"
