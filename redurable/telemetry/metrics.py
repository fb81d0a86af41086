"""
Counters of what the engine tells, and where they are read: /metrics and /health.

Every process counts into files of one directory (prometheus_client's multi-process mode), and the parent alone serves
their sum, so that what a killed process counted is kept. /health answers 200 while some process keeps renewing its
leases, which takes a live server and a live worker; 503 before the first renewal and once they stay away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from redurable import events
from redurable.errors import ConfigurationError

__all__ = ["count", "serving"]

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_RENEWED = "redurable_last_renewal_timestamp_seconds"
_NOTHING_TAKEN = ("ALIVE", "GONE", "STALE")


def count() -> Callable[[], None]:
    """Count events from now on; return a function that ends it."""
    from prometheus_client import Counter, Gauge

    attempts = Counter("redurable_attempts", "Attempts ended, by how they ended.", ["queue", "ended"])
    steps = Counter("redurable_step_failures", "Step bodies that raised; retried or not.", ["retried"])
    recovered = Counter("redurable_recoveries", "Intents taken from a lost owner, by what noticed it.", ["by"])
    fenced = Counter("redurable_fenced_attempts", "Attempts that lost their intent to another worker.")
    renewals = Counter("redurable_renewals", "Renewals of a process's leases.", ["result"])
    renewed = Gauge(_RENEWED, "When leases were last renewed.", multiprocess_mode="max")

    def counted(name: str, given: dict[str, Any]) -> None:
        if name == "attempt.ended":
            attempts.labels(given["queue"], given["ended"]).inc()
        elif name == "step.failed":
            steps.labels("no" if given["retry_in"] is None else "yes").inc()
        elif name == "worker.lost":
            taken = (n for word, n in given["taken"].items() if word not in _NOTHING_TAKEN)
            recovered.labels(given["by"]).inc(sum(taken))
        elif name == "lease.overdue" and given["word"] not in _NOTHING_TAKEN:
            recovered.labels("lease").inc()
        elif name == "attempt.fenced":
            fenced.inc()
        elif name == "leases.renewed":
            renewals.labels("ok").inc()
            renewed.set(time.time())
        elif name == "renewal.failed":
            renewals.labels("failed").inc()

    return events.subscribe(counted, [
        "attempt.ended", "attempt.fenced", "lease.overdue", "leases.renewed", "renewal.failed", "step.failed",
        "worker.lost",
    ])  # fmt: skip


@contextlib.contextmanager
def serving(port: int, lease: float) -> Iterator[int]:
    """
    Count in this process and those it spawns, and serve the sum on *port* (0: a free one); gives the port.

    Raises:
        ConfigurationError: The port cannot be had.
    """
    try:
        server = ThreadingHTTPServer(("", port), _handler(lease))
    except OSError as error:
        raise ConfigurationError(
            f"metrics cannot be served on port {port}: {error.strerror}", hint="give another --metrics-port, or 0"
        ) from error
    # it has to be set before prometheus_client is imported, here and in the processes that inherit it
    given = os.environ.get(_DIRECTORY)
    directory = given or tempfile.mkdtemp(prefix="redurable-metrics-")
    os.environ[_DIRECTORY] = directory
    end = count()
    threading.Thread(target=server.serve_forever, name="redurable-metrics", daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        end()
        server.shutdown()
        server.server_close()
        if given is None:
            os.environ.pop(_DIRECTORY, None)
            shutil.rmtree(directory, ignore_errors=True)


def _handler(lease: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(_registry()))
            elif path == "/health":
                status, facts = _health(lease)
                self._answer(status, "application/json", json.dumps(facts).encode() + b"\n")
            else:
                self._answer(404, "text/plain", b"/metrics or /health\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return None  # a probe every few seconds is no news

    return Handler


def _registry() -> Any:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has not typed it
    return registry


def _health(lease: float) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the facts of /health."""
    renewed = _registry().get_sample_value(_RENEWED)
    if renewed is None:
        return 503, {"status": "starting", "renewed_seconds_ago": None}
    ago = max(0.0, time.time() - renewed)
    healthy = ago <= lease
    return 200 if healthy else 503, {"status": "ok" if healthy else "unhealthy", "renewed_seconds_ago": round(ago, 3)}
