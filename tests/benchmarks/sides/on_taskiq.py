# /// script
# dependencies = ["taskiq", "taskiq-redis", "hiredis", "uvloop"]
# ///
"""taskiq on Redis Streams, results in Redis, polled."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from kit import URL, Queue, first_time, gathered, tick
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

broker = RedisStreamBroker(URL, xread_count=32).with_result_backend(RedisAsyncResultBackend(URL))


@broker.task
async def noop(payload: str) -> int:
    tick()
    return len(payload)


@broker.task
async def hang(mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


class Taskiq(Queue):
    name = "taskiq"
    packages = ("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop")
    settings = (
        ("RedisStreamBroker(xread_count=32)", "github.com/taskiq-python/taskiq-redis README"),
        (
            "--max-async-tasks 32 --max-prefetch 32, uvloop installed",
            "taskiq-python.github.io/guide/cli; github.com/tastyware/streaq benchmarks/README.md",
        ),
        ("bulk: gather of kiq, 32 at once", "no bulk call; github.com/tastyware/streaq benchmarks/bench_taskiq.py"),
        ("wait_result(check_interval=0.002)", "taskiq-python.github.io/guide/getting-started"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        command = [sys.executable, "-m", "taskiq", "worker", "--workers", "1", "on_taskiq:broker"]
        quick = ["--max-async-tasks", "32", "--max-prefetch", "32", "--log-level", "WARNING"]
        return command if defaults else [*command, *quick]

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    async def send(self, payload: str) -> Any:
        return await noop.kiq(payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return await gathered(self.send, payloads, 32)

    async def result(self, handle: Any) -> Any:
        return (await handle.wait_result(check_interval=0.002, timeout=60)).return_value

    async def send_hang(self, mark: str) -> None:
        await hang.kiq(mark)


SIDE = Taskiq()
