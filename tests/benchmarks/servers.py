"""The servers that the sides work on: private, on free ports, gone with their data."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from redurable.store.private import PrivateServer

__all__ = ["Missing", "postgres", "redis", "restate"]

WITHIN = 60.0  # s that a server may take to come up


class Missing(Exception):
    """A server or an environment could not be had; the text says why."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis(fsync: str = "everysec", *, tcp: bool = False) -> Iterator[str]:
    """A redis-server with an append-only file; its URL, the unix socket's or by TCP."""
    # a rewrite of the file in the middle of a figure would be noise
    with PrivateServer(port=0, appendfsync=fsync, args=("--auto-aof-rewrite-percentage", "0")) as server:
        yield server.url if tcp else server.unix_url


@contextlib.contextmanager
def postgres(fsync: str = "everysec", *, tcp: bool = False) -> Iterator[str]:
    """
    A PostgreSQL of Debian's packages; the URL of its databases, `{}` for the name.

    `everysec` commits before the log is on disk, at most three times 200 ms before; `always` is how it comes.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        raise Missing("no PostgreSQL: apt-get install postgresql")
    bin_ = programs[-1].parent
    directory = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root
    try:
        if user:
            shutil.chown(directory, **user)
        data, port = directory / "data", free_port()
        subprocess.run(
            [bin_ / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8"],
            check=True, capture_output=True, cwd=directory, **user,
        )  # fmt: skip
        options = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": directory,
            "max_connections": 300,
            "shared_buffers": "1GB",
            "synchronous_commit": "on" if fsync == "always" else "off",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with _running([bin_ / "postgres", "-D", data, *words], directory, _answers(port), signal.SIGINT, **user):
            where = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
            for name in ("dbos", "absurd", "langgraph"):
                subprocess.run([bin_ / "createdb", *where, name], check=True, capture_output=True)
            yield f"postgresql://postgres@/{{}}?host={'127.0.0.1' if tcp else directory}&port={port}"
    except subprocess.CalledProcessError as error:
        raise Missing(f"PostgreSQL does not start: {error.stderr.decode(errors='replace')[-300:]}") from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def restate(program: Path, fsync: str = "everysec", *, tcp: bool = False) -> Iterator[dict[str, str]]:
    """Restate's server, one node; where its ingress and its admin are, and the ingress' unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="bench-restate-"))
    ingress, admin, node = free_port(), free_port(), free_port()
    settings = {
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
        "RESTATE_BASE_DIR": str(directory),
        "RESTATE_LOG_FILTER": "error",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC": "false" if fsync == "always" else "true",
    }

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ingress}/restate/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        with _running([program, "--no-logo"], directory, healthy, signal.SIGTERM, env=os.environ | settings):
            yield {
                "BENCH_RESTATE_INGRESS": f"http://127.0.0.1:{ingress}",
                "BENCH_RESTATE_ADMIN": f"http://127.0.0.1:{admin}",
                "BENCH_RESTATE_SOCKET": "" if tcp else str(next(directory.glob("*/ingress.sock"))),
            }
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _answers(port: int) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    return answers


@contextlib.contextmanager
def _running(
    command: list[object], directory: Path, ready: Callable[[], bool], end: signal.Signals, **options: object
) -> Iterator[None]:
    log = directory / "log"
    words = [str(word) for word in command]
    with log.open("wb") as out:
        process = subprocess.Popen(  # type: ignore[call-overload]  # options are of Popen's
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=directory, start_new_session=True, **options
        )
    try:
        until = time.monotonic() + WITHIN
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise Missing(f"{Path(words[0]).name} does not start: {log.read_text(errors='replace')[-300:]}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(end)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
