"""
The first detector, and several processes as one worker: a parent that spawns, watches and buries its children.

A child's death is seen at once (the kernel tells its parent); the parent ends what is left of its process group, hands
its pending entries back, and starts another. A child is in a session of its own, so that Ctrl+C reaches the parent
alone; it reads a pipe that only its parent holds open, and drains when the pipe ends.

Exit codes: 0 drained; 1 the store failed; 2 it could not start as configured; 130 stopped by a second signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redurable import events
from redurable.clock import monotonic
from redurable.codecs.base import vault_of
from redurable.config import namespace as namespace_of
from redurable.errors import ConfigurationError, RedurableError
from redurable.runtime.handlers import load_handlers
from redurable.runtime.loops import new_event_loop
from redurable.store.address import address_of
from redurable.store.keeper import Keeper
from redurable.store.store import Store
from redurable.tasks import background
from redurable.worker.guard import guard
from redurable.worker.peers import recover_worker
from redurable.worker.worker import Settings, Worker

__all__ = ["Options", "child_options", "run_child", "supervise"]

_ENV = "REDURABLE_CHILD"
_LONGEST_PAUSE = 5.0
_LAST_WORDS = 2.0  # s for a server that is away when we are to end
_LAST = 10.0  # s that a child gets beyond the grace to hand back, to leave its lifespans, to close
_TWICE = 0.3  # s between one Ctrl+C and the next


@dataclass(frozen=True, slots=True)
class Options:
    """What `redurable worker` was asked for; durations in seconds."""

    target: str
    queue: str | None = None
    concurrency: int | None = None
    processes: int = 1
    url: str | None = None
    namespace: str | None = None
    metrics_port: int | None = None
    log_format: str = "auto"
    reload: bool = False
    grace: float = 30.0
    app_dir: str | None = None
    codec: str | None = None
    accept: tuple[str, ...] = ()
    lease: float = 10.0
    stall: float = 300.0
    version: str = ""
    worker_id: str = ""
    index: int = 0
    parent_pipe: int = -1


def child_options() -> Options:
    """Return what the parent asked of this process; ConfigurationError when there is no parent."""
    text = os.environ.get(_ENV)
    if text is None:
        raise ConfigurationError("this command is for redurable's own use", hint="use: redurable worker module:handler")
    return Options(**json.loads(text))


# --- the child ------------------------------------------------------------------------------------------------------


def run_child() -> int:
    """Be one worker process until told to stop; return the exit code."""
    options = child_options()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_child(options, loop))
    finally:
        loop.close()


async def _child(options: Options, loop: asyncio.AbstractEventLoop) -> int:
    handlers, module = load_handlers(options.target, options.queue, options.app_dir)
    settings = Settings(
        concurrency=options.concurrency or 100,
        lease=options.lease,
        grace=options.grace,
        stall=options.stall,
        worker_id=options.worker_id,
        vault=vault_of(options.codec),
        version=options.version,
    )
    worker = Worker(
        handlers, address_of(options.url), namespace_of(options.namespace), settings=settings, modules=(module,)
    )

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    if options.parent_pipe >= 0:
        loop.add_reader(options.parent_pipe, _orphaned, worker, loop, options.parent_pipe)
    await worker.run()
    if worker.abandoned:
        # the interpreter would wait for the threads that are stuck
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _orphaned(worker: Worker, loop: asyncio.AbstractEventLoop, pipe: int) -> None:
    loop.remove_reader(pipe)
    if not worker.stopping.is_set():
        events.emit("worker.orphaned", worker=worker.id)
        worker.stop()


# --- the parent -----------------------------------------------------------------------------------------------------


def supervise(options: Options) -> int:
    """
    Run `options.processes` children until told to stop; return the exit code.

    Raises:
        ConfigurationError: It could not start; nothing was claimed. UNSAFE_SERVER: what it accepts would be lost.
        StoreUnavailable: The same, for a server that is not there.
    """

    async def main() -> int:
        return await _Supervisor(options).run()

    return asyncio.run(main())


class _Supervisor:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._store = Store(address_of(options.url), namespace_of(options.namespace))
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._code = 0
        self._told_at = 0.0
        self._pipe = os.pipe()  # children hold the read end: it ends when this process does
        os.set_inheritable(self._pipe[0], True)

    async def run(self) -> int:
        await guard(self._store.topology.address, self._store.namespace, self._options.accept)
        await self._store.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told, number)
        seats = [background(self._seat(i), f"process {i}") for i in range(self._options.processes)]
        reloading = background(self._reload(), "reload") if self._options.reload else None
        try:
            await asyncio.gather(*seats)
        finally:
            if reloading is not None:
                reloading.cancel()
            self._end_children(signal.SIGKILL)
            await self._store.close()
        return self._code

    def _told(self, number: int) -> None:
        if self._stopping.is_set():
            # a terminal and a wrapper may both tell us of one Ctrl+C; an orchestrator may repeat its SIGTERM
            if number == signal.SIGINT and monotonic() - self._told_at > _TWICE:
                self._code = 130
                self._end_children(signal.SIGKILL)
            return
        self._told_at = monotonic()
        events.emit("worker.stopping")
        self._stopping.set()
        self._end_children(signal.SIGTERM)
        # one that is stopped or stuck hears nothing: what it holds is handed back as that of any other dead child
        asyncio.get_running_loop().call_later(self._options.grace + _LAST, self._end_children, signal.SIGKILL)

    def _end_children(self, number: int) -> None:
        for child in self._children.values():
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    if number == signal.SIGKILL:
                        os.killpg(child.pid, number)
                    else:
                        child.send_signal(number)

    async def _seat(self, index: int) -> None:
        """Keep one child at work: when it dies, bury it and start the next."""
        pause = 0.0
        while not self._stopping.is_set():
            worker_id = f"{socket.gethostname().split('.')[0][:16]}.{os.getpid()}.{index}{secrets.token_hex(3)}"
            begun = monotonic()
            child = await self._spawn(index, worker_id)
            self._children[worker_id] = child
            events.emit("process.started", worker=worker_id, pid=child.pid)
            if self._stopping.is_set():
                self._end_children(signal.SIGTERM)
            code = await child.wait()
            died = monotonic()
            del self._children[worker_id]
            told = self._stopping.is_set() or code == 0
            events.emit("process.ended", worker=worker_id, pid=child.pid, code=code, told=told)
            await self._unless_told(self._bury(child.pid, worker_id, code, died))
            if self._stopping.is_set():
                return
            if code == 2 and died - begun < 10.0:
                self._code = 2  # it has said what is wrong with its configuration
                self._told(signal.SIGTERM)
                return
            pause = 0.0 if died - begun > _LONGEST_PAUSE or code == 0 else min(_LONGEST_PAUSE, pause * 2 + 0.1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _spawn(self, index: int, worker_id: str) -> asyncio.subprocess.Process:
        asked = asdict(self._options) | {"worker_id": worker_id, "index": index, "parent_pipe": self._pipe[0]}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "redurable", "worker-process",
            env=os.environ | {_ENV: json.dumps(asked)},
            pass_fds=(self._pipe[0],),
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    async def _unless_told(self, burial: Coroutine[Any, Any, None]) -> None:
        """Bury; once we are to stop, not for long: while the server is away the other detectors have to see it."""
        burying, told = background(burial, "burial"), background(self._stopping.wait(), "told")
        await asyncio.wait({burying, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if (await asyncio.wait({burying}, timeout=_LAST_WORDS))[1]:
            burying.cancel()

    async def _bury(self, pid: int, worker_id: str, code: int, died: float) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        taken: dict[str, int] = {}
        try:
            keepers = [Keeper(self._store, keys.partition, "parent") for keys in self._store.keys]
            taken = await recover_worker(keepers, worker_id, liveness=False, counted=code != 0)
        except RedurableError as error:
            events.emit("recovery.failed", worker=worker_id, error=error)
            return  # the other detectors will see it
        asked_to_end = code in (0, -signal.SIGTERM)  # the latter before it could listen
        if not asked_to_end or taken:
            ms = round((monotonic() - died) * 1000, 2)
            events.emit("worker.lost", worker=worker_id, by="parent", code=code, taken=taken, ms=ms)

    async def _reload(self) -> None:
        from watchfiles import PythonFilter, awatch

        async for changes in awatch(Path(self._options.app_dir or "."), watch_filter=PythonFilter()):
            events.emit("worker.reloading", files=sorted(str(path) for _, path in changes)[:5])
            self._end_children(signal.SIGTERM)
