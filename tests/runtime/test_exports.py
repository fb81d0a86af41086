"""`Client.export_all`: the records of all that fit, one after the other."""

from __future__ import annotations

import contextlib

import pytest

from redurable import RedurableError
from tests.runtime.world import World

pytestmark = pytest.mark.anyio
COUNT = 450  # more than two pages


async def test_each_that_fits_is_given_as_export_gives_it(w: World) -> None:
    ids = await w.client.send_many("mail", list(range(COUNT)), labels={"team": "a"})
    await w.client.send("sms", 1)
    records = [record async for record in w.client.export_all(queue="mail")]
    assert sorted(record["id"] for record in records) == sorted(ids)
    assert records[0] == await w.client.export(records[0]["id"])
    found = [record["id"] async for record in w.client.export_all(status="SUBMITTED", label=("team", "a"))]
    assert sorted(found) == sorted(ids)
    assert [record async for record in w.client.export_all(queue="mail", status="COMPLETED")] == []
    assert [record async for record in w.client.export_all(queue="nobody's")] == []


async def test_it_may_be_left_early_and_skips_what_goes_meanwhile(w: World) -> None:
    ids = await w.client.send_many("mail", list(range(COUNT)))
    for intent in ids:
        await w.client.cancel(intent)
    given = []
    async with contextlib.aclosing(w.client.export_all(status="CANCELED")) as records:
        async for record in records:
            given.append(record["id"])
            if len(given) == 1:
                await w.client.each("delete", queue="mail")
            assert len(given) < COUNT
    assert set(given) <= set(ids)


async def test_a_state_that_is_none_is_refused(w: World) -> None:
    with pytest.raises(RedurableError, match="MOON"):
        _ = [record async for record in w.client.export_all(status="MOON")]
