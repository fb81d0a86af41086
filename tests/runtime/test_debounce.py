"""Debounced sends, as producers and handlers see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable import Client, ConfigurationError, Debounce, Status, call, send, sync
from redurable.codecs import AesGcm, Vault
from redurable.runtime.handlers import handler, spec_of
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio


async def test_a_burst_runs_once_with_the_last_payload(w: World) -> None:
    ran: list[Any] = []

    async def main(payload: Any) -> Any:
        ran.append(payload)
        return payload

    await w.serve(main)
    ids = [await w.send({"doc": 17, "n": n}, debounce=Debounce(1.5, key="17")) for n in range(5)]
    other = await w.send({"doc": 18}, debounce=Debounce(0.2, key="18"))
    assert len(set(ids)) == 1
    info = await w.get(ids[0])
    assert info.status is Status.CREATED
    assert info.start is not None
    assert await w.result(ids[0]) == {"doc": 17, "n": 4}
    assert await w.result(other) == {"doc": 18}
    assert len(ran) == 2
    assert await w.send(1, debounce=0.1) != ids[0]


async def test_without_end_it_runs_within_its_longest_delay(w: World) -> None:
    ran: list[int] = []

    async def main(n: int) -> int:
        ran.append(n)
        return n

    await w.serve(main)
    wish = Debounce(30, within=30.5)
    first = await w.send(0, debounce=wish)
    until = (await w.store.mux.command("HGET", w.store.keys[0].head(first), "until")) or b"0"
    assert int(until) - (await w.get(first)).created == 30_500
    quick = Debounce(0.4, key="q", within=0.8)
    n, last = 0, ""
    async with asyncio.timeout(30):
        while not ran:  # nobody is ever quiet
            n += 1
            last = await w.send(n, debounce=quick)
            await asyncio.sleep(0.01)
    assert ran[0] >= 1
    await w.result(last)


async def test_call_waits_for_what_it_became(w: World) -> None:
    async def main(n: int) -> int:
        return n * 2

    handler(queue=QUEUE, type="twice")(main)
    await w.serve_specs(spec_of(main))
    answers = await asyncio.gather(*(w.client.call(main, n, debounce=0.5, timeout=30) for n in range(4)))
    assert len(set(answers)) == 1
    assert answers[0] in {0, 2, 4, 6}


async def test_a_sealed_payload_is_the_last_one_too(w: World) -> None:
    codec = AesGcm({"k1": bytes(32)}, current="k1")

    async def main(text: str) -> str:
        return text

    await w.serve(main, vault=Vault([codec]))
    async with Client(w.url, namespace=w.namespace, codec=codec) as client:
        await client.send(QUEUE, "first", debounce=0.3)
        intent = await client.send(QUEUE, "tip-top-secret", debounce=0.3)
        assert b"tip-top-secret" not in await w.store.mux.command("GET", w.store.keys[0].envelope(intent))
        assert await client.wait_for(intent, 30) == "tip-top-secret"


async def test_the_blocking_client_does_it_too(w: World) -> None:
    def work() -> list[str]:
        with sync.Client(w.url, namespace=w.namespace) as client:
            return [client.send(QUEUE, n, debounce=60) for n in range(3)]

    assert len(set(await asyncio.to_thread(work))) == 1


async def test_neither_many_at_once_nor_children(w: World) -> None:
    with pytest.raises(ConfigurationError, match="debounce"):
        await w.client.send_many(QUEUE, [1, 2], debounce=5)
    with pytest.raises(ConfigurationError, match="debounce"):
        await w.client.send_many(QUEUE, [1, 2], debounce=5, key="k")
    refused: list[str] = []

    async def main(payload: Any) -> None:
        for way in (call, send):
            try:
                await way("other", 1, debounce=5)
            except ConfigurationError as error:
                refused.append(error.code)

    await w.serve(main)
    await w.call()
    assert refused == ["BAD_ARGUMENT"] * 2
    assert await w.client.list(queue="other") == []
