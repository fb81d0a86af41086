"""
Real workers for tests: in a thread of the test's process, or as processes of their own.

Invariants: a worker takes work once starting it has returned; closing ends every one, whatever the test did; a worker
in a thread leaves the process as it was (garbage collector, and a step outside of an intent is an ordinary call).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, overload

from redurable import events, sync
from redurable.config import parse_url
from redurable.errors import ConfigurationError, UsageError
from redurable.runtime.handlers import spec_of
from redurable.runtime.loops import new_event_loop
from redurable.runtime.scope import mark_worker
from redurable.store.topology import Topology
from redurable.worker.worker import Settings, Worker

__all__ = ["ProcessWorker", "Serve", "Server", "ThreadWorker"]

WITHIN = 30.0  # s to start, and to stop


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and a namespace on it."""

    url: str
    namespace: str

    def wipe(self) -> None:
        """Remove every key of the namespace."""
        with Topology(parse_url(self.url)).blocking_client(WITHIN) as redis:
            keys = list(redis.scan_iter(match=f"{self.namespace}:*", count=1000))
            for i in range(0, len(keys), 1000):
                redis.unlink(*keys[i : i + 1000])


class Running(Protocol):
    """A worker that was started."""

    def stop(self) -> None:
        """Drain it: steps in flight end, the rest goes back; return once it is gone."""


class ThreadWorker:
    """A worker on an event loop in a thread of this process."""

    def __init__(self, server: Server, handlers: tuple[Callable[..., Any], ...], **settings: Any) -> None:
        self._collector = gc.get_threshold()
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._worker: Worker | None = None
        self._server = server
        self._specs = [spec_of(function) for function in handlers]
        self._modules = tuple(dict.fromkeys(sys.modules[s.function.__module__] for s in self._specs))
        # a debugger may stop the loop for as long as it likes
        self._settings = Settings(**{"grace": 5.0, "stall": 1e9, **settings})
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="redurable-test-worker", daemon=True)

    def start(self) -> None:
        """Return once it takes work; raise what keeps it from that."""
        unsubscribe = events.subscribe(self._heard, ["worker.started"])
        try:
            self._thread.start()
            if not self._started.wait(WITHIN):
                self.stop()
                raise UsageError(f"the test's worker has not started within {WITHIN:.0f} s", code="TEST_WORKER")
        finally:
            unsubscribe()
            mark_worker(False)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Drain it and return once it is gone."""
        if self._loop is not None and self._worker is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._worker.stop)
        self._thread.join(WITHIN)
        gc.unfreeze()
        gc.set_threshold(*self._collector)

    def _heard(self, _: str, fields: dict[str, Any]) -> None:
        if fields.get("worker") == self._settings.worker_id:
            self._started.set()

    def _run(self) -> None:
        async def work() -> None:
            self._loop = asyncio.get_running_loop()
            self._worker = Worker(
                self._specs, parse_url(self._server.url), self._server.namespace,
                settings=self._settings, modules=self._modules,
            )  # fmt: skip
            await self._worker.run()

        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(work())
        except BaseException as error:
            self._failure = error  # raised by start
        self._started.set()


class ProcessWorker:
    """`redurable worker TARGET` as processes of their own."""

    def __init__(self, server: Server, target: str, **options: Any) -> None:
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        self._command = [sys.executable, "-m", "redurable", "worker", target, "--log-format", "json", *words]
        self._server = server
        self._client = sync.Client(server.url, namespace=server.namespace)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it takes work; raise a UsageError with what it said if it ends before."""
        found = {"REDURABLE_URL": self._server.url, "REDURABLE_NAMESPACE": self._server.namespace}
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)  # it imports what the tests import
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env=os.environ | found | {"PYTHONPATH": path},
        )  # fmt: skip
        until = time.monotonic() + WITHIN
        while not self.pids():
            if self._process.poll() is not None or time.monotonic() > until:
                self._end(self._process)
                self._log.seek(0)
                said = self._log.read().decode(errors="replace")[-2000:]
                raise UsageError(f"the test's worker did not start; it said:\n{said}", code="TEST_WORKER")
            time.sleep(0.02)

    def pids(self) -> list[int]:
        """Return the ids of its processes that work now."""
        if self._process is None:
            return []
        return [w.pid for w in self._client.workers() if w.alive and f".{self._process.pid}." in w.id]

    def kill(self) -> None:
        """Kill its processes (SIGKILL), as a crash would; `redurable worker` starts others."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Drain it and return once it is gone."""
        if self._process is not None:
            self._end(self._process)
        self._client.close()
        self._log.close()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Serve:
    """Starts workers in one namespace, and ends them; the fixture `redurable_worker`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._running: list[Running] = []

    @overload
    def __call__(self, target: str, /, **options: Any) -> ProcessWorker: ...
    @overload
    def __call__(self, /, *handlers: Callable[..., Any], **options: Any) -> ThreadWorker: ...
    def __call__(self, /, *handlers: Any, **options: Any) -> Any:
        """
        Start a worker and return it once it takes work.

        Args:
            handlers: Functions, served from a thread of this process; or one "module:function" or "module", served
                by processes.
            options: concurrency, grace (seconds), lease (seconds) of a thread; of processes, those of
                `redurable worker`.

        Raises:
            ConfigurationError: What is given cannot be served so.
            UsageError: TEST_WORKER: it did not start; the message holds what it said.
        """
        targets = [h for h in handlers if isinstance(h, str)]
        functions = tuple(h for h in handlers if not isinstance(h, str))
        worker: ThreadWorker | ProcessWorker
        if functions and not targets:
            worker = ThreadWorker(self._server, functions, **options)
        elif len(targets) == 1 and not functions:
            worker = ProcessWorker(self._server, targets[0], **options)
        else:
            raise ConfigurationError(
                "redurable_worker() takes handlers, or one 'module:function' to serve by processes of their own"
            )
        self._running.append(worker)
        worker.start()
        return worker

    def close(self) -> None:
        """End every worker."""
        for worker in reversed(self._running):
            worker.stop()
        self._running.clear()
