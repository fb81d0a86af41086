"""
Worker processes forked from one that has imported redurable already: a start takes 0.1 s of CPU, not 1 s.

Each is a session and a process of its own that does what `python -m redurable worker-process` does; it imports its
app itself. `redurable worker` starts its children without this: tests of parents are tests of real starts.

    hatch(environment, log)     # what a test process calls; the hatchery is started with the first and ends with it

Between the two go lines of JSON: a request [environment, log] is answered by [pid, null], a death told as [pid, code].
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from redurable.__main__ import main as redurable

__all__ = ["Hatched", "hatch"]

ROOT = Path(__file__).resolve().parents[2]
_MODULES = ("redurable.worker.process", "redurable.telemetry.logs", "redurable.telemetry.exporting", "uvloop")


class Hatched:
    """A process of the hatchery; it is used as a `subprocess.Popen`."""

    def __init__(self, pid: int, of: _Hatchery) -> None:
        self.pid = pid
        self._of = of

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal that it died of; None before."""
        return self._of.deaths.get(self.pid)

    def poll(self) -> int | None:
        """Return `returncode` as it is now."""
        self._of.hear(0)
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Return its exit code once it has ended."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if (left := end - time.monotonic()) < 0:
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout)
            self._of.hear(left)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:  # it is reaped, and not yet told of
                self.wait()

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Hatchery:
    """The test process's end."""

    def __init__(self) -> None:
        self.deaths: dict[int, int] = {}
        self._born: list[int] = []
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hatchery"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            bufsize=0, start_new_session=True,
        )  # fmt: skip
        atexit.register(self._end)

    def _end(self) -> None:
        """End it, and with it what it hatched."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def hatch(self, environment: dict[str, str], log: Path) -> Hatched:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([environment, str(log)]).encode() + b"\n")
        while not self._born:
            self.hear(60)
        return Hatched(self._born.pop(), self)

    def hear(self, seconds: float) -> None:
        """Take in what is told, waiting so long for something."""
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], seconds)[0]:
            data = os.read(self._process.stdout.fileno(), 65_536)
            assert data, "the hatchery ended"
            *lines, self._rest = (self._rest + data).split(b"\n")
            for pid, code in map(json.loads, lines):
                if code is None:
                    self._born.append(pid)
                else:
                    self.deaths[pid] = code
            seconds = 0


@cache
def _hatchery() -> _Hatchery:
    return _Hatchery()


def hatch(environment: dict[str, str], log: Path) -> Hatched:
    """Start `redurable worker-process` with this environment; what it prints is appended to *log*."""
    return _hatchery().hatch(environment, log)


# --- the process ------------------------------------------------------------------------------------------------------


def _be_hatched(environment: dict[str, str], log: str) -> None:
    """Be what was asked for, from here on."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number, end in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
        os.dup2(end, number)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["redurable", "worker-process"]
    redurable()


def _tell(*words: int | None) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def main() -> None:
    for module in _MODULES:
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    living: set[int] = set()
    rest = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if 0 in ready:
            data = os.read(0, 65_536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                environment, log = json.loads(line)
                if (pid := os.fork()) == 0:
                    _be_hatched(environment, log)  # raises SystemExit
                living.add(pid)
                _tell(pid, None)
        if woken in ready:
            os.read(woken, 65_536)
            while living:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                living.discard(pid)
                _tell(pid, os.waitstatus_to_exitcode(status))
    for pid in living:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
