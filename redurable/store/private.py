"""
A server of one's own, for tests, the demo and benchmarks: a child process that ends with its owner's `with` block,
and with its owner, however that dies: a watcher holds the other end of a pipe that only the owner keeps open.

Unlike the embedded server nobody else finds it. Its data directory outlives a kill, so that a crash of the store
can be played: `kill` and `restart` keep address and data.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from redurable.errors import ConfigurationError
from redurable.store.binary import ask, find_binary, require_posix

__all__ = ["PrivateServer", "Watcher"]

READY_WITHIN = 30.0
_WATCH = 'read _; kill -TERM "$0"; kill -CONT "$0"'  # $0 is the process; a frozen one has to be thawed to end


class Watcher:
    """
    Ends process *pid*, a child of ours, by SIGTERM once this process is gone, however it died.

    End it before the child is waited for, so that it can never signal another process of that number.
    """

    def __init__(self, pid: int) -> None:
        words, quiet = ["/bin/sh", "-c", _WATCH, str(pid)], subprocess.DEVNULL
        self._shell = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)

    def end(self) -> None:
        """Watch no more."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()


class PrivateServer:
    """
    One server process with a directory of its own. Start it with `start()`, or as a context manager.

    Args:
        directory: Where its data go and stay; by default a temporary one that leaving the `with` block removes.
        port: None for a unix socket alone, 0 for a free TCP port of 127.0.0.1 beside it, or a TCP port.
        appendfsync: "always", "everysec", "no"; None turns the append-only file off.
        args: Further words of its command line, ("--maxmemory", "8mb").
        binary: The program's path; by default the one the embedded server would use.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        port: int | None = None,
        appendfsync: str | None = "everysec",
        args: Sequence[str] = (),
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        require_posix()
        self.binary = os.fspath(binary) if binary is not None else find_binary().path
        # the socket's path has to be short, whatever the data directory is called
        self._runtime = tempfile.mkdtemp(prefix="rd-", dir="/tmp")
        self.directory = Path(directory) if directory is not None else Path(self._runtime, "data")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.socket = os.path.join(self._runtime, "s")
        self.port = _free_port() if port == 0 else port
        self.appendfsync = appendfsync
        self.args = tuple(args)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None

    @property
    def url(self) -> str:
        """Its URL: over TCP if it has a port, else the socket's. The same after a restart."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else self.unix_url

    @property
    def unix_url(self) -> str:
        """The URL of its socket."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Its process id, while it runs."""
        return self._child().pid

    @property
    def running(self) -> bool:
        """Whether its process is there (a frozen one is)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it, unless it runs; return once it serves commands, its data loaded."""
        if not self.running:
            with open(self.directory / "server.log", "ab") as log:
                self._process = subprocess.Popen(
                    self._words(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            self._unwatch()
            self._watcher = Watcher(self._process.pid)
            self._ready(self._process)
        return self

    def stop(self) -> None:
        """End it in order, its data on disk; nothing happens when it does not run."""
        if self._process is None or not self.running:
            return
        self._unwatch()
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); return once it is gone."""
        child = self._child()
        self._unwatch()
        child.kill()
        child.wait()

    def freeze(self) -> None:
        """Stop it where it is (SIGSTOP); its connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> Self:
        """Stop it in order if it runs, and start it again: same address, same data."""
        self.stop()
        return self.start()

    def remove(self) -> None:
        """End it and remove its runtime directory, and its data if they are in no directory of yours."""
        self.stop()
        shutil.rmtree(self._runtime, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _child(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ConfigurationError("the private server was not started", hint="call start(), or use it in a with")
        return self._process

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.end()
            self._watcher = None

    def _words(self) -> list[str]:
        words = [self.binary, "--port", str(self.port or 0), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        words += ["--unixsocket", self.socket, "--unixsocketperm", "700", "--save", ""]
        if self.appendfsync is None:
            words += ["--appendonly", "no"]
        else:
            words += ["--appendonly", "yes", "--appendfsync", self.appendfsync]
        return [*words, *self.args]

    def _ready(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + READY_WITHIN
        while process.poll() is None and time.monotonic() < until:
            reply = ask(self.socket, "PING")
            # an error such as NOAUTH is an answer too; LOADING and MASTERDOWN pass by themselves
            if reply is not None and not reply.startswith("-LOADING"):
                return
            time.sleep(0.005)
        self.kill()
        log = (self.directory / "server.log").read_text(errors="replace")[-2000:]
        raise ConfigurationError(f"{self.binary} did not start in {self.directory}:\n{log}", code="NO_SERVER")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
