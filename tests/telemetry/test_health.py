"""Health probes of real workers: starting, serving, draining, cut off from the server, hanging."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from redurable import events
from redurable.store.private import PrivateServer
from redurable.sync import Client
from redurable.telemetry import endpoint
from tests.telemetry.conftest import Served, until

pytestmark = pytest.mark.crash


def test_while_starting_only_live_is_well(serve: Callable[..., Served], tmp_path: Path) -> None:
    worker = serve(app="tests.telemetry.late")
    until(lambda: worker.children())
    assert worker.probe("/health/live") == (200, "ok")
    assert worker.probe("/health/startup") == (503, "starting")
    assert worker.probe("/health/ready") == worker.probe("/health") == (503, "starting")
    (tmp_path / "ready").touch()
    until(lambda: worker.probe("/health/ready") == (200, "ok"))
    code, body = worker.get("/health/ready")
    said = json.loads(body)
    assert (code, said["why"], len(said["processes"])) == (200, "1 of 1 processes serve", 1)
    assert said["processes"][0]["renewed_seconds_ago"] < 10
    assert worker.probe("/health/startup") == (200, "ok")


def test_while_draining_nothing_is_sent_here_any_more(
    serve: Callable[..., Served], tmp_path: Path, redis_url: str, namespace: str
) -> None:
    worker = serve()
    worker.started()
    with Client(redis_url, namespace=namespace) as client:
        intent = client.send("slow", "gate")
        until(lambda: "held slow gate" in _ledger(tmp_path))
        worker.process.send_signal(signal.SIGTERM)
        until(lambda: worker.probe("/health/ready") == (503, "draining"))
        assert worker.probe("/health/live") == (200, "ok")
        assert worker.probe("/health/startup") == (200, "draining")
        assert worker.value("redurable_processes_serving") == 0
        (tmp_path / "gate").touch()
        assert worker.process.wait(60) == 0
        assert client.get(intent).entries == 1, "the step in flight was recorded"


def test_cut_off_from_the_server_it_lives_and_is_not_ready(serve: Callable[..., Served], namespace: str) -> None:
    with PrivateServer() as server:
        worker = serve(url=server.url)
        until(lambda: worker.probe("/health/ready") == (200, "ok"))
        server.kill()
        until(lambda: worker.probe("/health/ready") == (503, "cut_off"))
        assert "renewed" in json.loads(worker.get("/health/ready")[1])["why"]
        assert worker.probe("/health/live") == (200, "ok")
        assert worker.probe("/health/startup") == (200, "cut_off")
        assert worker.value("redurable_store_up") == 0
        until(lambda: worker.value("redurable_renewals_total", result="failed") > 0)
        server.start()
        until(lambda: worker.probe("/health/ready") == (200, "ok"), 60)
        until(lambda: worker.value("redurable_store_up") == 1)


def test_a_server_that_answers_nothing_is_no_server_and_the_page_comes_all_the_same(
    serve: Callable[..., Served], namespace: str
) -> None:
    with PrivateServer() as server:
        worker = serve("--lease", "2", url=server.url)
        until(lambda: worker.probe("/health/ready") == (200, "ok"))
        server.freeze()
        try:
            until(lambda: worker.probe("/health/ready") == (503, "cut_off"), 60)
            assert worker.value("redurable_store_up") == 0
            assert worker.value("redurable_capacity") == 100
        finally:
            server.thaw()
        until(lambda: worker.probe("/health/ready") == (200, "ok"), 60)


def test_a_parent_whose_loop_hangs_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_HANGS", 0.2)
    health = endpoint._Health(10.0)
    asked, may_go_on = threading.Event(), threading.Event()

    async def parent() -> None:
        events.emit("process.started", worker="w", pid=1)
        await asyncio.sleep(0.05)
        asked.set()
        may_go_on.wait(20)  # holds up the loop on purpose
        await asyncio.sleep(0.5)

    assert health.live()[0] == 200
    thread = threading.Thread(target=asyncio.run, args=(parent(),))
    thread.start()
    asked.wait(20)
    code, said = health.live()
    assert (code, said["status"]) == (503, "hangs")
    may_go_on.set()
    assert until(lambda: health.live()[0] == 200)
    thread.join()
    assert health.live()[0] == 200, "it has ended, which is no hanging"
    health.close()


def _ledger(room: Path) -> list[str]:
    path = room / "ledger"
    return path.read_text().splitlines() if path.exists() else []
