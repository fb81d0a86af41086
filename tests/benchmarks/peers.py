"""Who is compared, how much work each is given, and the environment that it needs."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.benchmarks.servers import Missing

__all__ = ["OURS", "PEERS", "Kind", "Peer", "environment", "restate_program"]

SIDES = Path(__file__).resolve().parent / "sides"
OURS = "redurable"
Kind = Literal["queues", "steps"]


@dataclass(frozen=True, slots=True)
class Peer:
    """
    One side.

    Attributes:
        module: Its file in `sides/`.
        needs: Its server.
        pace: About how many jobs, or intents of 50 steps, it does in a second: it is given seconds of work, not counts.
        calls: How many round trips its latency is taken from.
    """

    name: str
    kind: Kind
    module: str
    needs: Literal["redis", "postgres", "restate", "none"]
    pace: float
    calls: int = 200


PEERS: tuple[Peer, ...] = (
    Peer(OURS, "queues", "on_redurable", "redis", 20_000),
    Peer("streaq", "queues", "on_streaq", "redis", 1_500, calls=50),
    Peer("arq", "queues", "on_arq", "redis", 2_500),
    Peer("SAQ", "queues", "on_saq", "redis", 2_000),
    Peer("docket", "queues", "on_docket", "redis", 2_000),
    Peer("taskiq", "queues", "on_taskiq", "redis", 2_000),
    Peer("dramatiq", "queues", "on_dramatiq", "redis", 3_500),
    Peer("RQ", "queues", "on_rq", "redis", 500),
    Peer("Celery", "queues", "on_celery", "redis", 1_200),
    Peer("huey", "queues", "on_huey", "redis", 2_500),
    Peer("BullMQ (Python)", "queues", "on_bullmq", "redis", 3_000),
    Peer(OURS, "steps", "on_redurable_steps", "redis", 800),
    Peer("Restate", "steps", "on_restate", "restate", 50),
    Peer("DBOS", "steps", "on_dbos", "postgres", 6, calls=200),
    Peer("absurd", "steps", "on_absurd", "postgres", 20, calls=60),
    Peer("LangGraph on PostgreSQL", "steps", "on_langgraph_postgres", "postgres", 10),
    Peer("LangGraph on SQLite", "steps", "on_langgraph_sqlite", "none", 20),
)


def environment(peer: Peer, cache: Path) -> Path:
    """
    Return the Python of the environment of *peer*, made in *cache* when it is not there yet.

    Raises:
        Missing: It could not be installed.
    """
    packages = dependencies(SIDES / f"{peer.module}.py")
    if not packages:
        return Path(sys.executable)  # ours
    return installed(peer.module.removeprefix("on_"), packages, cache)


def dependencies(script: Path) -> list[str]:
    """Return the packages that the head of *script* asks for (PEP 723)."""
    head = re.search(r"(?m)^# /// script$\n((?:^#.*$\n)+?)^# ///$", script.read_text())
    if head is None:
        return []
    return list(tomllib.loads("\n".join(line[2:] for line in head[1].splitlines()))["dependencies"])


def installed(name: str, packages: list[str], cache: Path) -> Path:
    """Return the Python of an environment with *packages*."""
    mark = hashlib.sha256(repr((sys.version, packages)).encode()).hexdigest()[:8]
    place = cache / f"{name}-{mark}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        _run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(place))
        _run("uv", "pip", "install", "--quiet", "--python", str(python), *packages)
        (place / "complete").touch()
    return python


def restate_program(cache: Path) -> Path:
    """
    Return Restate's server, installed from npm when it is not there yet.

    Raises:
        Missing: It could not be installed.
    """
    place = cache / "restate-server"
    pattern = "node_modules/@restatedev/restate-server-*/bin/restate-server"
    if not list(place.glob(pattern)):
        _run(
            "npm",
            "install",
            "--silent",
            "--no-fund",
            "--no-audit",
            "--prefix",
            str(place),
            "@restatedev/restate-server",
        )
    found = list(place.glob(pattern))
    if not found:
        raise Missing("npm has no Restate server for this machine")
    return found[0]


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{words[0]}: {error}") from None
    if done.returncode:
        raise Missing(f"{' '.join(words[:3])} failed: {done.stderr.strip().splitlines()[-1:]}")
