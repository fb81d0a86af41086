"""
Worker processes of the crash tests, and what they leave behind: the ledger, the events, the journals.

Processes are real ones, `redurable worker` or one child of it alone, run on `tests.crash.app`. Every wait is for a
thing to become true, bounded; nothing here sleeps for a guess.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from redurable.client import Client
from redurable.config import parse_url
from redurable.model import Claimed, StepDone, decode_entry
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from tests.support.hatchery import Hatched, hatch

__all__ = ["ROOT", "Fleet", "Line", "Process", "judge", "until"]

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]


async def until(look: Callable[[], T | Awaitable[T]], within: float = 60.0, every: float = 0.005) -> T:
    """Return what *look* gives once it is true; AssertionError when it is not in time."""
    end = time.monotonic() + within
    while True:
        found: Any = look()
        if asyncio.iscoroutine(found) or isinstance(found, asyncio.Future):
            found = await found
        if found:
            return found  # type: ignore[no-any-return]  # awaited above if it had to be
        assert time.monotonic() < end, f"not within {within:g} s"
        await asyncio.sleep(every)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the ledger: the body of a step began."""

    at: float
    pid: int
    epoch: int
    intent: str
    step: str


class Tail:
    """A file that others append lines to, read on from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def more(self) -> list[bytes]:
        """Return the whole lines since the last look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as source:
            source.seek(self._read)
            data = source.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()


class Process:
    """A worker process (or the parent of several) that a test may ill-treat."""

    def __init__(self, popen: subprocess.Popen[bytes] | Hatched, worker_id: str) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.id = worker_id

    def kill(self) -> float:
        """SIGKILL; return the time of it."""
        at = time.monotonic()
        self.popen.kill()
        return at

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM."""
        self.popen.terminate()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    async def ended(self, within: float = 60.0) -> int:
        """Return its exit code once it has ended."""
        await until(lambda: not self.alive, within)
        return int(self.popen.wait())


class Fleet:
    """
    Processes on one namespace of *server*, a client and a room for what they write. Use with `async with`.

    Args:
        server: The server.
        namespace: Of this fleet's own.
        url: Where workers find the server, if not at its own address (a proxy).
    """

    def __init__(self, server: PrivateServer, namespace: str = "rd", *, url: str | None = None) -> None:
        self.server = server
        self.namespace = namespace
        self.url = url or server.url
        self.room = Path(tempfile.mkdtemp(prefix="crash-"))
        self.processes: list[Process] = []
        self.client = Client(server.url, namespace=namespace)
        self._store: Store | None = None
        self._serial = 0
        self._events: list[dict[str, Any]] = []
        self._lines: list[Line] = []
        self._told, self._ledger = Tail(self.room / "events"), Tail(self.room / "ledger")

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            if process.alive:
                process.popen.kill()
            process.popen.wait()
        for event in self.events("worker.started"):  # children of a parent that was killed
            try:
                os.killpg(event["pid"], signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        await self.client.close()
        if self._store is not None:
            await self._store.close()
        shutil.rmtree(self.room, ignore_errors=True)

    # --- processes ----------------------------------------------------------------------------------------------

    def spawn(self, **options: Any) -> Process:
        """Start one worker process without a parent; *options* are those of `process.Options`."""
        self._serial += 1
        asked = {
            "target": "tests.crash.app", "url": self.url, "namespace": self.namespace, "log_format": "json",
            "concurrency": 100, "worker_id": f"w{self._serial}.{os.urandom(2).hex()}", **options,
        }  # fmt: skip
        environment = self._environment() | {"REDURABLE_CHILD": json.dumps(asked)}
        return self._known(hatch(environment, self.room / "log"), asked["worker_id"])

    def supervise(self, processes: int, *words: str) -> Process:
        """Start `redurable worker` with *processes* children."""
        command = [
            sys.executable, "-m", "redurable", "worker", "tests.crash.app", "--url", self.url,
            "--namespace", self.namespace, "--processes", str(processes), "--log-format", "json", *words,
        ]  # fmt: skip
        return self._start(command, {}, "parent")

    def _start(self, command: list[str], environment: dict[str, str], worker_id: str) -> Process:
        log = self.room / "log"
        with log.open("ab") as out:
            popen = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env=self._environment() | environment,
            )  # fmt: skip
        return self._known(popen, worker_id)

    def _environment(self) -> dict[str, str]:
        return os.environ | {"CRASH_ROOM": str(self.room), "PYTHONPATH": str(ROOT)}

    def _known(self, popen: subprocess.Popen[bytes] | Hatched, worker_id: str) -> Process:
        process = Process(popen, worker_id)
        self.processes.append(process)
        return process

    async def start(self, count: int = 1, **options: Any) -> list[Process]:
        """Spawn *count* processes; return once they serve."""
        new = [self.spawn(**options) for _ in range(count)]
        await self.serving({p.pid for p in new})
        return new

    async def serving(self, pids: set[int]) -> None:
        """Return once each of *pids* has said that it started."""
        try:
            await until(lambda: pids <= {e["pid"] for e in self.events("worker.started")}, 60)
        except AssertionError:
            raise AssertionError(f"a worker did not start:\n{self.log()[-4000:]}") from None

    async def started(self, count: int) -> None:
        """Return once so many have said, in all, that they started."""
        try:
            await until(lambda: len(self.events("worker.started")) >= count, 60)
        except AssertionError:
            raise AssertionError(f"not {count} workers started:\n{self.log()[-4000:]}") from None

    async def reap(self, within: float = 60.0) -> None:
        """Stop every process in order; return once all have ended."""
        for process in self.processes:
            if process.alive:
                process.terminate()
        for process in self.processes:
            await process.ended(within)

    # --- what they left -----------------------------------------------------------------------------------------

    def open(self, gate: str) -> None:
        """Let the bodies that wait at *gate* pass."""
        (self.room / gate).touch()

    def ledger(self, intent: str | None = None) -> list[Line]:
        """Return the ledger's lines, of one *intent* or all."""
        for text in self._ledger.more():
            at, pid, epoch, of, name = text.decode().split(" ")
            self._lines.append(Line(float(at), int(pid), int(epoch), of, name))
        return [line for line in self._lines if intent in (None, line.intent)]

    def events(self, name: str = "", **fields: Any) -> list[dict[str, Any]]:
        """Return the events told so far, of one *name*, with these *fields*."""
        self._events += map(json.loads, self._told.more())
        return [e for e in self._events if name in ("", e["event"]) and all(e.get(k) == v for k, v in fields.items())]

    async def event(self, name: str, within: float = 60.0, **fields: Any) -> dict[str, Any]:
        """Return the first event *name* with *fields*, waiting for it."""
        found = await until(lambda: self.events(name, **fields), within)
        return found[0]

    async def line(self, intent: str, step: str, count: int = 1, within: float = 60.0) -> Line:
        """Return the *count*-th ledger line of a step, waiting for it."""

        def look() -> list[Line]:
            found = [line for line in self.ledger(intent) if line.step == step]
            return found if len(found) >= count else []

        return (await until(look, within))[count - 1]

    async def store(self) -> Store:
        """Return a store of the test's own on the fleet's namespace."""
        if self._store is None:
            self._store = Store(parse_url(self.server.url), self.namespace)
            await self._store.start()
        return self._store

    async def unfinished(self, intents: Iterable[str]) -> list[str]:
        """Return a line about each of *intents* that is open: its head, journal length and pending entry."""
        store = await self.store()
        lines = []
        for intent in intents:
            keys = store.keys_of(intent)
            flat = [x.decode(errors="replace") for x in await store.mux.command("HGETALL", keys.head(intent))]
            head = dict(zip(flat[::2], flat[1::2], strict=True))
            if head.get("status") in ("COMPLETED", "FAILED"):
                continue
            length = await store.mux.command("LLEN", keys.journal(intent))
            row = None
            if "at" in head:
                lane, entry = head["at"].split("/")
                row = await store.mux.command("XPENDING", keys.stream(head["queue"], lane), "rd", entry, entry, 1)
            lines.append(f"{intent} {head} journal {length} pending {row}")
        return lines

    def story(self, intent: str) -> str:
        """Return what was told of *intent*, and of workers and the store at large, one event a line."""
        told = [e for e in self.events() if e.get("intent") == intent or "intent" not in e]
        return "\n".join(str({k: v for k, v in e.items() if k != "queues"}) for e in told)

    def log(self) -> str:
        """Return what the processes wrote to their terminals."""
        path = self.room / "log"
        return path.read_text(errors="replace") if path.exists() else ""


