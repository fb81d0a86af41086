"""`redurable sessions` and `redurable send --key`, on a real worker; every wrong input of each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redurable import sync
from tests.cli.conftest import NAMESPACE, Cli, Running

LISTED = {"queue", "key", "holder", "status", "reason", "waiting", "oldest_seconds", "names", "bytes"}


@pytest.fixture
def client(redis_url: str) -> Iterator[sync.Client]:
    """A client on the worker's namespace."""
    with sync.Client(redis_url, namespace=NAMESPACE) as client:
        yield client


def sent(cli: Cli, queue: str, payload: str, key: str, *words: str) -> str:
    return str(cli("send", queue, payload, "--key", key, "--json", *words).json["id"])


def until(cli: Cli, intent: str, *statuses: str) -> dict[str, Any]:
    """Return what is known of *intent* once it has one of *statuses*."""
    end = time.monotonic() + 20
    while (info := cli("intents", "get", intent, "--json").json)["status"] not in statuses:
        assert time.monotonic() < end, info
        time.sleep(0.02)
    return dict(info)


def refused(said: Any, code: str, *words: str, exit_code: int = 1) -> None:
    assert (said.code, said.out) == (exit_code, ""), said
    assert f"[{code}]" in said.err
    for word in words:
        assert word in said.err


def test_a_session_is_listed_with_its_holder_and_its_line(cli: Cli, worker: Running) -> None:
    ids = [sent(cli, "nap", "60", "listed") for _ in range(3)]
    until(cli, ids[0], "WAITING")
    (found,) = [s for s in cli("sessions", "list", "-q", "nap", "--json").json if s["key"] == "listed"]
    assert set(found) == LISTED
    assert (found["holder"], found["status"], found["reason"], found["waiting"]) == (ids[0], "WAITING", "TIME", 2)
    assert 0 <= found["oldest_seconds"] < 60
    one = cli("sessions", "get", "nap", "listed", "--json").json
    assert set(one) == LISTED | {"line", "state"}
    assert (one["line"], one["state"]) == (ids[1:], [])
    text = cli("sessions", "list").out
    assert "listed" in text
    assert "WAITING (TIME)" in text
    assert ids[2] in cli("sessions", "get", "nap", "listed").out
    assert cli("intents", "get", ids[1], "--json").json["session"] == "listed"
    assert "CREATED (behind its session)" in cli("intents", "get", ids[1]).out
    assert len(cli("sessions", "list", "--limit", "1", "--json").json) == 1
    for intent in reversed(ids):
        cli("intents", "cancel", intent)


def test_a_head_that_waits_is_skipped_and_can_be_retried(cli: Cli, worker: Running) -> None:
    head = sent(cli, "nap", "60", "skipped")
    following = sent(cli, "nap", "0", "skipped")
    until(cli, head, "WAITING")
    said = cli("sessions", "skip", "nap", "skipped", "--note", "enough", "--json")
    assert said.json == {"id": head, "answer": "FAILED"}
    info = until(cli, head, "FAILED")
    assert (info["error"]["code"], info["error"]["message"]) == ("SESSION_SKIPPED", "enough")
    until(cli, following, "COMPLETED")
    assert cli("sessions", "retry", "nap", "skipped", "--json").json == {"id": head, "answer": "RETRIED"}
    until(cli, head, "WAITING")
    assert cli("sessions", "cancel", "nap", "skipped").out == f"{head}  REQUESTED\n"
    until(cli, head, "CANCELED")


def test_a_failed_one_is_retried(cli: Cli, worker: Running, tmp_path: Path) -> None:
    path = tmp_path / "missing"
    intent = sent(cli, "fragile", f'"{path}"', "mended")
    until(cli, intent, "FAILED")
    refused(cli("sessions", "get", "fragile", "mended"), "SESSION_NOT_FOUND", intent, "sessions retry fragile mended")
    path.touch()
    assert cli("sessions", "retry", "fragile", "mended").out == f"{intent}  RETRIED\n"
    until(cli, intent, "COMPLETED")


