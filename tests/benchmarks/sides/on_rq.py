# /// script
# dependencies = ["rq", "hiredis"]
# ///
"""RQ: the worker that does not fork, since a fork a job costs it most of its speed."""

import time
from collections.abc import Sequence
from typing import Any

from kit import URL, first_time, program, tick
from kit import Queue as Side
from redis import Redis
from rq import Queue


def noop(payload: str) -> int:
    tick()
    return len(payload)


def hang(mark: str) -> None:
    if first_time(mark):
        time.sleep(600)


class Rq(Side):
    name = "RQ"
    packages = ("rq", "redis", "hiredis")
    settings = (
        ("--worker-class rq.SimpleWorker", "python-rq.org/docs/workers: performance notes"),
        ("bulk: enqueue_many", "python-rq.org/docs: enqueue_many"),
        ("result: Job.latest_result(timeout=), by a blocking read", "python-rq.org/docs/results"),
        ("result_ttl=3600", "python-rq.org/docs/results"),
    )

    def worker(self, *, defaults: bool) -> list[str]:
        command = [program("rq"), "worker", "--url", URL, "--quiet"]
        return [*command, "bench"] if defaults else [*command, "--worker-class", "rq.SimpleWorker", "bench"]

    async def open(self) -> None:
        self.redis = Redis.from_url(URL)
        self.queue = Queue("bench", connection=self.redis)

    async def close(self) -> None:
        self.redis.close()

    async def send(self, payload: str) -> Any:
        return self.queue.enqueue("on_rq.noop", payload, result_ttl=3600)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        data = [Queue.prepare_data("on_rq.noop", (payload,), result_ttl=3600) for payload in payloads]
        return self.queue.enqueue_many(data)

    async def result(self, handle: Any) -> Any:
        found = handle.latest_result(timeout=60)
        return found and found.return_value

    async def send_hang(self, mark: str) -> None:
        self.queue.enqueue("on_rq.hang", mark, job_timeout=3600)


SIDE = Rq()
