"""Pub/sub of one process: messages, and being told when some may have been missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redurable.config import parse_url
from redurable.errors import StoreUnavailable
from redurable.store import subscriber as module
from redurable.store.server import PrivateServer
from redurable.store.subscriber import Subscriber
from redurable.store.topology import Topology
from tests.store.conftest import plain
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio


class Ear:
    """A subscriber behind a proxy, and what it heard."""

    def __init__(self, url: str) -> None:
        self.messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.subscribed: asyncio.Queue[bool] = asyncio.Queue()
        topology = Topology(parse_url(url))
        self.sub = Subscriber(topology, lambda *m: self.messages.put_nowait(m), self.subscribed.put_nowait)

    async def hear(self) -> tuple[str, bytes]:
        return await asyncio.wait_for(self.messages.get(), 30)

    async def told(self) -> bool:
        return await asyncio.wait_for(self.subscribed.get(), 30)


@pytest.fixture
async def proxy(real: PrivateServer) -> AsyncIterator[Proxy]:
    async with Proxy(real.port or 0) as proxy:
        yield proxy


@pytest.fixture
async def ear(proxy: Proxy) -> AsyncIterator[Ear]:
    ear = Ear(proxy.url)
    await ear.sub.start()
    assert await ear.told() is False
    yield ear
    await ear.sub.close()


def publish(real: PrivateServer, *pairs: tuple[str, Any]) -> list[int]:
    with plain(real) as client:
        return [client.publish(channel, data) for channel, data in pairs]


async def test_messages_of_its_channels_arrive_in_order(ear: Ear, real: PrivateServer, space: str) -> None:
    await asyncio.wait_for(ear.sub.subscribe(f"{space}:a"), 30)
    await asyncio.wait_for(ear.sub.subscribe(f"{space}:a"), 30)
    publish(real, (f"{space}:a", b"1"), (f"{space}:b", b"not mine"), (f"{space}:a", b"\x00\xff"))
    assert [await ear.hear(), await ear.hear()] == [(f"{space}:a", b"1"), (f"{space}:a", b"\x00\xff")]
    assert ear.messages.empty()


async def test_after_unsubscribing_nothing_comes(ear: Ear, real: PrivateServer, space: str) -> None:
    await asyncio.wait_for(ear.sub.subscribe(f"{space}:a"), 30)
    ear.sub.unsubscribe(f"{space}:a")
    ear.sub.unsubscribe(f"{space}:a")
    await asyncio.wait_for(ear.sub.subscribe(f"{space}:b"), 30)
    assert publish(real, (f"{space}:a", b"1"), (f"{space}:b", b"2")) == [0, 1]
    assert await ear.hear() == (f"{space}:b", b"2")


async def test_a_cut_line_is_made_again_and_told_once_all_channels_are_back(
    ear: Ear, proxy: Proxy, real: PrivateServer, space: str
) -> None:
    channels = [f"{space}:{n}" for n in range(20)]
    await asyncio.gather(*(asyncio.wait_for(ear.sub.subscribe(channel), 30) for channel in channels))
    for _ in range(3):
        proxy.cut()
        assert await ear.told() is True
        assert publish(real, *[(channel, b"x") for channel in channels]) == [1] * 20
        assert [await ear.hear() for _ in channels] == [(channel, b"x") for channel in channels]


async def test_a_channel_asked_for_while_the_line_is_away_is_subscribed_later(
    ear: Ear, proxy: Proxy, real: PrivateServer, space: str
) -> None:
    proxy.accepting = False
    proxy.cut()
    asking = asyncio.create_task(ear.sub.subscribe(f"{space}:a"))
    await asyncio.sleep(0.03)
    assert not asking.done()
    proxy.accepting = True
    await asyncio.wait_for(asking, 30)
    assert await ear.told() is True
    assert publish(real, (f"{space}:a", b"1")) == [1]


async def test_a_half_open_line_is_noticed_by_its_silence(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    monkeypatch.setattr(module, "_PING", 0.4)
    ear = Ear(proxy.url)
    await ear.sub.start()
    await asyncio.wait_for(ear.sub.subscribe(f"{space}:a"), 30)
    await ear.told()
    await asyncio.sleep(1.5)
    assert proxy.connections == 1, "answered pings keep it"
    proxy.freeze()
    async with asyncio.timeout(30):
        while proxy.connections < 2:
            await asyncio.sleep(0.01)
    proxy.thaw()
    assert await ear.told() is True
    await ear.sub.close()


async def test_a_user_without_channels_is_told_each_time_by_one_connection_until_it_has_them(
    binary: str, space: str
) -> None:
    with PrivateServer(port=0, appendfsync="no", binary=binary) as own, plain(own) as client:
        client.execute_command("ACL", "SETUSER", "mute", "on", ">pw", "~*", "resetchannels", "+@all")
        ear = Ear(f"redis://mute:pw@127.0.0.1:{own.port}/0")
        for _ in range(3):
            await ear.sub.start()
            with pytest.raises(StoreUnavailable) as caught:
                await asyncio.wait_for(ear.sub.subscribe(f"{space}:a"), 30)
            assert caught.value.code == "AUTH_FAILED"
            assert not ear.sub.hears(f"{space}:a")
        assert [c["user"] for c in client.client_list()].count("mute") == 1
        client.execute_command("ACL", "SETUSER", "mute", "allchannels")
        await asyncio.wait_for(ear.sub.subscribe(f"{space}:a"), 30)
        assert ear.sub.hears(f"{space}:a")
        assert publish(own, (f"{space}:a", b"1")) == [1]
        await ear.sub.close()


async def test_close_ends_who_waits_and_who_comes_later(proxy: Proxy, space: str) -> None:
    ear = Ear(proxy.url)
    await ear.sub.start()
    proxy.freeze()
    asking = asyncio.create_task(ear.sub.subscribe(f"{space}:a"))
    await asyncio.sleep(0.02)
    await ear.sub.close()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(asking, 30)
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(ear.sub.subscribe(f"{space}:b"), 30)


async def test_a_connection_that_opens_after_the_close_is_dropped(proxy: Proxy) -> None:
    ear = Ear(proxy.url)
    proxy.freeze()
    starting = asyncio.create_task(ear.sub.start())
    while not proxy.connections:
        await asyncio.sleep(0.01)
    await ear.sub.close()
    proxy.thaw()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(starting, 30)
    async with asyncio.timeout(30):
        while proxy.open:
            await asyncio.sleep(0.01)
