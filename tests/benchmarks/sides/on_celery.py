# /// script
# dependencies = ["celery[redis]", "hiredis"]
# ///
"""Celery on Redis, results in Redis, told by pub/sub."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kit import URL, Queue, first_time, tick

URL = URL.replace("unix://", "redis+socket://")  # a socket as celery's documentation writes it
app = Celery("on_celery", broker=URL, backend=URL)


@app.task(name="noop")
def noop(payload: str) -> int:
    tick()
    return len(payload)


@app.task(name="hang")
def hang(mark: str) -> None:
    if first_time(mark):
        time.sleep(600)


class CelerySide(Queue):
    name = "Celery"
    packages = ("celery", "kombu", "redis", "hiredis")
    settings = (
        (
            "--pool solo --prefetch-multiplier 128",
            "docs.celeryq.dev/en/stable/userguide/optimizing.html: prefetch limits",
        ),
        (
            "--without-gossip --without-mingle --without-heartbeat",
            "docs.celeryq.dev/en/stable/reference/cli.html: celery worker",
        ),
        (
            "bulk: apply_async with one producer",
            "no bulk call; docs.celeryq.dev/en/stable/userguide/calling.html: connections",
        ),
        (
            "result: AsyncResult.get, by pub/sub",
            "docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html",
        ),
    )

    def worker(self, *, defaults: bool) -> list[str]:
        command = [sys.executable, "-m", "celery", "--app", "on_celery", "worker", "--loglevel", "ERROR"]
        command += ["--hostname", f"w{time.monotonic_ns()}@%h"]
        quick = ["--pool", "solo", "--prefetch-multiplier", "128"]
        return (
            command if defaults else [*command, *quick, "--without-gossip", "--without-mingle", "--without-heartbeat"]
        )

    async def send(self, payload: str) -> Any:
        return noop.delay(payload)

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        with app.producer_or_acquire() as producer:
            return [noop.apply_async((payload,), producer=producer) for payload in payloads]

    async def result(self, handle: Any) -> Any:
        return handle.get(timeout=60)

    async def send_hang(self, mark: str) -> None:
        hang.delay(mark)


SIDE = CelerySide()
