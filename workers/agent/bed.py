"""
What the demonstration and the tests share: the fake server and a worker as processes, and a way to kill at a moment.

The worker is `redurable worker` with a few processes: when one is killed, their parent notices.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from workers.agent.fake import Call, Ledger

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
WAIT = 30.0  # s that is waited for a call to come to a place
TARGET = "workers.agent.analyst:answer"


Place = tuple[str, str]  # (call, "asked" | "middle" | "paid")


@dataclass(frozen=True)
class Stopped:
    """A call that the fake server holds, and the process that waits for its answer, if it lives."""

    place: Place
    pid: int | None


class Bed:
    """
    A fake server with its ledger, and workers; leaving the `with` block ends them.

    Args:
        url, namespace: Where the workers find their intents.
        room: A directory for the ledger and the log.
        target: What the workers run.
    """

    def __init__(self, url: str, namespace: str, room: Path, target: str = TARGET) -> None:
        self.log = room / "worker.log"
        self._where = [target, "--app-dir", str(ROOT), "--url", url, "--namespace", namespace, "--log-format", "json"]
        self._ledger_file = room / "calls.sqlite"
        self._stack = contextlib.ExitStack()
        self.workers: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Bed:
        with contextlib.ExitStack() as stack:
            words = [sys.executable, "-m", "workers.agent.fake", "--ledger", str(self._ledger_file)]
            log = stack.enter_context(self.log.open("ab"))
            fake = stack.enter_context(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True))
            stack.callback(fake.terminate)
            self._fake = fake
            assert fake.stdout is not None
            self.base_url = fake.stdout.readline().strip()
            self.ledger = Ledger(self._ledger_file)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        if error[0] is not None and self.log.exists():
            print(self.log.read_text(errors="replace")[-6000:], file=sys.stderr)

    # --- workers

    @property
    def environment(self) -> dict[str, str]:
        """What the OpenAI client reads, to find the fake server."""
        return os.environ | {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": "any"}

    def work(self, processes: int) -> subprocess.Popen[Any]:
        """Start a worker of so many processes."""
        words = [sys.executable, "-m", "redurable", "worker", *self._where, "--processes", str(processes)]
        with self.log.open("ab") as log:
            worker = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=self.environment)
        self._stack.callback(worker.wait, 30.0)
        self._stack.callback(worker.terminate)
        self.workers.append(worker)
        return worker

    def pids(self) -> list[int]:
        """Return the processes that run handlers."""
        found = []
        for worker in self.workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(worker.pid).children()
        return [child.pid for child in found if _alive(child)]

    def _owner(self, port: int) -> int | None:
        """Return the worker process that has *port*; None if it died."""
        for _ in range(3):  # a process whose sockets change while they are listed may be missed
            for pid in self.pids():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any(c.laddr and c.laddr.port == port for c in psutil.Process(pid).net_connections("tcp")):
                        return pid
            time.sleep(0.05)
        return None

    # --- the fake server

    def _control(self, **words: Any) -> Any:
        data, headers = json.dumps(words).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.base_url}/control", data, headers)
        assert self._fake.poll() is None, f"the model server ended: exit code {self._fake.returncode}"
        with urllib.request.urlopen(request, timeout=2 * WAIT) as answer:
            return json.load(answer)

    @contextlib.contextmanager
    def together(self, kind: str, count: int) -> Iterator[None]:
        """Within the block, calls of *kind* are not answered before so many of one intent have come."""
        self._control(together={kind: count})
        try:
            yield
        finally:
            self._control(together={kind: 0})

    @contextlib.contextmanager
    def stopped(self, *places: Place, every: bool = False) -> Iterator[Callable[[], Stopped]]:
        """Hold the next call, or *every* one, at these *places* until the block ends; what is given waits for one."""
        self._control(stop=places, every=every)
        try:
            yield self._stopped
        finally:
            self._control(go=places)

    def _stopped(self) -> Stopped:
        told = self._control(wait=WAIT)
        return Stopped((told["call"], told["at"]), self._owner(told["port"]))

    def hunt(self, places: Iterable[Place]) -> Iterator[Stopped]:
        """Kill, with SIGKILL, whoever comes to these *places*, once at each; tell as it happens."""
        left = set(places)
        with self.stopped(*left, every=True) as wait:
            while left:
                found = wait()
                if found.pid is None or found.place not in left:  # it died of the call beside: another will come
                    continue
                os.kill(found.pid, signal.SIGKILL)
                until(lambda gone=found.pid: gone not in self.pids())
                left.discard(found.place)
                self._control(go=[found.place])
                yield found

    # --- the ledger

    def bill(self, intent: str) -> dict[str, tuple[int, int]]:
        """Return how often each call of *intent* was asked for, and paid."""
        calls = self.ledger.calls(intent)
        assert len({call.name for call in calls}) == len(calls), calls
        return {call.name: (call.asked, call.paid) for call in calls}

    def call(self, intent: str, name: str) -> Call:
        """Return one call of *intent*."""
        return next(call for call in self.ledger.calls(intent) if call.name == name)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(look: Callable[[], T], within: float = 60.0) -> T:
    """Return what *look* gives once it is true; AssertionError when it is not in time."""
    end = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < end, f"not within {within:g} s"
        time.sleep(0.01)
    return found
