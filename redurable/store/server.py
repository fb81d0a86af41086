"""
The embedded server: a private Redis or Valkey for one project directory, for development without a set-up.

    <project>/.redurable/       appendonlydir/  the data (AOF, every second)
                                server.json     the socket and the program, written before the program is started
                                server.pid, server.log
                                lock            held by the server itself for as long as it lives
    <runtime>/<hash>.sock       the socket: its path must be short, a project's may not be

Invariants:
  - One server a project directory, whoever starts it. The starter takes the lock and the server inherits it (a flock
    belongs to the open file, so the kernel frees it with the server's last process), hence no crash leaves it held
    and no two servers ever write the same data.
  - It outlives its starter; only `stop` or a signal ends it.
  - Who finds it asks it: `find` believes no file, only an answer.
  - Data are opened by the program that wrote them while that is installed: an older one could not read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redurable.errors import ConfigurationError, StoreUnavailable
from redurable.store.binary import Binary, ask, find_binary, process_of, require_posix, usable
from redurable.store.private import PrivateServer

__all__ = ["PrivateServer", "ServerInfo", "find", "find_binary", "project_directory", "start", "stop"]

_MARKS = ("pyproject.toml", ".git", ".redurable")
_START_WITHIN = 60.0  # a large append-only file takes its time to load
_STOP_WITHIN = 20.0
_LONGEST_SOCKET_PATH = 100  # macOS allows 103 bytes, Linux 107


@dataclass(frozen=True)
class ServerInfo:
    """A running embedded server: its URL, its process and the directory of its data."""

    url: str
    pid: int
    directory: Path


def project_directory(start_at: Path | None = None) -> Path:
    """Return the nearest directory from *start_at* (the current one) upwards that looks like a project, else that."""
    here = (start_at or Path.cwd()).resolve()
    for directory in (here, *here.parents):
        if any((directory / mark).exists() for mark in _MARKS):
            return directory
    return here


def find(project: Path | None = None) -> ServerInfo | None:
    """Return the project's embedded server if it answers now."""
    try:
        require_posix()
    except ConfigurationError:
        return None  # there cannot be one
    return _Place(project).running()


def silent(project: Path | None = None) -> StoreUnavailable | None:
    """Return the error that says so if the project's embedded server lives but does not answer, else None."""
    place = _Place(project)
    if not place.directory.is_dir() or place.free():
        return None
    return place.mute()


def start(project: Path | None = None) -> ServerInfo:
    """
    Return the project's embedded server, started if it does not run; safe to call from many processes at once.

    Raises:
        ConfigurationError: NO_SERVER: no program is installed, or it would not start (its log is shown).
            UNSUPPORTED_PLATFORM: Windows.
        StoreUnavailable: It is there but has not answered for a minute.
    """
    require_posix()
    place = _Place(project)
    place.prepare()
    until = time.monotonic() + _START_WITHIN
    unreachable = 0.0
    while time.monotonic() < until:
        if (running := place.running()) is not None:
            return running
        if (lock := place.take_lock()) is not None:
            with contextlib.closing(lock):
                place.launch(lock.fileno())
            place.answers_or_raises(until)
            continue
        # Somebody holds the lock: a server that loads, or one whose socket was removed under it (a runtime
        # directory ends with the login session). The latter can serve nobody any more.
        if os.path.exists(place.socket()):
            unreachable = 0.0
        elif not unreachable:
            unreachable = time.monotonic()
        elif time.monotonic() - unreachable > 2:
            place.terminate()
            unreachable = 0.0
        time.sleep(0.02)
    raise place.mute()


def stop(project: Path | None = None) -> bool:
    """End the project's embedded server in order, its data on disk; tell whether there was one."""
    require_posix()
    place = _Place(project)
    if not place.directory.is_dir() or place.free():
        return False
    ask(place.socket(), "SHUTDOWN NOSAVE", timeout=_STOP_WITHIN)  # "nosave" skips the snapshot, not the AOF
    if not place.free():
        place.terminate()
    until = time.monotonic() + _STOP_WITHIN
    while not place.free():
        if time.monotonic() > until:
            raise StoreUnavailable(
                f"the embedded server of {place.project} did not end within {_STOP_WITHIN:.0f} s",
                hint=f"see {place.log}; its process id is in {place.pidfile}",
            )
        time.sleep(0.02)
    return True


