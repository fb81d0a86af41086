"""The quick start by the command line alone: send; work and stop in the middle; look; work again, completed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PARTS = 100
APP = """
import asyncio
import os
from redurable import step

@step
async def part(n: int) -> int:
    with open("ledger", "a") as ledger:
        ledger.write(f"{n}\\n")
    await asyncio.sleep(0 if os.path.exists("go") else 0.1)
    return n

async def handler(payload: dict) -> int:
    return sum([await part(n) for n in range(payload["parts"])])
"""


class Terminal:
    """A project directory and the commands given in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        kept = {k: v for k, v in os.environ.items() if not k.startswith("REDURABLE_") and k != "REDIS_URL"}
        self.environment = kept

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "redurable", *words], cwd=self.directory, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def give(self, *words: str) -> str:
        """Run a command and return its stdout."""
        process = self.begin(*words)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    def intent(self, intent: str) -> Any:
        """Return what `intents get` knows."""
        return json.loads(self.give("intents", "get", intent, "--json"))

    def ledger(self) -> list[int]:
        """Return the parts whose body began, in order."""
        path = self.directory / "ledger"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "myapp.py").write_text(APP)
    terminal = Terminal(tmp_path)
    terminal.give("dev")
    yield terminal
    terminal.give("dev", "--stop")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_a_stopped_workers_intent_carries_on_where_it_was(terminal: Terminal, end: signal.Signals) -> None:
    intent = terminal.give("send", "myapp.handler", json.dumps({"parts": PARTS})).strip()
    assert terminal.intent(intent)["status"] == "SUBMITTED"

    first = terminal.begin("worker", "myapp:handler")
    until = time.monotonic() + 60
    while len(terminal.ledger()) < 5:
        assert time.monotonic() < until
        time.sleep(0.01)
    first.send_signal(end)
    first.communicate(timeout=60)
    if end == signal.SIGINT:
        assert first.returncode == 0
        assert terminal.intent(intent)["status"] == "SUBMITTED"

    (terminal.directory / "go").touch()  # so slow that the first could not have come to the end; no more of that
    second = terminal.begin("worker", "myapp:handler")
    terminal.give("intents", "watch", intent)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=60)

    info = terminal.intent(intent)
    assert (info["status"], info["attempt"]) == ("COMPLETED", 2)
    ledger = terminal.ledger()
    # a clean stop lets the step in flight end: no body runs twice; killed in it, that one and no other
    assert sorted(set(ledger)) == list(range(PARTS))
    assert len(ledger) <= (PARTS if end == signal.SIGINT else PARTS + 1)
