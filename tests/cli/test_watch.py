"""`redurable intents watch` and `get` on an intent that tells events and progress."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from tests.cli.conftest import ROOT, Cli, Running


def waiting(cli: Cli) -> str:
    """Send one, and return its id once it waits."""
    intent: str = cli("send", "telling", "3", "--json").json["id"]
    while cli("intents", "get", intent, "--json").json["status"] != "WAITING":
        pass
    return intent


def test_watch_tells_events_and_progress_and_goes_on_from_any_place(cli: Cli, worker: Running) -> None:
    intent = waiting(cli)
    assert cli("intents", "resolve", intent, "go on", '"yes"').code == 0
    said = cli("intents", "watch", intent, "--json")
    assert said.code == 0
    lines = said.lines[:-1]
    events = [line for line in lines if line["kind"] == "event"]
    assert [(e["seq"], e["step"], e["offset"], e["value"]) for e in events] == [
        (n + 1, "tell#1", n, {"told": n}) for n in range(3)
    ]
    (progress,) = [line["value"] for line in lines if line["kind"] == "progress"]
    assert progress == {"done": 2, "total": 4, "note": "half way"}
    for n, line in enumerate(lines):
        rest = cli("intents", "watch", intent, "--json", "--since", line["place"]).lines
        kept = [line for line in rest[:-1] if line["kind"] != "progress"]
        after = [line for line in lines[n + 1 :] if line["kind"] != "progress"]
        assert [(o["kind"], o["seq"]) for o in kept] == [(o["kind"], o["seq"]) for o in after]
    text = cli("intents", "watch", intent).out
    assert 'tell#1[0]  {"told":0}' in text
    assert "2/4 (50%) half way" in text


def test_a_watch_that_is_interrupted_says_how_to_go_on(cli: Cli, redis_url: str, worker: Running) -> None:
    intent = waiting(cli)
    words = ["intents", "watch", intent, "--json", "--url", redis_url, "--namespace", "cli"]
    process = subprocess.Popen(
        [sys.executable, "-m", "redurable", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    last = {"kind": ""}
    while last["kind"] != "progress":
        last = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"to go on: redurable intents watch {intent} --since {last['place']}" in err.replace("\n", " ")
    assert cli("intents", "resolve", intent, "go on", '"yes"').code == 0
    rest = cli("intents", "watch", intent, "--json", "--since", last["place"]).lines
    assert not [line for line in rest if line.get("kind") in ("event", "progress")], "they were told before"


def test_get_and_list_show_the_progress(cli: Cli, worker: Running) -> None:
    intent = waiting(cli)
    found = cli("intents", "get", intent, "--json").json
    assert found["progress"] == {"done": 2, "total": 4, "note": "half way"}
    assert "2/4 (50%) half way" in cli("intents", "get", intent).out
    assert "2/4" in cli("intents", "list", "-q", "telling").out
    assert cli("intents", "kill", intent).code == 0


def test_a_place_that_is_none_is_wrong_usage(cli: Cli, worker: Running) -> None:
    intent = waiting(cli)
    for since in ("-1", "x", "1-2-3-4", ""):
        said = cli("intents", "watch", intent, f"--since={since}")
        assert said.code == 2, since
        assert "is no place" in said.err
    assert cli("intents", "kill", intent).code == 0


def test_the_help_teaches_places(cli: Cli) -> None:
    said = cli("intents", "watch", "--help").out
    assert "--since" in said
    assert "--since 12-40" in " ".join(said.split())