class _Place:
    """The files of one project's server, and what can be done with them."""

    def __init__(self, project: Path | None) -> None:
        self.project = project.resolve() if project is not None else project_directory()
        self.directory = self.project / ".redurable"
        self.log = self.directory / "server.log"
        self.pidfile = self.directory / "server.pid"
        self._record = self.directory / "server.json"

    def prepare(self) -> None:
        """Make the data directory, closed to others and to git."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = self.directory / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
        except OSError as error:
            raise ConfigurationError(
                f"{self.directory} cannot be written: {error.strerror}",
                code="NO_SERVER",
                hint="the embedded server keeps its data there; give a server's URL in REDURABLE_URL instead",
            ) from error

    def record(self) -> dict[str, Any]:
        try:
            found = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def socket(self) -> str:
        """Return the socket's path as its starter chose it, whatever this process's environment says."""
        return str(self.record().get("socket") or "")

    def running(self) -> ServerInfo | None:
        path = self.socket()
        pid = process_of(path) if path else None
        return ServerInfo(f"unix://{path}", pid, self.directory) if pid is not None else None

    def mute(self) -> StoreUnavailable:
        """Return the error of a server that lives and says nothing."""
        return StoreUnavailable(
            f"the embedded server of {self.project} is there but does not answer: it loads its data, or it is frozen",
            hint=f"see {self.log}; its process id is in {self.pidfile} (kill -CONT thaws a stopped one)",
        )

    def take_lock(self) -> Any:
        """Return the open, locked file, or None while another holds it."""
        import fcntl

        try:
            file = open(self.directory / "lock", "ab")  # noqa: SIM115 - the caller closes it
        except OSError as error:
            raise ConfigurationError(
                f"{self.directory / 'lock'} cannot be opened: {error.strerror}",
                code="NO_SERVER",
                hint="was it made by another user? One user's server serves one project directory",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def free(self) -> bool:
        """Whether no server of this project lives."""
        lock = self.take_lock()
        if lock is not None:
            lock.close()
        return lock is not None

    def launch(self, lock: int) -> None:
        """Start the program, detached; it inherits the file descriptor *lock*."""
        binary = self._program()
        socket = _socket_path(self.project)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(socket)  # a killed server leaves it; the lock says that nobody listens there
        spare = self._record.with_suffix(".tmp")
        spare.write_text(json.dumps({"socket": socket, "binary": binary.path, "server": str(binary)}))
        os.replace(spare, self._record)
        words = [binary.path, "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700"]
        words += ["--dir", str(self.directory), "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        words += ["--daemonize", "yes", "--pidfile", str(self.pidfile), "--logfile", str(self.log)]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=(lock,), check=False
        )
        if done.returncode:
            raise ConfigurationError(f"{binary} did not start: {done.stdout}{done.stderr}", code="NO_SERVER")

    def answers_or_raises(self, until: float) -> None:
        """Return once the launched server answers or the time is up; if it has ended, say what it logged."""
        while self.running() is None and time.monotonic() < until:
            if self.free():
                tail = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
                raise ConfigurationError(
                    f"the server {self.record().get('server')} ended at once:\n{tail}",
                    code="NO_SERVER",
                    hint=f"its data are in {self.directory}; another program than the one that wrote them may not fit",
                )
            time.sleep(0.01)

    def terminate(self) -> None:
        """Send SIGTERM to the holder of the lock, which wrote the pid file."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self.pidfile.read_text()), signal.SIGTERM)

    def _program(self) -> Binary:
        return usable(self.record().get("binary")) or find_binary()


def _socket_path(project: Path) -> str:
    name = hashlib.blake2b(os.fsencode(project), digest_size=8).hexdigest() + ".sock"
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    bases = [os.path.join(session, "redurable")] if session and os.path.isdir(session) else []
    for base in (*bases, f"/tmp/redurable-{os.getuid()}"):
        path = os.path.join(base, name)
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH and _own(base):
            return path
    raise ConfigurationError(
        f"/tmp/redurable-{os.getuid()} belongs to another user or cannot be written",
        code="NO_SERVER",
        hint="set XDG_RUNTIME_DIR to a short directory of your own",
    )


def _own(base: str) -> bool:
    """Make *base* and tell whether it is ours alone: who can write there could pose as the server."""
    try:
        os.makedirs(base, mode=0o700, exist_ok=True)
        found = os.lstat(base)
    except OSError:
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()  # by lstat a link is no directory
    return ours and not found.st_mode & 0o022
