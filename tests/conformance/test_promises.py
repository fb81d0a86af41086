"""Promises, resolved and rejected from outside: by id, by token, by another intent; before, while and after."""

from __future__ import annotations

import asyncio

import pytest

from redurable.errors import NotFound, SerialisationError, TokenRefused, WrongState
from redurable.model import StepDone
from redurable.sync import Client as SyncClient
from tests.conformance.conftest import Site
from tests.support.fleet import until

pytestmark = pytest.mark.anyio


async def test_one_is_resolved_while_its_handler_waits(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a"]})
    await s.until(intent)
    await s.client.resolve(intent, "a", "yes")
    assert await s.result(intent) == ["yes"]


async def test_one_is_resolved_before_its_handler_asks(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a"], "gate": "early"})
    await s.line(intent, "early")
    await s.client.resolve(intent, "a", "before")
    s.fleet.open("early")
    assert await s.result(intent) == ["before"]


async def test_one_is_resolved_before_its_handler_begins(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a"]}, delay=0.3)
    await s.client.resolve(intent, "a", "first")
    assert await s.result(intent) == ["first"]


async def test_one_is_rejected(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a", "b"]})
    await s.until(intent)
    await s.client.reject(intent, "a", "out of paper")
    await s.client.resolve(intent, "b", "but this")
    assert await s.result(intent) == ["rejected: out of paper", "but this"]


async def test_many_are_resolved_in_any_order(s: Site) -> None:
    names = [f"p{n}" for n in range(10)]
    intent = await s.send("promises", {"names": names})
    await s.until(intent)
    await asyncio.gather(*(s.client.resolve(intent, name, name) for name in reversed(names)))
    assert await s.result(intent) == names


async def test_one_that_is_late_is_over_and_the_next_is_not(s: Site) -> None:
    intent = await s.send("promises", {"names": ["late", "also"], "timeout": 0.2})
    assert await s.result(intent) == ["late", "late"]


async def test_the_first_value_stands_and_the_same_again_is_no_matter(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a", "b"]})
    await s.asked(intent, "a#0")
    await s.client.resolve(intent, "a", "one")
    await s.client.resolve(intent, "a", "one")
    for refused in (s.client.resolve(intent, "a", "two"), s.client.reject(intent, "a", "no")):
        with pytest.raises(WrongState) as error:
            await refused
        assert error.value.code == "ALREADY_RESOLVED"
    await s.client.resolve(intent, "b", "end")
    assert await s.result(intent) == ["one", "end"]


async def test_of_many_who_resolve_at_once_one_has(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a"]})
    await s.until(intent)
    tries = [s.client.resolve(intent, "a", f"by {n}") for n in range(10)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    winners = [n for n, answer in enumerate(answers) if answer == "RESOLVED"]
    assert len(winners) == 1
    assert await s.result(intent) == [f"by {winners[0]}"]


async def test_a_value_of_another_type_is_refused_and_it_stays_open(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a"]})
    await s.asked(intent, "a#0")
    with pytest.raises(SerialisationError) as error:
        await s.client.resolve(intent, "a", 17)
    assert error.value.code == "TYPE_MISMATCH"
    await s.client.resolve(intent, "a", "seventeen")
    assert await s.result(intent) == ["seventeen"]


async def test_a_token_opens_it_once_and_nothing_else(s: Site) -> None:
    intent = await s.send("mailed")
    await s.asked(intent, "answer#0")
    (mail,) = await s.journal(intent, StepDone)
    token = await s.client.export(intent)
    token = next(e["value"]["json"] for e in token["journal"] if e.get("name") == mail.name)
    with pytest.raises(TokenRefused):
        await s.client.resolve(token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), 1)
    await s.client.resolve(token, 42)
    assert await s.result(intent) == 42
    with pytest.raises(WrongState):
        await s.client.resolve(token, 43)


async def test_another_intent_resolves_it(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a"]})
    await s.until(intent)
    await s.call("friend", {"intent": intent, "name": "a", "value": "from a friend"})
    assert await s.result(intent) == ["from a friend"]


async def test_a_program_without_a_loop_resolves_it(s: Site) -> None:
    intent = await s.send("promises", {"names": ["a"]})
    await s.until(intent)

    def elsewhere() -> None:
        with SyncClient(s.fleet.url, namespace=s.fleet.namespace) as client:
            client.resolve(intent, "a", "from a thread")

    await asyncio.to_thread(elsewhere)
    assert await s.result(intent) == ["from a thread"]


async def test_an_approval_is_listed_and_answered(s: Site) -> None:
    intent = await s.send("waits", "approval")

    async def listed() -> bool:
        return intent in [asked.intent for asked in await s.client.approvals()]

    await until(listed, 60)
    await s.client.answer(intent, "publish", "no", by="ada")
    assert await s.result(intent) is None
    assert not await listed()


async def test_nobody_resolves_what_has_ended_or_is_not_there(s: Site) -> None:
    intent = await s.send("echo", 1)
    assert await s.result(intent) == 1
    with pytest.raises(WrongState):
        await s.client.resolve(intent, "a", 1)
    with pytest.raises(NotFound):
        await s.client.resolve("0190a5ae-0000-7000-8000-000000000000", "a", 1)
