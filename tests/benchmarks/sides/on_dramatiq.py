# /// script
# dependencies = ["dramatiq[redis]", "hiredis"]
# ///
"""dramatiq: a process of many threads, results in Redis."""

import time
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from kit import URL, Queue, first_time, program, tick

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(payload: str) -> int:
    tick()
    return len(payload)


@dramatiq.actor
def hang(mark: str) -> None:
    if first_time(mark):
        time.sleep(600)


class Dramatiq(Queue):
    name = "dramatiq"
    packages = ("dramatiq", "redis", "hiredis")
    settings = (
        ("--processes 1 --threads 32", "dramatiq.io/guide.html: workers, 8 threads a process by default"),
        ("Results(store_results=True), get_result(block=True)", "dramatiq.io/guide.html: message results"),
        ("bulk: group.run", "no bulk call; dramatiq.io/cookbook.html: groups"),
    )

    def worker(self, *, defaults: bool) -> list[str]:
        command = [program("dramatiq"), "on_dramatiq", "--processes", "1"]
        return command if defaults else [*command, "--threads", "32"]

    async def send(self, payload: str) -> Any:
        return noop.send(payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return list(dramatiq.group([noop.message(payload) for payload in payloads]).run().children)

    async def result(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=60_000)

    async def send_hang(self, mark: str) -> None:
        hang.send(mark)


SIDE = Dramatiq()
