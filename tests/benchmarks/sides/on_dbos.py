# /// script
# dependencies = ["dbos"]
# ///
"""DBOS on PostgreSQL: workflows run in the process that calls them; a queue is used only to have two workers."""

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig
from kit import RESULT, Steps, first_time

DATABASE = os.environ.get("BENCH_POSTGRES", "").format("dbos")


@DBOS.step()
async def work() -> str:
    return RESULT


@DBOS.workflow()
async def steps(count: int) -> int:
    for _ in range(count):
        await work()
    return count


@DBOS.workflow()
async def timed(count: int) -> list[int]:
    took = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        await work()
        took.append(time.perf_counter_ns() - begun)
    return took


@DBOS.step()
async def last(mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


@DBOS.workflow()
async def hang(mark: str) -> None:
    for _ in range(24):
        await work()
    await last(mark)


WORKFLOWS = {"steps": steps, "timed": timed, "hang": hang}


def launch(executor: str, **options: Any) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": DATABASE,
        "log_level": "ERROR",
        "application_version": "1",
        "executor_id": executor,
        **options,  # type: ignore[typeddict-item]  # names of its own
    }
    DBOS(config=config)
    DBOS.launch()


class Dbos(Steps):
    name = "DBOS"
    packages = ("dbos", "psycopg", "sqlalchemy")
    settings = (
        (
            "async workflows awaited in the process, no queue between",
            "docs.dbos.dev/python/tutorials/workflow-tutorial",
        ),
        ("sys_db_pool_size=50", "docs.dbos.dev/python/reference/configuration"),
        (
            "everysec: synchronous_commit=off; always: PostgreSQL as it comes",
            "postgresql.org/docs/15/wal-async-commit.html",
        ),
        ("kill: DBOS.register_queue, each worker an executor_id of its own", "docs.dbos.dev/python/reference/queues"),
    )
    in_process = True
    client: DBOSClient | None = None

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "on_dbos.py"]

    async def launch(self) -> None:
        launch("side", sys_db_pool_size=50)

    async def stop(self) -> None:
        DBOS.destroy()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())  # DBOS ended the loop's own

    async def ready(self) -> None:
        self.client = DBOSClient(system_database_url=DATABASE)
        for _ in range(300):  # until a worker has made the tables and the queue
            try:
                if await self.client.list_workflows_async(limit=1) is not None:
                    break
            except Exception:
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)

    async def close(self) -> None:
        if self.client is not None:
            self.client.destroy()
            self.client = None

    async def start(self, handler: str, argument: Any) -> Any:
        if self.client is None:
            return await WORKFLOWS[handler](argument)
        return await (await self.enqueue(handler, argument)).get_result()

    async def enqueue(self, handler: str, argument: Any) -> Any:
        assert self.client is not None
        return await self.client.enqueue_async({"queue_name": "bench", "workflow_name": handler}, argument)

    async def send_hang(self, mark: str) -> None:
        await self.enqueue("hang", mark)


SIDE = Dbos()

if __name__ == "__main__":
    launch(f"worker-{os.getpid()}")
    DBOS.register_queue("bench")
    while True:
        time.sleep(60)
