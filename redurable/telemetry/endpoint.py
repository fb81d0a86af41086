"""
What a worker's parent serves over HTTP: /metrics for Prometheus, and /health for whoever runs the worker.

    /health/live      503 when the parent itself hangs: restart it. A server that is away is no reason to.
    /health/startup   503 until a process has been ready for work once.
    /health/ready     503 while none is: starting, draining, or cut off from the server; the body says which.
    /health           the same answer

Every answer of /health is JSON: `status` (ok, starting, draining, cut_off, hangs), `why` in words, and the processes.
A process is cut off when its renewals fail, or none has come through for a lease. The page and the probes never wait
for the server longer than `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from redurable import events
from redurable.clock import monotonic
from redurable.config import Address
from redurable.errors import ConfigurationError, RedurableError
from redurable.store.depths import Overview, overview
from redurable.store.store import Store
from redurable.telemetry import catalogue as c
from redurable.telemetry.metrics import MOST_QUEUES, Page

__all__ = ["PATHS", "PATIENCE", "serving"]

PATIENCE = 0.8  # s; less than the shortest interval at which people scrape
PATHS = ("/metrics", "/health", "/health/live", "/health/ready", "/health/startup")
_FRESH = 0.5  # s for which a look at the server is good enough for other scrapers
_HANGS = 5.0  # s in which a live parent has turned its loop
Answer = tuple[int, dict[str, Any]]


@contextlib.contextmanager
def serving(port: int, lease: float, address: Address, namespace: str, steps: dict[str, list[str]]) -> Iterator[int]:
    """
    Count in this process and those it starts, and serve the sum on *port* (0: a free one); gives the port.

    Args:
        lease: Seconds of ownership without a renewal.
        address, namespace: Where the queues are looked at.
        steps: The queues that are served, each with the steps that are known before they run.

    Raises:
        ConfigurationError: The port cannot be had.
    """
    try:
        server = ThreadingHTTPServer(("", port), BaseHTTPRequestHandler)
    except OSError as error:
        raise ConfigurationError(
            f"metrics cannot be served on port {port}: {error.strerror}", hint="give another --metrics-port, or 0"
        ) from error
    page, health, look = Page(steps), _Health(lease), _Look(address, namespace)
    server.RequestHandlerClass = _handler(page, health, look)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="redurable-metrics", daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        health.close()
        look.close()
        page.close()


# --- health -----------------------------------------------------------------------------------------------------------


class _Health:
    """What the parent's events say, and what its processes say of themselves in their cells."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._loop: asyncio.AbstractEventLoop | None = None  # the parent's, once it has started a process
        self._stopping = False
        self._started = False
        self._ends = [
            events.subscribe(self._on_process, ["process.started"]),
            events.subscribe(self._on_stop, ["worker.stopping"]),
        ]

    def close(self) -> None:
        for end in self._ends:
            end()

    def _on_process(self, _: str, fields: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()

    def _on_stop(self, _: str, fields: dict[str, Any]) -> None:
        self._stopping = True

    def live(self) -> Answer:
        loop = self._loop
        if loop is None or loop.is_closed():
            return 200, {"status": "ok", "why": "it is starting, or has just ended"}
        turned = threading.Event()
        with contextlib.suppress(RuntimeError):  # it was closed just now
            loop.call_soon_threadsafe(turned.set)
            if not turned.wait(_HANGS):
                return 503, {"status": "hangs", "why": f"the parent's event loop has not turned for {_HANGS:g} s"}
        return 200, {"status": "ok", "why": "the parent is at work"}

    def ready(self, page: Page) -> Answer:
        processes = [self._of(process) for process in page.processes()]
        found: dict[str, Any] = {"processes": [{"status": s, "renewed_seconds_ago": ago} for s, ago in processes]}
        states = [status for status, _ in processes]
        self._started = self._started or any(s != "starting" for s in states)
        serving = states.count("ok")
        if self._stopping:
            return 503, {"status": "draining", "why": "it was told to stop and takes nothing more", **found}
        if serving:
            return 200, {"status": "ok", "why": f"{serving} of {len(states)} processes serve", **found}
        if "cut_off" in states:
            why = "no process reaches the server: leases are not renewed"
            return 503, {"status": "cut_off", "why": why, **found}
        if "draining" in states:
            return 503, {"status": "draining", "why": "every process drains", **found}
        return 503, {"status": "starting", "why": "no process has begun to serve yet", **found}

    def startup(self, page: Page) -> Answer:
        _, found = self.ready(page)
        if self._started:
            return 200, {**found, "why": f"a process has served; now: {found['why']}"}
        return 503, found

    def _of(self, said: dict[c.Metric, float]) -> tuple[str, float | None]:
        """Return a process's status, and how long ago it renewed."""
        renewed = said.get(c.RENEWED)
        ago = None if renewed is None else round(max(0.0, time.time() - renewed), 3)
        if not said.get(c.STARTED):
            return "starting", ago
        if said.get(c.DRAINING):
            return "draining", ago
        return "cut_off" if said.get(c.FAILING) or ago is None or ago > self._lease else "ok", ago


# --- the server's side ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Look:
    """Looks at the queues, from a thread with a loop and a connection of its own, begun when first asked for."""

    address: Address
    namespace: str
    _loop: asyncio.AbstractEventLoop | None = None
    _store: Store | None = None
    _seen: Overview | None = None
    _seen_at: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def overview(self) -> Overview | None:
        """Return what there is to do; None when the server does not say so in time."""
        with self._lock:
            if monotonic() - self._seen_at > _FRESH:
                asked = asyncio.run_coroutine_threadsafe(self._ask(), self._running())
                try:
                    self._seen = asked.result(PATIENCE * 2)
                except (RedurableError, TimeoutError):
                    asked.cancel()
                    self._seen = None
                self._seen_at = monotonic()
            return self._seen

    def close(self) -> None:
        """End the thread."""
        if self._loop is not None:
            store = self._store
            if store is not None:
                with contextlib.suppress(TimeoutError):
                    asyncio.run_coroutine_threadsafe(store.close(), self._loop).result(PATIENCE)
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="redurable-look", daemon=True).start()
        return self._loop

    async def _ask(self) -> Overview:
        async with asyncio.timeout(PATIENCE):
            if self._store is None:
                store = Store(self.address, self.namespace, patience=PATIENCE)
                await store.start()
                self._store = store
            return await overview(self._store, MOST_QUEUES)


# --- HTTP -------------------------------------------------------------------------------------------------------------


def _handler(page: Page, health: _Health, look: _Look) -> type[BaseHTTPRequestHandler]:
    probes: dict[str, Callable[[], Answer]] = {
        "/health": lambda: health.ready(page),
        "/health/ready": lambda: health.ready(page),
        "/health/live": health.live,
        "/health/startup": lambda: health.startup(page),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0  # s that a client may take to say what it wants

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].rstrip("/")
            if path == "/metrics":
                kind, text = page.text(look.overview(), self.headers.get("Accept", ""))
                self._answer(200, kind, text)
            elif path in probes:
                status, facts = probes[path]()
                self._answer(status, "application/json", json.dumps(facts).encode() + b"\n")
            else:
                self._answer(404, "text/plain", f"there are: {', '.join(PATHS)}\n".encode())

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return None  # a probe every few seconds is no news

    return Handler
