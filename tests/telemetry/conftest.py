"""A `redurable worker` with an endpoint, and what its endpoint says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
Labels = dict[str, str]


def until(look: Callable[[], Any], within: float = 60.0, every: float = 0.05) -> Any:
    """Return what *look* gives once it is true."""
    end = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < end, f"not within {within:g} s"
        time.sleep(every)
    return found


class Served:
    """A worker process and its endpoint."""

    def __init__(self, home: Path, url: str, namespace: str, *words: str, app: str = "tests.telemetry.bakery") -> None:
        self.log = home / f"worker-{time.monotonic_ns()}.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("REDURABLE_")}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "redurable", "worker", app, "--url", url, "--namespace", namespace,
                 "--metrics-port", "0", "--log-format", "json", *words],
                env=kept | {"PYTHONPATH": str(ROOT), "TELEMETRY_ROOM": str(home)}, cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self.port: int = until(lambda: self.events("metrics.serving"))[0]["port"]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        assert self.process.poll() is None or name != "metrics.serving", self.log.read_text()
        lines = (line for line in self.log.read_text().splitlines() if line.endswith("}"))
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def started(self, count: int = 1) -> list[int]:
        """Return the pids of the processes once *count* have begun to serve."""
        until(lambda: self.process.poll() is not None or len(self.events("worker.started")) >= count)
        found = [int(line["worker"].split(".")[1]) for line in self.events("worker.started")]
        assert len(found) >= count, self.log.read_text()
        return found

    def get(self, path: str, accept: str = "") -> tuple[int, str]:
        """Return status and body."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def probe(self, path: str) -> tuple[int, str]:
        """Return the status of a probe and the word of its body."""
        code, body = self.get(path)
        return code, json.loads(body)["status"]

    def samples(self) -> dict[str, list[tuple[Labels, float]]]:
        """Return the samples of /metrics by name."""
        found: dict[str, list[tuple[Labels, float]]] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of *name* with *labels*."""
        return sum(v for found, v in self.samples().get(name, []) if labels.items() <= found.items())

    def children(self) -> list[int]:
        """Return the pids of its processes."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def stop(self) -> int:
        """Drain it and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


@pytest.fixture
def serve(tmp_path: Path, redis_url: str, namespace: str) -> Iterator[Callable[..., Served]]:
    """Start workers that the test's end stops."""
    running: list[Served] = []

    def start(*words: str, url: str = redis_url, app: str = "tests.telemetry.bakery") -> Served:
        running.append(Served(tmp_path, url, namespace, *words, app=app))
        return running[-1]

    yield start
    for worker in running:
        if worker.process.poll() is None:
            worker.process.terminate()
    for worker in running:
        try:
            worker.process.wait(60)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