async def judge(fleet: Fleet, intents: list[str]) -> dict[str, int]:
    """
    Hold the journals of *intents* against the ledger; return counts for a report.

    Asserted: no journal's epochs go down; each recorded step's body last ran in the attempt that recorded it, once in
    it, and never in a later one; an epoch belongs to one process.
    """
    store = await fleet.store()
    by_intent: dict[str, list[Line]] = defaultdict(list)
    owner: dict[tuple[str, int], int] = {}
    for line in fleet.ledger():
        by_intent[line.intent].append(line)
        assert owner.setdefault((line.intent, line.epoch), line.pid) == line.pid, f"two processes in one epoch: {line}"
    counts = {"lines": 0, "again": 0, "attempts": 0}
    for intent in intents:
        raw = await store.mux.command("LRANGE", store.keys_of(intent).journal(intent), 0, -1)
        recorded: dict[str, int] = {}
        epoch, again = 0, 0
        for entry in map(decode_entry, raw):
            if isinstance(entry, Claimed):
                assert int(entry.epoch) > epoch, f"{intent}: epoch {entry.epoch} after {epoch}"
                epoch = int(entry.epoch)
            elif isinstance(entry, StepDone):
                name = f"{entry.name}{entry.n}"
                assert name not in recorded, f"{intent}: {name} is recorded twice"
                recorded[name] = epoch
        first = min((int(e.epoch) for e in map(decode_entry, raw) if isinstance(e, Claimed)), default=None)
        runs: dict[str, list[int]] = defaultdict(list)
        for line in by_intent[intent]:
            # the first attempt's claim leaves no entry: its epoch is below all that are told
            runs[line.step].append(0 if first is None or line.epoch < first else line.epoch)
        assert runs.keys() == recorded.keys(), f"{intent}: ran {runs.keys()}, recorded {recorded.keys()}"
        for name, epochs in runs.items():
            assert max(epochs) == recorded[name], f"{intent}: {name} recorded in {recorded[name]}, ran in {epochs}"
            assert len(set(epochs)) == len(epochs), f"{intent}: {name} ran twice in an attempt: {epochs}"
            again += len(epochs) - 1
        counts["lines"] += len(by_intent[intent])
        counts["again"] += again
        counts["attempts"] += 1 + sum(isinstance(decode_entry(e), Claimed) for e in raw)
    return counts
