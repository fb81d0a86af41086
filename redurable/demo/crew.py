"""
The demo's workers: started as a user starts them, `redurable worker etl:handler`, and killed from outside, by pid.

With one process each there are two independent workers, each a parent and the process that it watches: the kill takes
both, as a machine that fails would, and the other worker has to notice. With more there is one worker of several
processes: the kill takes the one that runs the step, and its parent notices.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from redurable.demo.ledger import Line
from redurable.errors import RedurableError

__all__ = ["Crew"]


class Crew:
    """
    The workers of one run; leaving the `with` block ends them.

    Args:
        words: The arguments of `redurable worker`.
        directory: Each worker has a working directory and a log of its own below it.
        processes: 1 for two workers of one process, else the processes of one worker.
    """

    def __init__(self, words: list[str], directory: Path, processes: int) -> None:
        self._words = [sys.executable, "-m", "redurable", "worker", *words, "--processes", str(processes)]
        self._directory = directory
        self.processes = processes
        self.workers: list[subprocess.Popen[bytes]] = []
        self._seen: list[int] = []

    def __enter__(self) -> Self:
        for number in range(1, 3 if self.processes == 1 else 2):
            home = self._directory / f"worker-{number}"
            home.mkdir(parents=True, exist_ok=True)
            with open(home / "log", "ab") as log:
                self.workers.append(
                    subprocess.Popen(
                        self._words, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                    )
                )
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(10.0)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    @property
    def size(self) -> int:
        """How many processes run handlers."""
        return 2 if self.processes == 1 else self.processes

    def name(self, line: Line) -> str:
        """Return what people call the process that wrote *line*."""
        if self.processes == 1:
            pids = [worker.pid for worker in self.workers]
            return f"worker {pids.index(line.parent) + 1}" if line.parent in pids else f"process {line.pid}"
        if line.pid not in self._seen:
            self._seen.append(line.pid)
        return f"child {self._seen.index(line.pid) + 1}"

    def ready(self, alive: Callable[[], int], within: float = 30.0) -> None:
        """Return once *alive* counts every process; raise RedurableError with the log when a worker ends instead."""
        until = time.monotonic() + within
        while alive() < self.size:
            ended = next((n for n, w in enumerate(self.workers, 1) if w.poll() is not None), None)
            if ended is not None or time.monotonic() > until:
                log = (self._directory / f"worker-{ended or 1}" / "log").read_text(errors="replace")[-3000:]
                raise RedurableError(f"worker {ended or 1} did not start:\n{log}", code="DEMO_FAILED")
            time.sleep(0.02)

    def kill(self, line: Line) -> int:
        """Kill the worker whose process wrote *line* with SIGKILL; return when, on the ledger's clock."""
        if self.processes > 1:
            at = time.monotonic_ns()
            os.kill(line.pid, signal.SIGKILL)
            return at
        parent = next((w for w in self.workers if w.pid == line.parent), None)
        if parent is None:
            raise RedurableError(f"process {line.pid} belongs to no worker of the demo", code="DEMO_FAILED")
        # the parent is held first: it could recover its child's work before its own kill arrives, and a child that
        # sees its parent gone could drain
        os.kill(parent.pid, signal.SIGSTOP)
        at = time.monotonic_ns()
        os.kill(line.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(parent.pid, signal.SIGKILL)
        return at
