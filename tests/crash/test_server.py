"""
The server goes away, stands still, cuts connections, loses answers; the workers live on.

Held every time: what was accepted is completed, once; no step that was recorded runs again; nobody is taken for dead
that lives: every intent is still in its first attempt, no loss counted; work resumes within 2 s of the server's return,
or 5 on a machine on which other tests run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
import redis

from redurable.client import Client
from redurable.store.server import PrivateServer
from tests.support.fleet import Fleet, judge, until
from tests.support.invariants import check_all
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio
RESUMED = 5.0


class Load:
    """Sends intents of *n* steps all the time, one by one, and knows which were accepted."""

    def __init__(self, fleet: Fleet, n: int = 10, pause: float = 0.02, every: float = 0.02) -> None:
        self.fleet = fleet
        self.accepted: list[str] = []
        self.payload = {"n": n, "pause": pause}
        self._sending: asyncio.Task[None] | None = None
        self._url = fleet.url
        self._every = every
        self._stopping = False

    async def __aenter__(self) -> Load:
        self._sending = asyncio.create_task(self._send())
        await until(lambda: len(self.fleet.ledger()) > 20, 60)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._sending is not None
        self._stopping = True
        await asyncio.wait_for(self._sending, 60)

    async def _send(self) -> None:
        async with Client(self._url, namespace=self.fleet.namespace, patience=60) as client:
            while not self._stopping:
                self.accepted.append(await client.send("steps", self.payload))
                await asyncio.sleep(self._every)

    async def resumed(self, since: float) -> float:
        """Return how long after *since* the first step began."""
        await until(lambda: self.fleet.ledger()[-1].at > since, 60)
        return min(line.at for line in self.fleet.ledger() if line.at > since) - since


async def all_is_well(fleet: Fleet, load: Load) -> None:
    """Assert what the module promises."""
    try:
        async with asyncio.timeout(90):
            results = await asyncio.gather(*(fleet.client.wait_for(i) for i in load.accepted))
    except TimeoutError:
        raise AssertionError(
            "\n".join(
                ["unfinished:", *(found := await fleet.unfinished(load.accepted)), fleet.story(found[0].split()[0])]
            )
        ) from None
    assert results == [40 * load.payload["n"]] * len(results)
    infos = await asyncio.gather(*(fleet.client.get(i) for i in load.accepted))
    again = [(i.id, i.attempt, i.losses) for i in infos if i.attempt != 1 or i.losses]
    assert not again, f"{len(again)} of {len(infos)} lost an attempt: {again[:5]}\n{fleet.story(again[0][0])}"
    assert (await judge(fleet, load.accepted))["again"] == 0
    await fleet.reap()
    # exactly what was accepted: no send was stored twice
    assert await check_all(await fleet.store()) == {"COMPLETED": len(load.accepted)}


async def test_a_server_that_is_killed_and_restarted_loses_nothing(lone_fleet: Fleet) -> None:
    await lone_fleet.start(2)
    async with Load(lone_fleet) as load:
        for _ in range(2):
            lone_fleet.server.kill()
            await asyncio.sleep(0.5)
            lone_fleet.server.start()
            back = time.monotonic()
            took = await load.resumed(back)
            print(f"killed: resumed {took * 1000:.0f} ms after the restart")
            assert took < RESUMED
            await asyncio.sleep(1.0)
    await all_is_well(lone_fleet, load)


async def _stand_still(seconds: float) -> None:
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            await fleet.start(2)
            async with Load(fleet, pause=0.05, every=0.1) as load:
                server.freeze()
                await asyncio.sleep(seconds)
                back = time.monotonic()
                server.thaw()
                took = await load.resumed(back)
                print(f"frozen {seconds} s: resumed {took * 1000:.0f} ms after")
                assert took < RESUMED
                await asyncio.sleep(6.0)  # what the detectors make of it shows when their grace is over
            assert not fleet.events("worker.lost")
            await all_is_well(fleet, load)


async def test_a_server_that_stands_still_for_7_or_for_15_seconds_kills_nobody() -> None:
    await asyncio.gather(_stand_still(7), _stand_still(15))


async def test_connections_cut_one_by_one_under_load_do_no_harm(lone_fleet: Fleet) -> None:
    cuts = 0
    await lone_fleet.start(2)
    async with Load(lone_fleet) as load:
        with redis.Redis(unix_socket_path=lone_fleet.server.socket, protocol=2) as knife:
            end = time.monotonic() + 4
            while time.monotonic() < end or cuts <= 50:
                mine = knife.client_id()
                others = [c["id"] for c in knife.client_list() if int(c["id"]) != mine]
                if others:
                    victim = others[cuts % len(others)]
                    with contextlib.suppress(redis.ResponseError):
                        knife.client_kill_filter(_id=victim)
                        cuts += 1
                await asyncio.sleep(0.03)
        back = time.monotonic()
        assert await load.resumed(back) < RESUMED
    print(f"{cuts} connections cut over {len(load.accepted)} intents")
    await all_is_well(lone_fleet, load)


async def test_answers_that_are_lost_after_execution_repeat_nothing() -> None:
    with PrivateServer(port=0) as server:
        async with Proxy(server.port or 0) as proxy, Fleet(server, url=proxy.url) as fleet:
            await fleet.start(2)
            lost = 0
            async with Load(fleet) as load:
                for word in [b"EVALSHA", b"XREADGROUP", b"EVALSHA"] * 6:
                    cut = proxy.lose_answer(word)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(cut, 1.0)
                        lost += 1
                    await asyncio.sleep(0.05)
                back = time.monotonic()
                assert await load.resumed(back) < RESUMED
            print(f"{lost} answers lost over {len(load.accepted)} intents")
            assert lost > 9
            await all_is_well(fleet, load)
