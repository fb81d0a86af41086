"""Cancel and kill, from every kind of wait: the wait ends, undo work runs once (or not at all), nothing stays open."""

from __future__ import annotations

import pytest

from redurable.errors import WrongState
from redurable.model import Called, Status, StepDone
from tests.conformance import app
from tests.conformance.conftest import Site
from tests.support.fleet import until

pytestmark = pytest.mark.anyio


async def waiting(s: Site, queue: str, kind: str) -> str:
    """Send an intent that waits in this way; return its id once it does."""
    intent = await s.send(queue, kind)
    await s.line(intent, "begun")
    if kind in app.RUNNING:
        await s.line(intent, "inside")
    else:
        await s.until(intent)
    return intent


async def all_ended(s: Site, intent: str, status: Status) -> list[str]:
    """Return the ids of *intent* and all below it once they have ended so."""
    found = [intent]
    for parent in found:
        found += [entry.child for entry in await s.journal(parent, Called)]
    for one in found:
        assert (await s.failure(one)).status == status
    return found


CASES = [("waits", kind) for kind in app.WAITS] + [("sync_waits", kind) for kind in app.SYNC_WAITS]


@pytest.mark.parametrize(("queue", "kind"), CASES, ids=[f"{q}-{k}" for q, k in CASES])
async def test_a_cancel_ends_every_kind_of_wait_and_undoes_each_once(s: Site, queue: str, kind: str) -> None:
    intent = await waiting(s, queue, kind)
    below = [child.id for child in await s.children(intent)]
    for child in below:
        await s.line(child, "begun")
    assert await s.client.cancel(intent, "enough") == "REQUESTED"
    failure = await s.failure(intent)
    assert (failure.status, failure.code, failure.error.message) == ("CANCELED", "CANCELED", "enough")
    for one in await all_ended(s, intent, Status.CANCELED):
        assert [name for name in s.lines(one) if name.startswith("undo")] in (
            [f"undo:{kind}"], ["undo:promise"], ["undo:call"], ["undo:sleep"]), one  # fmt: skip
    assert not [open for open in await s.client.approvals() if open.intent == intent]
    assert await s.client.cancel(intent) == "CANCELED", "a second time changes nothing"


@pytest.mark.parametrize(("queue", "kind"), CASES, ids=[f"{q}-{k}" for q, k in CASES])
async def test_a_kill_ends_every_kind_of_wait_at_once_and_undoes_nothing(s: Site, queue: str, kind: str) -> None:
    intent = await waiting(s, queue, kind)
    for child in [child.id for child in await s.children(intent)]:
        await s.line(child, "begun")
    assert await s.client.kill(intent) == "CANCELED"
    failure = await s.failure(intent)
    assert (failure.status, failure.code) == ("CANCELED", "KILLED")
    for child in (await all_ended(s, intent, Status.CANCELED))[1:]:  # these were asked, by their parent's end
        assert [name for name in s.lines(child) if name.startswith("undo")], child
    assert not [name for name in s.lines(intent) if name.startswith("undo")]


async def test_a_cancel_between_two_attempts_of_a_handler_is_met_by_the_next(s: Site) -> None:
    intent = await s.send("backoff")
    await s.until(intent)
    assert await s.client.cancel(intent) == "REQUESTED"
    assert (await s.failure(intent)).status == "CANCELED"
    assert s.lines(intent) == ["begun", "undo:backoff"]


@pytest.mark.parametrize("how", ["delay", "line", "paused"])
async def test_what_never_ran_ends_at_once(s: Site, how: str) -> None:
    holder = None
    if how == "line":
        holder = await s.send("state", [["hold", "never-ran"]], key="never-ran")
        await s.line(holder, "never-ran")
        intent = await s.send("state", [], key="never-ran")
    else:
        intent = await s.send("echo", 1, delay=3600)
        if how == "paused":
            assert await s.client.pause(intent) == "PAUSED"
    assert await s.client.cancel(intent) == "CANCELED"
    assert (await s.failure(intent)).status == "CANCELED"
    assert s.lines(intent) == []
    if holder is not None:
        s.fleet.open("never-ran")
        assert await s.result(holder) == []


@pytest.mark.parametrize(("then", "lines"), [("raise", []), ("tidy", ["tidied"]), ("return", []), ("fail", [])])
async def test_a_step_in_flight_is_finished_and_recorded_first(s: Site, then: str, lines: list[str]) -> None:
    gate = f"stubborn-{then}"
    intent = await s.send("stubborn", {"gate": gate, "then": then})
    await s.line(intent, gate)
    assert await s.client.cancel(intent) == "REQUESTED"
    assert (await s.client.get(intent)).canceling
    s.fleet.open(gate)
    assert (await s.failure(intent)).status == "CANCELED", "whatever the handler made of it"
    assert [entry.name for entry in await s.journal(intent, StepDone)] == ["held", *(["mark"] if lines else [])]
    assert s.lines(intent) == [gate, *lines]


async def test_a_handler_that_asks_for_nothing_more_has_completed_before_its_cancel(s: Site) -> None:
    intent = await s.send("gated", {"gate": "too-late", "value": 1})
    await s.line(intent, "too-late")
    assert await s.client.cancel(intent) == "REQUESTED"
    s.fleet.open("too-late")
    assert await s.result(intent) == 1
    assert await s.client.cancel(intent) == "COMPLETED"


async def test_a_cancel_frees_the_session_of_its_intent(s: Site) -> None:
    first = await s.send("state", [["set", "x", 1], ["hold", "freed"], ["keys"]], key="freed")
    await s.line(first, "freed")
    second = await s.send("state", [["get", "x"]], key="freed")
    assert await s.client.cancel(first) == "REQUESTED"
    s.fleet.open("freed")
    assert (await s.failure(first)).status == "CANCELED"
    assert await s.result(second) == ["none"], "what a canceled one wrote is discarded"


async def test_a_deadline_ends_a_wait_as_a_cancel_does(s: Site) -> None:
    intent = await s.send("waits", "promise", deadline=1.5)
    failure = await s.failure(intent)
    assert (failure.status, failure.code) == ("TIMED_OUT", "DEADLINE")
    assert s.lines(intent) == ["begun", "undo:promise"]


async def test_what_was_canceled_and_undone_is_not_taken_up_again(s: Site) -> None:
    intent = await waiting(s, "waits", "promise")
    await s.client.cancel(intent)
    assert (await s.failure(intent)).status == "CANCELED"
    with pytest.raises(WrongState) as refused:
        await s.client.retry(intent)
    assert refused.value.code == "ALREADY_UNDONE"
    assert s.lines(intent) == ["begun", "undo:promise"]


async def test_what_was_canceled_before_it_began_can_be_taken_up_again(s: Site) -> None:
    intent = await s.send("waits", "promise", delay=3600)
    await s.client.cancel(intent)
    assert (await s.failure(intent)).status == "CANCELED"
    await s.client.retry(intent)
    await s.until(intent)
    await s.client.resolve(intent, "a", 1)
    assert await s.result(intent) is None
    assert s.lines(intent).count("begun") == 1


async def test_all_that_are_chosen_are_canceled(s: Site) -> None:
    label = {"batch": "of-cancels"}
    ids = [await s.send("waits", "promise", labels=label) for _ in range(10)]
    for intent in ids:
        await s.until(intent)
    answer = await s.client.each("cancel", label=("batch", "of-cancels"))
    assert answer.chosen == 10

    async def all_canceled() -> bool:
        return all([(await s.client.get(intent)).status is Status.CANCELED for intent in ids])

    await until(all_canceled, 60)
