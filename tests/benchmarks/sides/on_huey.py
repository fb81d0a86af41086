# /// script
# dependencies = ["huey", "redis", "hiredis"]
# ///
"""huey on Redis, results told by a blocking read."""

import time
from collections.abc import Sequence
from typing import Any

from huey import RedisHuey
from kit import URL, Queue, first_time, program, tick

huey = RedisHuey("bench", url=URL, notify_result=True)


@huey.task()
def noop(payload: str) -> int:
    tick()
    return len(payload)


@huey.task()
def hang(mark: str) -> int:
    if first_time(mark):
        time.sleep(600)
    return 0


class Huey(Queue):
    name = "huey"
    packages = ("huey", "redis", "hiredis")
    settings = (
        ("--workers 4, threads of a process", "huey.readthedocs.io/en/latest/consumer.html"),
        (
            "notify_result=True, result(blocking=True)",
            "huey.readthedocs.io/en/latest/api.html: low-latency result-fetching",
        ),
        ("bulk: calls in a loop", "no bulk call; huey.readthedocs.io/en/latest/guide.html"),
    )

    def worker(self, *, defaults: bool) -> list[str]:
        command = [program("huey_consumer"), "on_huey.huey", "--quiet"]
        return command if defaults else [*command, "--workers", "4"]

    async def send(self, payload: str) -> Any:
        return noop(payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return [noop(payload) for payload in payloads]

    async def result(self, handle: Any) -> Any:
        return handle.get(blocking=True, timeout=60)

    async def send_hang(self, mark: str) -> None:
        hang(mark)


SIDE = Huey()
