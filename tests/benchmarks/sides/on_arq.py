# /// script
# dependencies = ["arq", "hiredis", "uvloop"]
# ///
"""arq: jobs in a sorted set, polled."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from kit import URL, Queue, first_time, gathered, tick

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
POLL = 0.01


async def noop(_: Any, payload: str) -> int:
    tick()
    return len(payload)


async def hang(_: Any, mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


class Plain:
    functions = (noop, hang)
    redis_settings = RedisSettings.from_dsn(URL or "redis://localhost")


class Best:  # arq reads what the class itself has, not what it inherits
    functions = Plain.functions
    redis_settings = Plain.redis_settings
    max_jobs = 100
    poll_delay = POLL
    keep_result = 3600


class Arq(Queue):
    name = "arq"
    packages = ("arq", "redis", "hiredis", "uvloop")
    settings = (
        ("max_jobs=100, poll_delay=0.01", "arq-docs.helpmanual.io, arq.worker.Worker"),
        ("uvloop", "the module of WorkerSettings sets the event loop policy"),
        (
            "bulk: gather of enqueue_job, 20 at once",
            "arq has no bulk call; github.com/tobymao/saq benchmarks/simple.py",
        ),
        ("result(poll_delay=0.01)", "arq-docs.helpmanual.io, arq.jobs.Job.result"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "-m", "arq", f"on_arq.{'Plain' if defaults else 'Best'}"]

    async def open(self) -> None:
        self.pool = await create_pool(Plain.redis_settings)

    async def close(self) -> None:
        await self.pool.aclose()

    async def send(self, payload: str) -> Any:
        return await self.pool.enqueue_job("noop", payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return await gathered(self.send, payloads, 32)

    async def result(self, handle: Any) -> Any:
        return await handle.result(60, poll_delay=POLL)

    async def send_hang(self, mark: str) -> None:
        await self.pool.enqueue_job("hang", mark)


SIDE = Arq()
