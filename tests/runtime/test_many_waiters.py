"""Waiting for very many outcomes: the safety net stays a net, and still catches what no message told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from redurable import Client, IntentFailed, Status
from redurable.store import results
from redurable.store.private import PrivateServer

pytestmark = pytest.mark.anyio
_EACH, _A_SECOND, _MANY = 0.05, 100, 400


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def lone_server() -> Iterator[PrivateServer]:
    """A server that counts for this test alone."""
    with PrivateServer(appendfsync="no") as server:
        yield server


async def test_however_many_wait_they_ask_again_a_bounded_number_of_times_a_second(
    lone_server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RECHECK", _EACH)
    monkeypatch.setattr(results, "_A_SECOND", _A_SECOND)
    monkeypatch.setattr(results.Results, "_on_message", lambda *_: None)  # every message is lost
    async with Client(lone_server.url) as client, Client(lone_server.url) as other:
        ids = await client.send_many("nobody", [None] * _MANY)
        sent = await _reads(other)  # scripts read, too
        waits = [asyncio.ensure_future(client.wait_for(intent)) for intent in ids]
        try:
            while await _reads(other) < sent + _MANY:  # everyone has looked once
                await asyncio.sleep(0.01)
            before, begun = await _reads(other), time.monotonic()
            await asyncio.sleep(2)
            asked, spent = await _reads(other) - before, time.monotonic() - begun
            assert 0 < asked <= 2 * _A_SECOND * spent + _MANY / 4  # all of them every 0.05 s would be 16,000
            await other.kill(ids[0])
            with pytest.raises(IntentFailed) as ended:
                async with asyncio.timeout(30):
                    await waits[0]
            assert ended.value.status == Status.CANCELED
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


async def _reads(client: Client) -> int:
    mux = (await client._store()).mux
    text = (await mux.command("INFO", "commandstats")).decode()
    lines = [line for line in text.splitlines() if line.startswith("cmdstat_hmget:")]
    return int(lines[0].split("calls=", 1)[1].split(",", 1)[0]) if lines else 0
