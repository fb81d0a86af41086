# /// script
# dependencies = ["pydocket", "hiredis", "uvloop"]
# ///
"""docket: tasks in a stream, results told by pub/sub."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import uvloop
from docket import Docket, Worker
from kit import URL, Queue, first_time, program, tick

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def noop(payload: str) -> int:
    tick()
    return len(payload)


async def hang(mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


tasks = [noop, hang]


async def main() -> None:
    """Work; the command line takes whole seconds only."""
    async with Docket("bench", URL) as docket:
        for task in tasks:
            docket.register(task)
        async with Worker(docket, concurrency=50, minimum_check_interval=timedelta(milliseconds=5)) as worker:
            await worker.run_forever()


class DocketSide(Queue):
    name = "docket"
    packages = ("pydocket", "redis", "hiredis", "uvloop")
    settings = (
        ("concurrency=50, minimum-check-interval 5 ms", "docket.lol, Docket in Production: core settings"),
        ("bulk: add_many", "docket.lol, API reference: Docket.add_many, pipelined"),
        ("result: Execution.get_result, by pub/sub", "docket.lol, API reference: Execution.get_result"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        plain = [program("docket"), "worker", "--docket", "bench", "--url", URL, "--tasks", "on_docket:tasks"]
        return plain if defaults else [sys.executable, "on_docket.py"]

    async def open(self) -> None:
        self.docket = Docket("bench", URL)
        await self.docket.__aenter__()
        for task in tasks:
            self.docket.register(task)

    async def close(self) -> None:
        await self.docket.__aexit__(None, None, None)

    async def send(self, payload: str) -> Any:
        return await self.docket.add(noop)(payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return await self.docket.add_many([self.docket.call(noop)(payload) for payload in payloads])

    async def result(self, handle: Any) -> Any:
        return await handle.get_result(timeout=timedelta(seconds=60))

    async def send_hang(self, mark: str) -> None:
        await self.docket.add(hang)(mark)


SIDE = DocketSide()

if __name__ == "__main__":
    asyncio.run(main())
