"""Many intents: who is chosen, that the count is exact, what comes of each, and that the server is never held up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from redurable import Client, ConfigurationError, Status
from redurable.store.server import PrivateServer
from tests.store.conftest import plain
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(real: PrivateServer, space: str) -> AsyncIterator[Client]:
    """A client on a namespace of the test's own, in which nothing is left that should not be."""
    async with Client(real.url, namespace=space) as found:
        yield found
        await check_all(await found._store())


async def statuses(client: Client, ids: list[Any]) -> list[Status]:
    return [(await client.get(intent)).status for intent in ids]


async def test_all_that_is_given_chooses_and_nothing_else(client: Client) -> None:
    mine = await client.send_many("a", range(3), labels={"team": "shop"})
    others = [
        *await client.send_many("a", range(2), labels={"team": "depot"}),
        *await client.send_many("b", range(2), labels={"team": "shop"}),
        await client.send("a", 1, labels={"team": "shop"}, delay=60),
    ]
    choice: dict[str, Any] = {"queue": "a", "status": "submitted", "label": ("team", "shop"), "older_than": 0}
    assert (await client.each("cancel", **choice, dry_run=True)).chosen == 3
    assert await statuses(client, [*mine, *others]) == [Status.SUBMITTED] * 7 + [Status.CREATED]
    assert (await client.each("cancel", **choice | {"older_than": 60})).chosen == 0
    done = await client.each("cancel", **choice, note="too many")
    assert (done.chosen, done.answers) == (3, {"CANCELED": 3})
    error = (await client.get(mine[0])).error
    assert error is not None
    assert error.message == "too many"
    assert await statuses(client, others) == [Status.SUBMITTED] * 4 + [Status.CREATED]
    assert (await client.each("cancel", **choice)).chosen == 0, "what is done is not chosen again"


async def test_each_verb_chooses_those_to_which_it_does_anything(client: Client) -> None:
    ids = await client.send_many("a", range(5))
    late = await client.send("a", 1, delay=60)

    async def each(verb: Any) -> tuple[int, dict[str, int]]:
        counted = await client.each(verb, queue="a", dry_run=True)
        done = await client.each(verb, queue="a")
        assert (counted.chosen, counted.answers) == (done.chosen, {})
        return done.chosen, done.answers

    assert await each("resume") == (0, {})
    assert await each("pause") == (6, {"PAUSED": 6})
    assert await each("pause") == (0, {})
    assert await each("resume") == (6, {"RESUMED": 6})
    assert await statuses(client, [ids[0], late]) == [Status.SUBMITTED, Status.CREATED]
    assert await each("delete") == (0, {})
    assert await each("retry") == (0, {})
    assert await each("kill") == (6, {"CANCELED": 6})
    assert await each("cancel") == (0, {})
    assert await each("retry") == (6, {"SUBMITTED": 6})
    assert await each("cancel") == (6, {"REQUESTED": 6})
    assert await each("cancel") == (0, {}), "they are asked already"
    assert await each("kill") == (6, {"CANCELED": 6})
    assert await each("delete") == (6, {"DELETED": 6})
    assert await each("delete") == (0, {})


async def test_a_session_in_line_is_ended_whole(client: Client) -> None:
    ids = await client.send_many("a", range(40), key="k")
    assert (await client.each("kill", queue="a")).answers == {"CANCELED": 40}
    assert set(await statuses(client, list(ids))) == {Status.CANCELED}


async def test_one_that_ended_meanwhile_is_left_and_counted(client: Client) -> None:
    from redurable.store import selection

    ids = [str(intent) for intent in await client.send_many("a", range(3))]
    store = await client._store()
    await client.kill(ids[0])
    assert await selection.act(store, "pause", ids) == {"WRONG_STATE": 1, "PAUSED": 2}
    await client.each("kill", queue="a")
    await client.delete(ids[0])
    assert await selection.act(store, "retry", ids) == {"INTENT_NOT_FOUND": 1, "SUBMITTED": 2}


@pytest.mark.parametrize(
    ("verb", "choice"),
    [
        ("cancel", {}),
        ("burn", {"queue": "a"}),
        ("cancel", {"queue": "a b"}),
        ("cancel", {"status": "BROKEN"}),
        ("cancel", {"status": "COMPLETED"}),
        ("retry", {"status": "COMPLETED"}),
        ("delete", {"status": "WAITING"}),
        ("cancel", {"status": "DELIVERED"}),
        ("cancel", {"older_than": -1}),
        ("cancel", {"older_than": "2h"}),
    ],
)
async def test_what_chooses_everything_or_nothing_is_refused(client: Client, verb: Any, choice: Any) -> None:
    await client.send("a", 1)
    with pytest.raises(ConfigurationError):
        await client.each(verb, **choice)
    assert len(await client.list(status="SUBMITTED")) == 1


async def test_the_server_serves_others_in_between(client: Client, real: PrivateServer) -> None:
    """Smaller than what `python -m tests.store.many` shows: no call works for 5 ms, however many are cancelled."""
    count = 3000
    await client.send_many("a", range(count))
    told: list[tuple[int, int]] = []
    with plain(real) as probe:
        probe.config_resetstat()
        assert (await client.each("cancel", queue="a", dry_run=True)).chosen == count
        done = await client.each("cancel", queue="a", progress=lambda *now: told.append(now))
        spent = probe.info("commandstats")
    assert done.answers == {"CANCELED": count}
    assert told[-1] == (count, count)
    assert told == sorted(told)
    # on the average: a busy machine stops the server in the middle of any command
    assert {name: s for name, s in spent.items() if s["usec_per_call"] > 5000} == {}
    assert spent["cmdstat_evalsha"]["calls"] >= count / 25
