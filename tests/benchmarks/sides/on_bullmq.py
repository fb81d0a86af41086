# /// script
# dependencies = ["bullmq", "hiredis", "uvloop"]
# ///
"""BullMQ's Python library, results told by its event stream."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import uvloop
from bullmq import Queue as Bull
from bullmq import QueueEvents, Worker
from kit import URL, Queue, first_time, tick


async def process(job: Any, _: Any) -> int:
    if job.name == "noop":
        tick()
        return len(job.data["payload"])
    if first_time(job.data["mark"]):
        await asyncio.sleep(600)
    return 0


async def main(concurrency: int | None) -> None:
    options = {} if concurrency is None else {"concurrency": concurrency}
    Worker("bench", process, {"connection": URL, **options})
    await asyncio.Event().wait()


class Bullmq(Queue):
    name = "BullMQ (Python)"
    packages = ("bullmq", "redis", "hiredis", "uvloop")
    settings = (
        ("Worker concurrency=10 (100 is slower)", "docs.bullmq.io/guide/workers/concurrency"),
        ("bulk: addBulk", "docs.bullmq.io/guide/queues/adding-bulks"),
        ("result: QueueEvents, completed", "docs.bullmq.io/guide/events"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "on_bullmq.py", *([] if defaults else ["10"])]

    async def open(self) -> None:
        self.queue = Bull("bench", {"connection": URL})
        self.events = QueueEvents("bench", {"connection": URL, "blockingTimeout": 1000})
        self.done: dict[str, asyncio.Future[Any]] = {}
        self.events.on("completed", self.completed)

    def completed(self, args: dict[str, Any], _: str) -> None:
        self.future(args["jobId"]).set_result(int(args["returnvalue"]))

    def future(self, job: str) -> asyncio.Future[Any]:
        return self.done.setdefault(job, asyncio.get_running_loop().create_future())

    async def close(self) -> None:
        await self.events.close()
        await self.queue.close()

    async def send(self, payload: str) -> Any:
        return await self.queue.add("noop", {"payload": payload})

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        return await self.queue.addBulk([{"name": "noop", "data": {"payload": payload}} for payload in payloads])

    async def result(self, handle: Any) -> Any:
        return await asyncio.wait_for(self.future(str(handle.id)), 60)

    async def send_hang(self, mark: str) -> None:
        await self.queue.add("hang", {"mark": mark})


SIDE = Bullmq()

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
