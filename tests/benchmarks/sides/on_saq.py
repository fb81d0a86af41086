# /// script
# dependencies = ["saq[redis,hiredis]", "typing-extensions", "uvloop"]
# ///
"""SAQ: jobs in lists, results told by pub/sub."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import uvloop
from kit import URL, Queue, first_time, gathered, tick
from saq import Job
from saq.job import TERMINAL_STATUSES
from saq.queue.redis import RedisQueue  # Queue.from_url knows no socket

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def noop(_: Any, *, payload: str) -> int:
    tick()
    return len(payload)


async def hang(_: Any, *, mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


def settings(**options: Any) -> dict[str, Any]:
    return {"queue": RedisQueue.from_url(URL or "redis://localhost"), "functions": [noop, hang], **options}


plain = settings()
best = settings(concurrency=32, dequeue_timeout=1.0)


class SaqSide(Queue):
    name = "SAQ"
    packages = ("saq", "redis", "hiredis", "uvloop")
    settings = (
        (
            "concurrency=32",
            "github.com/tastyware/streaq benchmarks/bench_saq.py; github.com/tobymao/saq docs/settings.md",
        ),
        ("bulk: gather of enqueue, 32 at once", "no bulk call; github.com/tastyware/streaq benchmarks/bench_saq.py"),
        ("send to result: Queue.listen, by pub/sub", "github.com/tobymao/saq saq/queue/base.py: Queue.listen"),
        ("ttl=600 (the default): results are kept", "github.com/tobymao/saq saq/job.py: Job.ttl"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "-m", "saq", f"on_saq.{'plain' if defaults else 'best'}"]

    async def open(self) -> None:
        self.queue = RedisQueue.from_url(URL)
        await self.queue.connect()

    async def close(self) -> None:
        await self.queue.disconnect()

    async def send(self, payload: str) -> Any:
        return await self.queue.enqueue("noop", payload=payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return await gathered(self.send, payloads, 32)

    async def result(self, handle: Any) -> Any:
        while handle.status not in TERMINAL_STATUSES:  # the job has run: what is left is to store its result
            await handle.refresh()
        return handle.result

    async def call(self, payload: str) -> Any:
        job = Job("noop", kwargs={"payload": payload}, queue=self.queue)
        told = asyncio.create_task(self.queue.listen([job.key], lambda _, status: status == "complete", timeout=1))
        await asyncio.sleep(0)  # it listens
        await self.queue.enqueue(job)
        with contextlib.suppress(TimeoutError):  # told before the very first subscription
            await told
        return await self.result(job)

    async def send_hang(self, mark: str) -> None:
        await self.queue.enqueue("hang", mark=mark)


SIDE = SaqSide()
