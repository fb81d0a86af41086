"""`redurable limits`, and what the others say of an intent that waits for one, on a real worker; every wrong input."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redurable import sync
from tests.cli.conftest import NAMESPACE, Cli, Running


def until(look: Callable[[], Any], what: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + 20
    while not what(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def completed(cli: Cli, intent: str) -> None:
    until(lambda: cli("intents", "get", intent, "--json").json["status"], lambda status: status == "COMPLETED")


def test_limits_say_who_has_a_place_and_who_waits(cli: Cli, worker: Running, tmp_path: Path, redis_url: str) -> None:
    path = tmp_path / "go"

    def send(who: str) -> str:
        return str(cli("send", "narrow", json.dumps({"who": who, "path": str(path)}), "--json").json["id"])

    ids = [send("ann"), send("ann"), send("ann"), send("bob")]

    def listed() -> Any:
        return cli("limits", "narrow", "--json").json

    ann, bob = until(listed, lambda found: [i["waiting"] for i in found] == [2, 0])
    assert ann.pop("oldest_seconds") >= 0
    assert ann == {
        "name": "narrow", "key": "ann", "concurrency": 1, "used": 1, "rate": 1000, "per": 60, "counted": 1,
        "waiting": 2,
    }  # fmt: skip
    assert (bob["key"], bob["used"], bob["waiting"], bob["oldest_seconds"]) == ("bob", 1, 0, None)
    first, second, *_ = cli("limits").out.splitlines()
    assert first.split() == ["LIMIT", "KEY", "USED", "RATE", "WAITING", "OLDEST"]
    assert second.split()[:6] == ["narrow", "ann", "1/1", "1/1000", "in", "1"]
    assert "the first 1 of 2" in cli("limits", "narrow", "-n", "1").err
    with sync.Client(redis_url, namespace=NAMESPACE) as client:
        assert [(i.key, i.waiting) for i in client.limits() if i.name == "narrow"] == [("ann", 2), ("bob", 0)]
    waits = cli("intents", "get", ids[2], "--json").json
    assert (waits["status"], waits["reason"], waits["limit"], waits["attempt"]) == ("WAITING", "LIMIT", "narrow:ann", 0)
    assert "narrow:ann is full" in cli("intents", "get", ids[2]).out
    queue = until(
        lambda: next(q for q in cli("queues", "--json").json if q["name"] == "narrow"), lambda q: q["waiting"]
    )
    assert queue["waiting"] == {"LIMIT": 2}
    assert cli("intents", "cancel", ids[2]).code == 0
    assert cli("intents", "get", ids[2], "--json").json["status"] == "CANCELED"
    path.touch()
    for intent in (ids[0], ids[1], ids[3]):
        completed(cli, intent)
    until(listed, lambda found: [(i["used"], i["waiting"]) for i in found] == [(0, 0), (0, 0)])


def test_an_unknown_limit_is_not_in_use(cli: Cli, worker: Running) -> None:
    said = cli("limits", "nobody")
    assert (said.code, "no limit 'nobody' is in use" in said.out + said.err) == (0, True)
    assert cli("limits", "nobody", "--json").json == []


def test_what_cannot_be_is_refused(cli: Cli) -> None:
    for words in (["-n", "0"], ["-n", "many"], ["a", "b"], ["--what"]):
        assert cli("limits", *words).code == 2, words


def test_an_exported_one_asks_anew_where_it_is_imported(cli: Cli, worker: Running, tmp_path: Path) -> None:
    path, out = tmp_path / "go", tmp_path / "out.jsonl"
    payload = json.dumps({"who": "eve", "path": str(path)})
    first = cli("send", "narrow", payload, "--json").json["id"]
    until(lambda: cli("intents", "get", first, "--json").json["status"], lambda s: s == "IN_PROGRESS")
    second = cli("send", "narrow", payload, "--json").json["id"]
    until(lambda: cli("intents", "get", second, "--json").json["reason"], lambda r: r == "LIMIT")
    said = cli("intents", "export", second)
    assert said.code == 0
    out.write_text(said.out)
    assert cli("intents", "kill", second).code == 0
    assert cli("intents", "delete", second).code == 0
    assert cli("intents", "import", str(out)).code == 0
    path.touch()
    for intent in (first, second):
        completed(cli, intent)