def test_a_state_is_shown_where_it_is_asked_for(cli: Cli, client: sync.Client) -> None:
    client.state("nap", "kept").set("cart", {"tea": 2})
    assert client.state("nap", "kept").get("cart") == {"tea": 2}
    assert cli("sessions", "get", "nap", "kept", "--json").json["state"] == ["cart"]
    assert cli("sessions", "get", "nap", "kept", "--json", "--values").json["state"] == {"cart": {"tea": 2}}
    assert "tea" not in cli("sessions", "get", "nap", "kept").out
    assert "tea" in cli("sessions", "get", "nap", "kept", "--values").out
    (found,) = [s for s in client.sessions.list(queue="nap") if s.key == "kept"]
    assert (found.holder, found.names, found.bytes > 0) == (None, 1, True)
    client.state("nap", "kept").delete("cart")
    refused(cli("sessions", "get", "nap", "kept"), "SESSION_NOT_FOUND")


@pytest.mark.parametrize("verb", ["get", "skip", "cancel", "retry"])
def test_what_is_not_there_or_cannot_be(cli: Cli, verb: str) -> None:
    refused(cli("sessions", verb, "nap", "nobody"), "SESSION_NOT_FOUND", "'nobody'")
    refused(cli("sessions", verb, "a queue", "k"), "BAD_ARGUMENT", "'a queue'", exit_code=2)
    refused(cli("sessions", verb, "nap", "x" * 300), "BAD_ARGUMENT", "256", exit_code=2)
    for words in ((), ("nap",), ("nap", "k", "more"), ("nap", "k", "--nonsense")):
        assert cli("sessions", verb, *words).code == 2


@pytest.mark.parametrize("words", [("--limit", "0"), ("--limit", "x"), ("--nonsense",), ("more",)])
def test_a_list_that_cannot_be(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("sessions", "list", *words).code == 2


def test_a_list_of_a_queue_that_cannot_be(cli: Cli) -> None:
    refused(cli("sessions", "list", "-q", "a b"), "BAD_ARGUMENT", exit_code=2)


def test_a_head_that_runs_is_not_skipped(cli: Cli, client: sync.Client) -> None:
    head = sent(cli, "unserved", "1", "runs")
    assert cli("sessions", "skip", "unserved", "runs", "--json").json["id"] == head
    refused(cli("sessions", "skip", "unserved", "runs"), "SESSION_NOT_FOUND")
    other = sent(cli, "unserved", "1", "never")
    assert cli("sessions", "cancel", "unserved", "never", "--json").json == {"id": other, "answer": "CANCELED"}
    holder = sent(cli, "unserved", "1", "quiet")
    refused(cli("sessions", "retry", "unserved", "quiet"), "WRONG_STATE", "none that failed")
    cli("intents", "cancel", holder)


def test_send_says_what_a_busy_session_answers(cli: Cli) -> None:
    first = sent(cli, "unserved", "1", "busy")
    refused(
        cli("send", "unserved", "2", "--key", "busy", "--on-busy", "reject"),
        "SESSION_BUSY",
        "--on-busy queue",
        exit_code=1,
    )
    refused(
        cli("send", "unserved", "2", "--key", "busy", "--max-queued", "0"), "SESSION_FULL", "--max-queued", exit_code=1
    )
    refused(
        cli("send", "unserved", "2", "--key", "busy", "--on-busy", "hope"),
        "BAD_ARGUMENT",
        "--on-busy is one of queue, reject",
        exit_code=2,
    )
    refused(cli("send", "unserved", "2", "--on-busy", "reject"), "BAD_ARGUMENT", "--key", exit_code=2)
    refused(cli("send", "unserved", "2", "--key", ""), "BAD_ARGUMENT", exit_code=2)
    assert cli("send", "unserved", "2", "--key", "busy", "--max-queued", "-1").code == 2
    second = sent(cli, "unserved", "2", "busy", "--on-busy", "interrupt")
    assert until(cli, first, "CANCELED")["error"]["message"] == f"interrupted by {second}"
    cli("intents", "cancel", second)
