"""
What a measurement lies in: a server, real worker processes, and the counters of both.

Each scenario works in a namespace of its own, removed when it ends. A private server is thrown away with its data.
Workers can be frozen while the producer fills their queue, so that a drain is measured with the queue full and the
worker warm. Should this process be killed, server and workers end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from redurable.client import Client
from redurable.config import parse_url
from redurable.errors import RedurableError
from redurable.store.multiplexer import Multiplexer
from redurable.store.private import Watcher
from redurable.store.topology import Topology
from redurable.store.verdict import ACCEPTABLE

__all__ = ["Bed", "Workers", "cpu_seconds"]

READY_WITHIN = 30.0
APP = "redurable.bench.app"


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time that process *pid* has used, all its threads; None where the system does not tell."""
    try:
        # in ns, where stat counts ticks of 10 ms
        return sum(int(p.read_text().split()[0]) for p in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9 or None
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil

        used = psutil.Process(pid).cpu_times()
    except (ImportError, OSError, RuntimeError):
        return None
    return float(used.user + used.system)


class Workers:
    """One `redurable worker` and its processes."""

    def __init__(self, process: subprocess.Popen[bytes], pids: list[int], log: Path) -> None:
        self._process = process
        self._watcher = Watcher(process.pid)
        self.pids = pids
        self._log = log

    @property
    def parent(self) -> int:
        """The process id of the supervisor."""
        return self._process.pid

    def signal(self, number: int, *, parent: bool = False) -> None:
        """Send a signal to every child, and first to the parent if asked."""
        for pid in ([self.parent] if parent else []) + self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def freeze(self) -> None:
        """Stop the children where they are."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self.signal(signal.SIGCONT)

    def cpu(self) -> float | None:
        """Return the CPU seconds of the children."""
        used = [cpu_seconds(pid) for pid in self.pids]
        return None if None in used else sum(u for u in used if u is not None)

    def rss(self) -> float:
        """Return the bytes of memory that the children have, 0 where the system does not tell."""
        try:
            import psutil

            return float(sum(psutil.Process(pid).memory_info().rss for pid in self.pids))
        except (ImportError, OSError, RuntimeError):
            return 0.0

    def check(self) -> None:
        """Raise what the worker said when it has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise self.failed(f"ended with exit code {code}")

    def failed(self, what: str) -> RedurableError:
        """Return the error that tells *what* the worker did, and what it said."""
        said = self._log.read_text(errors="replace")[-2000:]
        return RedurableError(f"the benchmark's worker {what}; it said:\n{said}", code="BENCH_FAILED")

    async def end(self) -> None:
        """Stop everything at once: what it holds is of no further use."""
        self._watcher.end()
        if self._process.poll() is None:
            # told to stop it starts no others, and drains those that it started meanwhile
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            await asyncio.sleep(0.05)
        self.signal(signal.SIGKILL)
        for _ in range(500):
            if self._process.poll() is not None:
                return
            await asyncio.sleep(0.01)
        self._process.kill()
        self._process.wait()


def _spawn(words: list[str], log: Path) -> Workers:
    command = [sys.executable, "-m", "redurable", "worker", *words, "--log-format", "json"]
    with open(log, "wb") as out:
        # what is measured may be lost: any server will do
        accepting = os.environ | {"REDURABLE_ACCEPT": ",".join(ACCEPTABLE)}
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=out, stderr=out, start_new_session=True, env=accepting)
    return Workers(process, [], log)


class Bed:
    """A server, what it counts, and workers on it."""

    def __init__(self, url: str, *, private: bool) -> None:
        self.url = url
        self.private = private
        self._mark = f"bench{secrets.token_hex(3)}"
        self._serial = 0
        self._directory = tempfile.TemporaryDirectory(prefix="rd-bench-")
        self.mux: Multiplexer = Multiplexer(Topology(parse_url(url)), patience=10.0)

    async def open(self) -> None:
        """Connect."""
        await self.mux.start()

    async def close(self) -> None:
        """Remove what is left, and disconnect."""
        with contextlib.suppress(RedurableError):
            await self.wipe(self._mark)
        await self.mux.close()
        self._directory.cleanup()

    @property
    def floor_prefix(self) -> str:
        """Where the floor has its keys."""
        return f"{self._mark}-floor"

    @contextlib.asynccontextmanager
    async def namespace(self) -> AsyncIterator[str]:
        """A namespace that is gone afterwards."""
        self._serial += 1
        name = f"{self._mark}-{self._serial}"
        try:
            yield name
        finally:
            await self.wipe(name)

    async def wipe(self, prefix: str) -> None:
        """Remove every key under *prefix*; on a private server, shrink its append-only file too."""
        cursor: Any = b"0"
        while True:
            cursor, keys = await self.mux.command("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 2000)
            if keys:
                await self.mux.command("UNLINK", *keys)
            if int(cursor) == 0:
                break
        if self.private:
            await self.mux.command("BGREWRITEAOF")
            for _ in range(500):
                if (await self.info("persistence"))["aof_rewrite_in_progress"] == "0":
                    break
                await asyncio.sleep(0.02)

    async def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        text = (await self.mux.command("INFO", section)).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    async def server_cpu(self) -> float:
        """Return the CPU seconds of the server, its background threads included."""
        info = await self.info("cpu")
        return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])

    async def calls(self) -> dict[str, int]:
        """Return how often each command was called, from scripts too."""
        stats = await self.info("commandstats")
        return {
            name.removeprefix("cmdstat_"): int(text.split("calls=", 1)[1].split(",", 1)[0])
            for name, text in stats.items()
        }

    @contextlib.asynccontextmanager
    async def workers(
        self,
        namespace: str,
        handler: str,
        *,
        app: str = APP,
        processes: int = 1,
        lease: float = 10.0,
        metrics: bool = False,
    ) -> AsyncIterator[Workers]:
        """Real worker processes that run *handler* of *app* (all, if none is named), idle at first, ended after."""
        options = ["--processes", str(processes), "--concurrency", "100", "--lease", str(lease)]
        options += ["--metrics-port", "0"] * metrics
        log = Path(self._directory.name) / f"worker-{secrets.token_hex(3)}.log"
        workers = _spawn([f"{app}:{handler}".rstrip(":"), "--url", self.url, "--namespace", namespace, *options], log)
        try:
            workers.pids = await self._alive(namespace, workers, processes)
            yield workers
        except TimeoutError:
            workers.check()
            raise workers.failed("took too long") from None
        finally:
            await workers.end()

    async def _alive(self, namespace: str, workers: Workers, count: int) -> list[int]:
        """Wait until *count* children of *workers* serve; return their process ids."""
        until = time.monotonic() + READY_WITHIN
        async with Client(self.url, namespace=namespace) as client:
            while time.monotonic() < until:
                workers.check()
                # a worker's id is host.parent.index
                mine = [w.pid for w in await client.workers() if w.alive and w.id.split(".")[-2] == str(workers.parent)]
                if len(mine) >= count:
                    return mine
                await asyncio.sleep(0.02)
        raise workers.failed(f"was not ready within {READY_WITHIN:g} s")
