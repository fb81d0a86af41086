"""A worker on the apps of these tests, and two ways to give commands: in this process, and as the user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from redurable.cli import main
from redurable.store.server import PrivateServer

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "cli"


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document of stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The documents of stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Said]


@pytest.fixture
def alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Give a command in this process, with no server but the one its words name."""

    def give(*words: str) -> Said:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["redurable", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return give


@pytest.fixture
def cli(alone: Cli, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Cli:
    """Give a command in this process, to the session's server."""
    monkeypatch.setenv("REDURABLE_URL", redis_url)
    monkeypatch.setenv("REDURABLE_NAMESPACE", NAMESPACE)
    return alone


@pytest.fixture
def shell(redis_url: str) -> Cli:
    """Give a command as the user does, in a process of its own."""

    def give(*words: str, stdin: str = "", **environment: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "redurable", *words], env=_environment(redis_url) | environment,
            input=stdin, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    return give


def _environment(url: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("REDURABLE_") and k != "REDIS_URL"}
    return kept | {"REDURABLE_URL": url, "REDURABLE_NAMESPACE": NAMESPACE, "PYTHONPATH": str(ROOT)}


class Running:
    """A `redurable worker` process and the lines it has logged."""

    def __init__(self, log: Path, environment: dict[str, str], *words: str) -> None:
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "redurable", "worker", *words],
                env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The JSON lines so far, or those of one event."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in found if event is None or line["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """Return the last of *count* lines of *event* once they are there."""
        end = time.monotonic() + 60
        while len(found := self.lines(event)) < count:
            assert self.process.poll() is None or self.lines(event), self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return found[-1]

    def stop(self) -> int:
        """Drain it and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


@pytest.fixture
def start_worker(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Running]]:
    """Start workers that the test's end stops."""
    running: list[Running] = []

    def start(*words: str, **environment: str) -> Running:
        log = tmp_path / f"worker{len(running)}.log"
        running.append(Running(log, _environment(redis_url) | environment, *words))
        return running[-1]

    yield start
    for worker in running:
        worker.stop()


@pytest.fixture(scope="module")
def worker(server: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker on every handler of tests.cli.app, for the module."""
    log = tmp_path_factory.mktemp("worker") / "log"
    running = Running(log, _environment(server.url), "tests.cli.app", "--metrics-port", "0")
    running.wait_for("worker.started")
    yield running
    assert running.stop() == 0
