"""Ours as a queue: `redurable worker` as it comes, uvloop installed."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from kit import URL, Queue, first_time, tick

from redurable import Client, handler


@handler(queue="noop")
async def noop(payload: str) -> int:
    tick()
    return len(payload)


@handler(queue="hang")
async def hang(mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


class Redurable(Queue):
    name = "redurable"
    packages = ("redurable", "redis", "hiredis", "uvloop")
    settings = (("redurable worker MODULE", "as it comes: 100 intents at a time, README.md"),)
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "-m", "redurable", "worker", "on_redurable", "--url", URL, "--accept", "persistence"]

    async def open(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        self.client = await self.stack.enter_async_context(Client(URL))

    async def close(self) -> None:
        await self.stack.aclose()

    async def send(self, payload: str) -> Any:
        return await self.client.send("noop", payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return await self.client.send_many("noop", payloads)

    async def result(self, handle: Any) -> Any:
        return await self.client.wait_for(handle)

    async def call(self, payload: str) -> Any:
        return await self.client.call("noop", payload)  # send and wait_for in one

    async def send_hang(self, mark: str) -> None:
        await self.client.send("hang", mark)


SIDE = Redurable()
