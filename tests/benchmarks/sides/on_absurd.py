# /// script
# dependencies = ["absurd-sdk", "absurdctl", "uvloop"]
# ///
"""absurd on PostgreSQL: a worker polls for tasks, each step is a `ctx.step`."""

import asyncio
import os
import sys
import time
from typing import Any

import psycopg
import uvloop
from absurd_sdk import AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL
from kit import RESULT, Steps, first_time

DATABASE = os.environ.get("BENCH_POSTGRES", "").format("absurd")
app = AsyncAbsurd(DATABASE, queue_name="bench")


async def work() -> str:
    return RESULT


@app.register_task(name="steps")
async def steps(count: int, ctx: Any) -> int:
    for k in range(count):
        await ctx.step(f"work-{k}", work)
    return count


@app.register_task(name="timed")
async def timed(count: int, ctx: Any) -> list[int]:
    took = []
    for k in range(count):
        begun = time.perf_counter_ns()
        await ctx.step(f"work-{k}", work)
        took.append(time.perf_counter_ns() - begun)
    return took


@app.register_task(name="hang")
async def hang(mark: str, ctx: Any) -> None:
    for k in range(24):
        await ctx.step(f"work-{k}", work)

    async def last() -> None:
        if first_time(mark):
            await asyncio.sleep(600)

    await ctx.step("last", last)


class AbsurdSide(Steps):
    name = "absurd"
    packages = ("absurd-sdk", "absurdctl", "psycopg", "uvloop")
    settings = (
        (
            "AsyncAbsurd.start_worker(concurrency=100, poll_interval=0.01)",
            "github.com/earendil-works/absurd docs/sdks/python.md",
        ),
        (
            "everysec: synchronous_commit=off; always: PostgreSQL as it comes",
            "postgresql.org/docs/15/wal-async-commit.html",
        ),
        ("kill: concurrency=100, the lease as it comes, 120 s", "github.com/earendil-works/absurd docs/sdks/python.md"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "on_absurd.py", "plain" if defaults else "best"]

    async def open(self) -> None:
        async with await psycopg.AsyncConnection.connect(DATABASE, autocommit=True) as connection:
            there = await (await connection.execute("select to_regnamespace('absurd')")).fetchone()
            if there == (None,):
                await connection.execute(BUNDLED_SCHEMA_SQL)
        self.client = AsyncAbsurd(DATABASE, queue_name="bench")
        await self.client.create_queue()

    async def close(self) -> None:
        await self.client.drop_queue()
        await self.client.close()

    async def start(self, handler: str, argument: Any) -> Any:
        spawned = await self.client.spawn(handler, argument, queue="bench")
        found = await self.client.await_task_result(spawned["task_id"], timeout=120)
        return found.result

    async def send_hang(self, mark: str) -> None:
        await self.client.spawn("hang", mark, queue="bench")


SIDE = AbsurdSide()

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        options = {"poll_interval": 0.01} if sys.argv[1] == "best" else {}
        runner.run(app.start_worker(concurrency=100, **options))
