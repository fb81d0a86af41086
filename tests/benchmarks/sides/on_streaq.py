# /// script
# dependencies = ["streaq", "hiredis", "uvloop"]
# ///
"""streaq: a worker per process, tasks sent in one pipeline."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import coredis
from kit import URL, Queue, first_time, tick
from streaq import Worker

coredis.Config.optimized = True
best = Worker(redis_url=URL, concurrency=32, anyio_kwargs={"use_uvloop": True})
plain = Worker(redis_url=URL)


async def noop(payload: str) -> int:
    tick()
    return len(payload)


async def hang(mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


NOOP = best.task(noop)
HANG = best.task(hang)
plain.task(noop)
plain.task(hang)


class Streaq(Queue):
    name = "streaq"
    packages = ("streaq", "coredis", "hiredis", "uvloop")
    settings = (
        (
            "concurrency=32, use_uvloop=True, coredis.Config.optimized",
            "github.com/tastyware/streaq benchmarks/bench_streaq.py, docs/worker.rst",
        ),
        ("bulk: enqueue_many", "streaq.readthedocs.io, Worker.enqueue_many: a pipeline"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "-m", "streaq", "run", f"on_streaq:{'plain' if defaults else 'best'}"]

    async def open(self) -> None:
        self.context = best
        await self.context.__aenter__()

    async def close(self) -> None:
        await self.context.__aexit__(None, None, None)

    async def send(self, payload: str) -> Any:
        return await NOOP.enqueue(payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        tasks = [NOOP.enqueue(payload) for payload in payloads]
        await best.enqueue_many(tasks)
        return tasks

    async def result(self, handle: Any) -> Any:
        return (await handle.result(60)).result

    async def send_hang(self, mark: str) -> None:
        await HANG.enqueue(mark)


SIDE = Streaq()
