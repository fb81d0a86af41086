# /// script
# dependencies = ["restate-sdk[serde]", "hypercorn", "aiohttp", "uvloop"]
# ///
"""Restate: its server keeps the journal; handlers are served over HTTP/2, each step is a `ctx.run_typed`."""

import asyncio
import os
import socket
import sys
import time
from typing import Any

import aiohttp
import hypercorn
import hypercorn.asyncio
import restate
import uvloop
from kit import RESULT, Steps, first_time

INGRESS = os.environ.get("BENCH_RESTATE_INGRESS", "")
SOCKET = os.environ.get("BENCH_RESTATE_SOCKET", "")
ADMIN = os.environ.get("BENCH_RESTATE_ADMIN", "")
bench = restate.Service("bench")


async def work() -> str:
    return RESULT


@bench.handler()
async def steps(ctx: restate.Context, count: int) -> int:
    for _ in range(count):
        await ctx.run_typed("work", work)
    return count


@bench.handler()
async def timed(ctx: restate.Context, count: int) -> list[int]:
    took = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        await ctx.run_typed("work", work)
        took.append(time.perf_counter_ns() - begun)
    return took


@bench.handler()
async def hang(ctx: restate.Context, mark: str) -> None:
    for _ in range(24):
        await ctx.run_typed("work", work)

    async def last() -> None:
        if first_time(mark):
            await asyncio.sleep(600)

    await ctx.run_typed("last", last)


def main(port: int) -> None:
    """Serve; several processes may listen on one port, as hypercorn's own workers do."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.h2_max_concurrent_streams = 2147483647
    config.keep_alive_max_requests = 2147483647
    config.keep_alive_timeout = 2147483647
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(hypercorn.asyncio.serve(restate.app([bench]), config))


class Restate(Steps):
    name = "Restate"
    packages = ("restate-sdk", "hypercorn", "uvloop")
    settings = (
        (
            "hypercorn, HTTP/2, streams and keep-alive unbounded",
            "docs.restate.dev/develop/python/serving (production server)",
        ),
        ("uvloop", "hypercorn.readthedocs.io, Configuring: worker class"),
        (
            "everysec: RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC=true; always: the server as it comes",
            "docs.restate.dev/references/server-config",
        ),
        ("request-response calls of the ingress, by aiohttp", "docs.restate.dev/services/invocation/http"),
        ("the ingress by its unix socket", "docs.restate.dev/references/server-config: listen-mode"),
    )
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        return [sys.executable, "on_restate.py", str(self.port)]

    async def open(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(SOCKET, limit=0) if SOCKET else aiohttp.TCPConnector(limit=0)
        )
        self.admin = aiohttp.ClientSession()

    async def close(self) -> None:
        await self.session.close()
        await self.admin.close()

    async def ready(self) -> None:
        for _ in range(600):
            try:
                (await asyncio.open_connection("127.0.0.1", self.port))[1].close()
                break
            except OSError:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # a second one listens too
        place = {"uri": f"http://127.0.0.1:{self.port}", "force": True}
        async with self.admin.post(f"{ADMIN}/deployments", json=place) as answer:
            answer.raise_for_status()

    async def start(self, handler: str, argument: Any) -> Any:
        async with self.session.post(f"{INGRESS}/bench/{handler}", json=argument) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def send_hang(self, mark: str) -> None:
        async with self.session.post(f"{INGRESS}/bench/hang/send", json=mark) as answer:
            answer.raise_for_status()


SIDE = Restate()

if __name__ == "__main__":
    main(int(sys.argv[1]))
