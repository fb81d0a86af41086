"""Log lines: intent, attempt and step on what user code says, silence while replaying, one line for each event."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from redurable import events
from redurable.errors import ConfigurationError, StoreUnavailable
from redurable.store.server import PrivateServer
from redurable.telemetry import logs
from tests.cli.conftest import ROOT, Cli, Running


@pytest.fixture
def stream() -> Iterator[Callable[..., list[Any]]]:
    """Start logging into a buffer; the call gives the lines so far (JSON ones parsed)."""
    buffer = io.StringIO()
    ends: list[Callable[[], None]] = []

    def read(format: str | None = None, level: str | None = None) -> list[Any]:
        if format is not None:
            ends.append(logs.start(format, level=level, stream=buffer))
        lines = buffer.getvalue().splitlines()
        return [json.loads(line) if line.startswith("{") else line for line in lines]

    yield read
    for end in ends:
        end()


# --- a worker's lines -------------------------------------------------------------------------------------------------


def test_lines_of_user_code_name_intent_attempt_and_step(cli: Cli, worker: Running) -> None:
    intent = cli("send", "sum", "[1, 2]", "--wait", "--timeout", "60", "--json").json["id"]
    mine = [line for line in worker.lines() if line.get("intent") == intent]
    assert [(line["event"], line.get("step"), line["attempt"]) for line in mine] == [
        ("begin", None, 1), ("doubling", "double#1/double#1", 1), ("doubling", "double#2/double#1", 1),
        ("added", None, 1),
    ]  # fmt: skip
    assert all(line["logger"] == "tests.app" for line in mine)
    assert mine[-1]["count"] == 2


def test_a_replay_is_silent(cli: Cli, worker: Running) -> None:
    """The nap is long enough to be put down; the second attempt says only what is new."""
    intent = cli("send", "nap", "1.2", "--wait", "--timeout", "60", "--json").json["id"]
    mine = [line for line in worker.lines() if line.get("intent") == intent]
    assert [(line["event"], line["attempt"]) for line in mine] == [
        ("before the nap", 1), ("doubling", 1), ("still before the nap", 1), ("after the nap", 2),
    ]  # fmt: skip


def test_a_failure_is_told_with_its_place_but_no_values(cli: Cli, worker: Running) -> None:
    intent = cli("send", "fragile", '"/nowhere/x"', "--wait", "--timeout", "60", "--json").json["id"]
    mine = {line["event"]: line for line in worker.lines() if line.get("intent") == intent}
    assert mine["step.failed"]["level"] == mine["handler.failed"]["level"] == "error"
    assert mine["step.failed"]["step"] == "fragile#1"
    assert "tests/cli/app.py" in mine["step.failed"]["exception"]
    assert "exception" not in mine["handler.failed"]
    assert "[STEP_FAILED]" in mine["handler.failed"]["error"]
    assert "/nowhere" not in json.dumps(mine)


def test_what_comes_at_the_rate_of_the_work_is_debug(cli: Cli, start_worker: Callable[..., Running]) -> None:
    quiet, loud = start_worker("tests.cli.app:plain", "-q", "quiet"), start_worker(
        "tests.cli.app:plain", "-q", "loud", REDURABLE_LOG_LEVEL="debug"
    )  # fmt: skip
    for queue in ("quiet", "loud"):
        assert cli("send", queue, "1", "--wait", "--timeout", "60").out == "1\n"
    assert loud.wait_for("attempt.ended")["ended"] == "COMPLETED"
    assert quiet.lines("attempt.ended") == []


def test_a_worker_says_that_it_drains_and_ends(start_worker: Callable[..., Running]) -> None:
    worker = start_worker("tests.cli.app:plain", "--queue", "drained")
    started = worker.wait_for("worker.started")
    assert started["queues"] == ["drained"]
    assert worker.stop() == 0
    assert [line["event"] for line in worker.lines()][-2:] == ["worker.draining", "worker.stopped"]


def test_no_line_holds_a_payload_a_result_or_a_password(
    cli: Cli, start_worker: Callable[..., Running], server: PrivateServer
) -> None:
    """All that can be told is told, of runs that end well and badly, and of a server that refuses the password."""
    secret, password = "tip-top-secret-4111", "open-sesame"
    admin = redis.Redis.from_url(server.url)
    admin.execute_command("ACL", "SETUSER", "of-logs", "on", f">{password}", "~*", "&*", "+@all")
    try:
        url = server.url.replace("unix://", f"unix://of-logs:{password}@", 1)
        words = ["tests.cli.app", "--url", url, "--log-format", "json", "--namespace", "s"]
        loud = start_worker(*words, REDURABLE_LOG_LEVEL="debug")
        wrong = start_worker("tests.cli.app:plain", "--url", url.replace(password, f"{password}-not"))
        intents = [
            cli("send", queue, json.dumps(payload), "--json", "--namespace", "s").json["id"]
            for queue, payload in (
                ("charge", {"secret": secret, "card": "visa"}), ("charge", {"secret": "x", "card": secret}),
                ("charge", {"secret": secret}), ("sum", [secret]), ("nap", secret),
            )
        ]  # fmt: skip
        for intent in intents:
            while cli("intents", "get", intent, "--json", "--namespace", "s").json["status"] != "FAILED":
                time.sleep(0.02)
        assert wrong.process.wait(20) != 0
        assert loud.stop() == 0
    finally:
        admin.execute_command("ACL", "DELUSER", "of-logs")
        admin.close()
    told = loud.log.read_text() + wrong.log.read_text()
    assert {line["intent"] for line in loud.lines("handler.failed")} == set(intents)
    assert "the bank is away" in told
    assert "none of the values allowed [TYPE_MISMATCH]" in told
    assert secret not in told
    assert password not in told
    # and all that is said of an intent says which attempt it is, and in a step which step
    of_intents = [line for line in loud.lines() if "intent" in line]
    assert [line for line in of_intents if "attempt" not in line] == []
    assert [line for line in of_intents if line["event"].startswith("step.") and "#" not in line["step"]] == []
    assert {"step.started", "step.failed", "attempt.started", "attempt.ended"} <= {line["event"] for line in of_intents}


def test_on_a_terminal_lines_are_for_people(cli: Cli, redis_url: str) -> None:
    ours, theirs = os.openpty()
    environment = os.environ | {"REDURABLE_URL": redis_url, "REDURABLE_NAMESPACE": "tty", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "redurable", "worker", "tests.cli.app:plain"]
    process = subprocess.Popen(command, env=environment, stderr=theirs, stdout=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    said = ""
    try:
        while "worker.started" not in said:
            said += os.read(ours, 4096).decode()
    finally:
        process.terminate()
        process.wait(20)
        os.close(ours)
    assert "{" not in said.split("worker.started")[1]
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3}", said)
    assert "\x1b[" in said


def test_a_forgotten_await_is_told_with_its_intent_and_place(cli: Cli, worker: Running) -> None:
    intent = cli("send", "forgetful", "1", "--wait", "--timeout", "60", "--json").json["id"]
    line = worker.wait_for("coroutine.not_awaited")
    assert (line["name"], line["intent"], line["attempt"], line["level"]) == ("double", intent, 1, "warning")
    assert "tests/cli/app.py" in line["at"]
    assert line["hint"] == "it did not run: await double(...)"


# --- the subscriber ---------------------------------------------------------------------------------------------------


def test_every_event_of_the_package_has_a_level() -> None:
    source = "".join(path.read_text() for path in (ROOT / "redurable").rglob("*.py") if "telemetry" not in path.parts)
    emitted = set(re.findall(r"""\bemit\(\s*["']([a-z_.]+)["']""", source)) - {"step.recorded"}  # a docstring's
    assert emitted == set(logs.LEVELS)


def test_json_lines_begin_with_what_every_line_has(stream: Callable[..., list[Any]]) -> None:
    stream("json")
    events.emit("worker.draining", worker="w", running=2)
    (line,) = stream()
    assert list(line) == ["timestamp", "level", "logger", "event", "worker", "running"]
    assert (line["level"], line["event"], line["running"]) == ("info", "worker.draining", 2)


def test_console_lines_are_for_people(stream: Callable[..., list[Any]]) -> None:
    stream("console")
    events.emit("store.unreachable", error="gone")
    structlog.get_logger("mine").info("hello", n=1)
    logging.getLogger("other").warning("there %s", "you are")
    first, second, third = stream()
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} .*warning.*store\.unreachable.*error=gone", first)
    assert "hello" in second
    assert "n=1" in second
    assert "there you are" in third


def test_an_event_that_nobody_logs_is_not_subscribed_to(stream: Callable[..., list[Any]]) -> None:
    stream("json", "warning")
    events.emit("worker.started", worker="w", queues=[], concurrency=1)
    events.emit("step.started", intent="i", step="s", n=1, tries=1)
    assert stream() == []
    events.emit("step.failed", intent="i", step="s", n=1, tries=4, retry_in=None, error=ValueError("x"))
    assert stream()[0]["step"] == "s#1"


def test_a_first_connect_is_no_news_and_a_second_is(stream: Callable[..., list[Any]]) -> None:
    stream("json")
    events.emit("store.connected", connects=1)
    events.emit("store.connected", connects=2)
    assert [line["connects"] for line in stream()] == [2]


def test_an_error_of_ours_is_told_in_words(stream: Callable[..., list[Any]]) -> None:
    stream("json")
    events.emit("loop.failed", worker="w", loop="peers", error=StoreUnavailable("away", hint="wait"))
    (line,) = stream()
    assert line["error"] == "away [STORE_UNAVAILABLE]"
    assert "exception" not in line


def test_ending_restores_the_root_logger() -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    logs.start("json", stream=io.StringIO())()
    assert (root.level, root.handlers) == before


def test_importing_touches_no_logger() -> None:
    code = "import logging, redurable.telemetry.logs; print(logging.getLogger().handlers, logging.getLogger().level)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] 30"


def test_a_program_that_uses_the_library_keeps_its_logging(redis_url: str, namespace: str) -> None:
    """A client that sends and waits, and a worker of the program's own, configure nothing."""
    code = f"""
import asyncio, logging, structlog
from redurable import Client, handler, step
from redurable.config import parse_url
from redurable.runtime.handlers import spec_of
from redurable.worker.worker import Worker

@step
async def body(): ...
@handler(queue="q")
async def work(): await body()

async def main():
    worker = Worker([spec_of(work)], parse_url({redis_url!r}), {namespace!r})
    running = asyncio.create_task(worker.run())
    async with Client({redis_url!r}, namespace={namespace!r}) as client:
        await client.call(work, {{}})
    worker.stop()
    await running

before = dict(logging.Logger.manager.loggerDict)
asyncio.run(main())
root, ours = logging.getLogger(), logging.getLogger("redurable")
print(root.handlers, root.level, ours.handlers, ours.level, ours.propagate, structlog.is_configured())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[] 30 [] 0 True False", "")


def test_what_scripts_answer_is_told_in_words(stream: Callable[..., list[Any]]) -> None:
    stream("json")
    events.emit("worker.lost", worker="w", by="parent", code=-9, taken={"OK": 3, "SUSPECT": 1, "GONE": 2}, ms=1.5)
    events.emit("worker.lost", worker="w", by="peers", taken={})
    events.emit("lease.overdue", worker="w", queue="q", word="ALIVE")
    events.emit("attempt.fenced", intent="i", attempt=2, word="FENCED")
    parent, peers, overdue, fenced = stream()
    assert (parent["recovered"], parent["to_run_alone"], parent["died"]) == (3, 1, "killed by SIGKILL")
    assert peers["recovered"] == 0
    assert overdue["result"] == "its owner lives after all"
    assert fenced["reason"] == "another worker owns it now"
    assert not {"taken", "word", "code"} & {*parent, *peers, *overdue, *fenced}


def test_unknown_formats_and_levels_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="xml"):
        logs.start("xml")
    with pytest.raises(ConfigurationError, match="loud"):
        logs.start("json", level="loud")


def test_the_filter_completes_records_of_a_program_of_ones_own(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log")
    handler.addFilter(logs.IntentFilter())
    handler.setFormatter(logging.Formatter("[%(intent)s%(attempt)s%(step)s] %(message)s"))
    logger = logging.getLogger("of-ones-own")
    logger.addHandler(handler)
    try:
        logger.warning("outside of any intent")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == "[] outside of any intent\n"
