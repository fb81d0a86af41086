"""Calls, one-way calls, order per key, sends that are repeated, and attaching to what runs."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from redurable.errors import IdempotencyConflict, NotFound
from redurable.model import Called
from tests.conformance.conftest import Site

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("payload", [None, 0, "", "text", [1, [2]], {"a": {"b": None}}, b"bytes", 1.5, "ü" * 1000])
async def test_a_call_returns_what_it_was_given(s: Site, payload: object) -> None:
    assert await s.call("echo", payload) == payload


async def test_a_plain_handler_is_called_alike(s: Site) -> None:
    assert await s.call("double", 21) == 42


async def test_children_are_called_one_after_the_other(s: Site) -> None:
    assert await s.call("fan", {"to": "cf.double", "items": [1, 2, 3], "in_turn": True}) == [2, 4, 6]


async def test_children_are_called_all_at_once_and_each_once(s: Site) -> None:
    intent = await s.send("fan", {"to": "cf.echo", "items": list(range(20))})
    assert await s.result(intent) == list(range(20))
    children = [entry.child for entry in await s.journal(intent, Called)]
    assert len(set(children)) == 20
    assert [s.lines(child) for child in children] == [["echo"]] * 20, "a replay of the parent called again"


async def test_a_chain_of_calls_of_itself(s: Site) -> None:
    assert await s.call("factorial", 12) == 479001600


async def test_one_way_calls_are_sent_once_and_outlive_their_sender(s: Site) -> None:
    sent = await s.call("fan", {"to": "cf.echo", "items": [1, 2, 3], "send": True})
    assert [await s.result(intent) for intent in sent] == [1, 2, 3]
    assert [s.lines(intent) for intent in sent] == [["echo"]] * 3


async def test_a_delayed_one_way_call_begins_when_it_is_due(s: Site) -> None:
    sent = await s.call("fan", {"to": "cf.echo", "items": [1], "send": True, "options": {"delay": 0.5}})
    assert await s.result(sent[0]) == 1
    info = await s.client.get(sent[0])
    assert info.started is not None
    assert info.started - info.created >= 500


async def test_intents_of_one_key_run_one_at_a_time_in_the_order_of_sending(s: Site) -> None:
    keys = [f"order-{n}" for n in range(4)]
    sent = {key: [] for key in keys}
    for n in range(12):
        for key in keys:  # some park on their way; the others of their key wait for them
            sent[key].append(await s.send("keyed", {"n": n, "nap": n == 5 and key == keys[0]}, key=key))
    for key in keys:
        assert [await s.result(intent) for intent in sent[key]] == list(range(12))
        mine = set(sent[key])
        told = [line.step for line in s.fleet.ledger() if line.intent in mine and not line.step.startswith("work")]
        once = list(dict.fromkeys(told))  # who parked says `begin` again as it is replayed
        assert once == [f"{what}:{n}" for n in range(12) for what in ("begin", "end")]


async def test_intents_of_different_keys_do_not_wait_for_each_other(s: Site) -> None:
    first = await s.send("state", [["hold", "apart"]], key="apart-1")
    await s.line(first, "apart")
    assert await s.call("state", [["get", "x"]], key="apart-2") == ["none"]
    s.fleet.open("apart")
    assert await s.result(first) == []


async def test_a_send_that_is_repeated_gives_the_first_intent(s: Site) -> None:
    ids = await asyncio.gather(*(s.send("echo", 7, idempotency_key="again") for _ in range(10)))
    assert len(set(ids)) == 1
    assert await s.result(ids[0]) == 7
    assert await s.send("echo", 7, idempotency_key="again") == ids[0], "also when it has ended"
    assert s.lines(ids[0]) == ["echo"]
    with pytest.raises(IdempotencyConflict):
        await s.send("echo", 8, idempotency_key="again")


async def test_a_call_that_is_repeated_gives_the_first_result(s: Site) -> None:
    first = asyncio.create_task(s.client.call("cf.gated", {"gate": "rep", "value": 1}, idempotency_key="rep"))
    second = asyncio.create_task(s.client.call("cf.gated", {"gate": "rep", "value": 1}, idempotency_key="rep"))
    await asyncio.sleep(0.1)
    s.fleet.open("rep")
    assert [await first, await second] == [1, 1]


async def test_keys_of_different_queues_and_sessions_are_different(s: Site) -> None:
    ids = [
        await s.send("echo", 1, idempotency_key="mine"),
        await s.send("double", 1, idempotency_key="mine"),
        await s.send("state", [], idempotency_key="mine", key="one"),
        await s.send("state", [], idempotency_key="mine", key="two"),
    ]
    assert len(set(ids)) == 4


ATTACH = """
import asyncio, json, sys
from redurable import Client
async def main():
    async with Client(sys.argv[1], namespace=sys.argv[2]) as client:
        print(json.dumps(await client.wait_for(sys.argv[3], 30)))
asyncio.run(main())
"""


async def attached(s: Site, intent: str) -> object:
    """Wait for the intent's result in another process, which has not sent it."""
    words = [sys.executable, "-c", ATTACH, s.fleet.url, s.fleet.namespace, intent]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return json.loads(out)


async def test_another_process_attaches_before_while_and_after_it_runs(s: Site) -> None:
    intent = await s.send("gated", {"gate": "attach", "value": [1, 2]}, delay=1.0)
    before = asyncio.create_task(attached(s, intent))
    await s.line(intent, "attach")
    during = asyncio.create_task(attached(s, intent))
    mine = asyncio.create_task(s.result(intent))
    s.fleet.open("attach")
    assert [await before, await during, await mine] == [[1, 2]] * 3
    assert await attached(s, intent) == [1, 2]


async def test_a_wait_that_ends_ends_nothing_else(s: Site) -> None:
    intent = await s.send("gated", {"gate": "patience", "value": 3})
    with pytest.raises(TimeoutError):
        await s.client.wait_for(intent, 0.05)
    s.fleet.open("patience")
    assert await s.result(intent) == 3


async def test_nobody_attaches_to_what_is_not_there(s: Site) -> None:
    with pytest.raises(NotFound):
        await s.result("0190a5ae-0000-7000-8000-000000000000")
