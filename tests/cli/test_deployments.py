"""`redurable worker --version` and `redurable deployments`; every wrong input of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import NAMESPACE, Cli, Running

LISTED = {
    "queue", "version", "current", "promoted", "since", "workers", "intents", "fresh", "oldest", "safe", "why",
}  # fmt: skip
QUEUE = "versioned"


def _rows(cli: Cli) -> dict[str | None, dict[str, Any]]:
    return {row["version"]: row for row in cli("deployments", "--json").json if row["queue"] == QUEUE}


def test_versions_are_listed_promoted_and_told_safe_to_retire(cli: Cli, start_worker: Callable[..., Running]) -> None:
    words = ("tests.cli.app:plain", "--queue", QUEUE)
    first = start_worker(*words, "--version", "v1")
    assert first.wait_for("worker.starting")["version"] == "v1"
    first.wait_for("worker.started")
    one = cli("send", QUEUE, '"a"', "--wait", "--json").json
    info = cli("intents", "get", one["id"], "--json").json
    assert (info["status"], info["version"]) == ("COMPLETED", "v1")
    assert "v1" in cli("intents", "get", one["id"]).out
    second = start_worker(*words, REDURABLE_VERSION="v2")
    second.wait_for("worker.started")
    rows = _rows(cli)
    assert set(rows["v1"]) == LISTED
    assert [(v, r["current"], r["workers"], r["intents"], r["safe"]) for v, r in rows.items()] == [
        ("v2", True, 1, 0, False), ("v1", False, 1, 0, True),
    ]  # fmt: skip
    said = cli("deployments", "promote", QUEUE, "v1", "--json")
    assert said.json == [{"queue": QUEUE, "version": "v1"}]
    assert (_rows(cli)["v1"]["current"], _rows(cli)["v1"]["promoted"]) == (True, True)
    two = cli("send", QUEUE, '"b"', "--wait", "--json").json
    assert cli("intents", "get", two["id"], "--json").json["version"] == "v1"
    assert "the newest version is current" in cli("deployments", "promote", QUEUE, "newest").out
    assert QUEUE in cli("deployments", "promote", "--all", "v2").out
    text = cli("deployments").out
    assert "promoted" in text
    assert "v2" in text
    assert first.stop() == 0
    assert "v1" not in _rows(cli), "it is retired"
    assert {row["version"] for row in cli("deployments", "--all", "--json").json if row["queue"] == QUEUE} == {
        "v1",
        "v2",
    }
    first = start_worker(*words, "--version", "v1")
    first.wait_for("worker.started")
    assert {w["version"] for w in cli("workers", "--json").json if QUEUE in w["queues"]} == {"v1", "v2"}
    assert "v2" in cli("workers").out


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (("deployments", "promote", "nobody", "v1"), "VERSION_NOT_FOUND", 1),
        (("deployments", "promote", "nobody", "newest"), "VERSION_NOT_FOUND", 1),
        (("deployments", "promote", "--all", "v77"), "VERSION_NOT_FOUND", 1),
        (("deployments", "promote", "q", "v 1"), "BAD_VERSION", 2),
        (("deployments", "promote", "a:b", "v1"), "BAD_ARGUMENT", 2),
        (("deployments", "promote", "v1"), "BAD_ARGUMENT", 2),
        (("deployments", "promote", "--all", "q", "v1"), "BAD_ARGUMENT", 2),
        (("worker", "tests.cli.app", "--version", "x" * 41), "BAD_VERSION", 2),
        (("worker", "tests.cli.app", "--version", ""), "BAD_VERSION", 2),
        (("worker", "tests.cli.app", "--version", "!solo"), "BAD_VERSION", 2),
    ],
)
def test_wrong_inputs_are_refused(cli: Cli, words: tuple[str, ...], code: str, exit_code: int) -> None:
    said = cli(*words)
    assert (said.code, said.out) == (exit_code, ""), said
    assert f"[{code}]" in said.err


def test_nothing_versioned_is_said_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDURABLE_NAMESPACE", f"{NAMESPACE}-empty")
    assert cli("deployments", "--json").json == []
    assert "no deployment versions" in cli("deployments").err + cli("deployments").out
