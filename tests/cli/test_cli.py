"""Each command on a real server and a real worker: the table for people, the JSON for machines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from redurable.model import StepDone, encode_entry
from redurable.store.server import PrivateServer
from redurable.sync import Client
from tests.cli.app import SECRET
from tests.cli.conftest import NAMESPACE, ROOT, Cli, Running, Said
from tests.cli.test_errors import refused

INTENT_FIELDS = {
    "id", "queue", "type", "status", "reason", "canceling", "paused", "turn", "held", "long", "priority", "attempt",
    "losses", "worker", "entries", "progress", "step", "changed", "labels", "idempotency_key", "session", "created",
    "start", "version", "forked", "started", "wake", "deadline", "finished", "error", "limit",
}  # fmt: skip
SERVED = {"ask", "charge", "forgetful", "fragile", "mailed", "nap", "narrow", "publish", "sum", "telling"}


def done(cli: Cli, *words: str) -> str:
    """Send and wait; return the id."""
    return str(cli("send", *words, "--wait", "--timeout", "60", "--json").json["id"])


# --- send -------------------------------------------------------------------------------------------------------------


def test_send_prints_the_id_and_nothing_else_on_stdout(cli: Cli, worker: Running) -> None:
    said = cli("send", "sum", "[1, 2]")
    assert said.code == 0
    assert said.err == ""
    assert cli("intents", "get", said.out.strip(), "--json").json["queue"] == "sum"


def test_send_waits_and_prints_the_result(cli: Cli, worker: Running) -> None:
    said = cli("send", "sum", "[1, 2]", "--wait", "--timeout", "60")
    assert (said.code, said.out) == (0, "6\n")
    said = cli("send", "sum", "[3]", "--wait", "--timeout", "60", "--json")
    assert said.json == {"id": said.json["id"], "status": "COMPLETED", "result": 6}


def test_send_reads_stdin_and_labels_and_options(shell: Cli, cli: Cli, worker: Running) -> None:
    words = ("--label", "team=shop", "-l", "x=1", "--priority", "high", "--deadline", "60", "--idempotency-key", "once")
    first = shell("send", "sum", "-", *words, "--json", stdin="[5]").json["id"]
    assert shell("send", "sum", "-", *words, "--json", stdin="[5]").json["id"] == first
    info = cli("intents", "get", first, "--json").json
    assert info["labels"] == {"team": "shop", "x": "1"}
    assert info["idempotency_key"] == "once"
    assert info["deadline"] > info["created"]


def test_a_delayed_intent_is_created_and_says_when_it_starts(cli: Cli) -> None:
    intent = cli("send", "later", "1", "--delay", "500", "--json").json["id"]
    info = cli("intents", "get", intent, "--json").json
    assert info["status"] == "CREATED"
    assert info["start"] > info["created"]
    assert "starts" in cli("intents", "get", intent).out


def test_send_remarks_on_a_queue_that_nobody_serves(cli: Cli, worker: Running) -> None:
    said = cli("send", "summ", "[1]")
    assert said.code == 0
    assert f"no worker serves queue 'summ' now (served now: {', '.join(sorted(SERVED))})" in said.err


def test_send_to_a_function_checks_the_payload_first(cli: Cli, worker: Running) -> None:
    assert cli("send", "tests.cli.app:add", "[4]", "--wait", "--timeout", "60").out == "8\n"


# --- intents ----------------------------------------------------------------------------------------------------------


def test_get_tells_all_of_an_intent(cli: Cli, worker: Running) -> None:
    intent = done(cli, "sum", "[1, 2]")
    info = cli("intents", "get", intent, "--json").json
    assert set(info) == INTENT_FIELDS | {"waits", "result"}
    assert (info["status"], info["attempt"], info["step"]) == ("COMPLETED", 1, "double#1")
    assert info["result"] == 6
    assert info["created"] <= info["started"] <= info["finished"]
    assert info["created"].endswith("Z")
    text = cli("intents", "get", intent).out
    for word in ("status     COMPLETED", "last step  double#1", "finished", "ago)", "result     6"):
        assert word in text


def test_get_shows_a_long_result_whole_in_json_and_shortened_to_people(cli: Cli, worker: Running) -> None:
    intent = done(cli, "charge", json.dumps({"secret": "fine" + "x" * 5000, "card": "visa"}))
    assert cli("intents", "get", intent, "--json").json["result"][1] == "fine" + "x" * 5000
    text = cli("intents", "get", intent).out
    assert "…" in text
    assert len(text) < 2000
    assert cli("intents", "cancel", intent).out == f"{intent}  already COMPLETED: nothing to cancel\n"
    assert cli("intents", "cancel", intent, "--json").json["answer"] == "COMPLETED"
    unserved = cli("send", "unserved").out.strip()
    assert cli("intents", "cancel", unserved).out == f"{unserved}  CANCELED\n"
    for verb in ("cancel", "kill"):
        assert cli("intents", verb, unserved).out == f"{unserved}  already CANCELED: nothing to {verb}\n"
    assert cli("intents", "get", cli("send", "unserved").out.strip(), "--json").json["result"] is None


def test_get_names_the_error_and_on_request_its_place(cli: Cli, worker: Running, tmp_path: Path) -> None:
    said = cli("send", "fragile", json.dumps(str(tmp_path / "missing")), "--wait", "--timeout", "60", "--json")
    assert said.code == 1
    assert said.json["status"] == "FAILED"
    intent = said.json["id"]
    error = cli("intents", "get", intent, "--json").json["error"]
    assert (error["type"], error["code"]) == ("redurable.errors.StepFailed", "STEP_FAILED")
    assert "no file missing" in error["message"]
    text = cli("intents", "get", intent).out
    assert "no file missing" in text
    assert "Traceback" not in text
    assert "tests/cli/app.py" in cli("intents", "get", intent, "--traceback").out


def test_list_filters_by_queue_status_and_label(cli: Cli, worker: Running) -> None:
    intent = done(cli, "sum", "[7]", "--label", "mark=here")
    found = cli("intents", "list", "-q", "sum", "--status", "COMPLETED", "--label", "mark=here", "--json").json
    assert [i["id"] for i in found] == [intent]
    assert set(found[0]) == INTENT_FIELDS
    table = cli("intents", "list", "--label", "mark=here").out.splitlines()
    assert table[0].split()[:3] == ["ID", "QUEUE", "STATUS"]
    assert table[1].split()[:3] == [intent, "sum", "COMPLETED"]
    assert cli("intents", "list", "--label", "mark=there", "--json").json == []
    assert "no intents" in cli("intents", "list", "--label", "mark=there").err


def test_list_says_when_its_limit_cut_it(cli: Cli, worker: Running) -> None:
    done(cli, "sum", "[1]")
    done(cli, "sum", "[1]")
    said = cli("intents", "list", "--limit", "1")
    assert len(said.out.splitlines()) == 2
    assert "--limit" in said.err


def test_history_shows_every_entry_and_values_only_on_request(cli: Cli, worker: Running) -> None:
    intent = done(cli, "sum", "[11]")
    entries = cli("intents", "history", intent, "--json").json
    assert [(e["seq"], e["kind"], e["name"], e["n"]) for e in entries] == [(1, "step_done", "double", 1)]
    assert set(entries[0]) == {"seq", "at", "kind", "scope", "name", "n", "size", "voided", "detail"}
    assert cli("intents", "history", intent, "--values", "--json").json[0]["value"] == 22
    table = cli("intents", "history", intent).out
    assert "22" not in table.splitlines()[1].split("double#1")[2]
    assert "step done" in table
    assert cli("intents", "history", intent, "--values").out.rstrip().endswith("22")


def test_watch_follows_until_the_end_and_tells_it_by_the_exit_code(cli: Cli, worker: Running) -> None:
    intent = cli("send", "nap", "0.3", "--json").json["id"]
    said = cli("intents", "watch", intent, "--json")
    assert said.code == 0
    assert [e.get("kind") for e in said.lines] == ["step_done", "timer_set", "timer_fired", None]
    assert said.lines[-1] == {"id": intent, "status": "COMPLETED", "error": None}
    said = cli("intents", "watch", intent)
    assert "sleep#1" in said.out
    assert said.out.splitlines()[-1] == "COMPLETED"
    failed = cli("send", "fragile", '"/nowhere/missing"', "--wait", "--timeout", "60", "--json").json["id"]
    assert cli("intents", "watch", failed).code == 1


def test_ctrl_c_ends_a_watch_with_130(cli: Cli, redis_url: str, worker: Running) -> None:
    intent = cli("send", "nap", "600", "--json").json["id"]
    words = [sys.executable, "-m", "redurable", "intents", "watch", intent, "--url", redis_url, "--namespace", "cli"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert "double#1" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert cli("intents", "cancel", intent).out == f"{intent}  REQUESTED\n"


def test_cancel_ends_what_never_ran_at_once(cli: Cli) -> None:
    intent = cli("send", "unserved", "1", "--json").json["id"]
    assert cli("intents", "cancel", intent, "--note", "no need", "--json").json == {"id": intent, "answer": "CANCELED"}
    assert cli("intents", "get", intent, "--json").json["status"] == "CANCELED"


def test_kill_ends_what_runs_at_once_and_stays(cli: Cli, worker: Running) -> None:
    intent = cli("send", "nap", "600", "--json").json["id"]
    assert cli("intents", "kill", intent, "--note", "it hangs").out == f"{intent}  CANCELED\n"
    shown = cli("intents", "get", intent, "--json").json
    assert (shown["status"], shown["error"]["code"], shown["error"]["message"]) == ("CANCELED", "KILLED", "it hangs")
    assert cli("intents", "kill", intent, "--json").json == {"id": intent, "answer": "CANCELED"}


def test_pause_keeps_and_resume_lets_go_on(cli: Cli, worker: Running) -> None:
    intent = cli("send", "nap", "0.5", "--delay", "2.5", "--json").json["id"]
    assert cli("intents", "pause", intent).out == f"{intent}  PAUSED\n"
    time.sleep(2.7)
    shown = cli("intents", "get", intent, "--json").json
    assert (shown["status"], shown["paused"]) == ("PAUSED", True)
    assert [i["id"] for i in cli("intents", "list", "--status", "paused", "--json").json] == [intent]
    assert cli("intents", "resume", intent, "--json").json == {"id": intent, "answer": "RESUMED"}
    assert cli("intents", "watch", intent).code == 0


def test_many_are_chosen_by_options_counted_and_cancelled(cli: Cli) -> None:
    for n in range(3):
        cli("send", "crowd", str(n), "--label", "team=shop")
    cli("send", "crowd", "3")
    words = ("--queue", "crowd", "--status", "submitted", "--label", "team=shop", "--older-than", "0s")
    assert cli("intents", "cancel", *words, "--dry-run").out == "3 chosen, nothing done\n"
    assert cli("intents", "cancel", *words, "--older-than", "1h").out == "0 chosen\n"
    assert cli("intents", "cancel", *words, "--json").json == {
        "chosen": 3, "answers": {"CANCELED": 3}, "dry_run": False
    }  # fmt: skip
    assert cli("intents", "kill", "-q", "crowd").out == "1 chosen: 1 CANCELED\n"
    assert cli("intents", "delete", "-q", "crowd").out == "4 chosen: 4 DELETED\n"


def test_retry_continues_with_the_steps_that_were_done(cli: Cli, worker: Running, tmp_path: Path) -> None:
    path = tmp_path / "file"
    intent = cli("send", "fragile", json.dumps(str(path)), "--wait", "--timeout", "60", "--json").json["id"]
    path.touch()
    assert cli("intents", "retry", intent).out == f"{intent}  SUBMITTED\n"
    assert cli("intents", "watch", intent).code == 0
    entries = cli("intents", "history", intent, "--json").json
    assert [e["name"] for e in entries if e["kind"] == "step_done"] == ["double", "fragile"]
    assert [e["kind"] for e in entries if e["voided"]] == ["step_failed"]
    assert "(voided)" in cli("intents", "history", intent).out


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_promise_is_resolved_and_who_did_it_is_in_the_history(cli: Cli, worker: Running) -> None:
    intent = cli("send", "ask").out.strip()
    while cli("intents", "get", intent, "--json").json["reason"] != "PROMISE":
        time.sleep(0.02)
    (wait,) = cli("intents", "get", intent, "--json").json["waits"]
    since = wait.pop("since")
    assert wait == {"kind": "promise", "name": "approved", "index": 0, "detail": "", "until": None}
    assert since
    text = cli("intents", "get", intent).out
    assert re.search(r"^waits for +promise approved, since ", text, re.MULTILINE)
    assert re.search(r"^last worker ", text, re.MULTILINE), "none holds it now"
    said = cli("intents", "resolve", intent, "aproved", "true")
    assert (said.code, said.out) == (0, f"{intent}  aproved  UNASKED\n")
    assert "nobody has asked for aproved yet: it is kept until the handler does; it waits for: approved" in said.err
    assert cli("intents", "reject", intent, "late", "no", "--index", "2", "--json").json["answer"] == "UNASKED"
    said = cli("intents", "resolve", intent, "approved", "maybe")
    assert (said.code, "BAD_ARGUMENT" in said.err) == (2, True)
    assert "the value is not JSON" in said.err
    assert "send" not in said.err
    said = cli("intents", "resolve", intent, "approved", '"maybe"')
    assert (said.code, "TYPE_MISMATCH" in said.err) == (2, True)
    assert "promise 'approved' of" in said.err
    assert "it takes boolean" in said.err
    said = cli("intents", "resolve", intent, "approved", "true", "--by", "ann", "--json")
    assert said.json == {"id": intent, "name": "approved", "index": 0, "answer": "RESOLVED"}
    assert cli("intents", "watch", intent).code == 0
    arrived = next(e for e in cli("intents", "history", intent, "--json").json if e["detail"].get("by") == "ann")
    assert arrived["detail"] == {"key": "approved#0", "status": "COMPLETED", "error": None, "by": "ann"}
    told = cli("intents", "history", intent, "--values").out
    assert "  approved  " in told
    assert "late#2" in told
    said = cli("intents", "reject", intent, "approved", "too late")
    assert (said.code, "ALREADY_RESOLVED" in said.err) == (1, True)


def test_a_promise_is_resolved_and_rejected_by_its_token(cli: Cli, worker: Running) -> None:
    def token() -> tuple[str, str]:
        intent = cli("send", "mailed").out.strip()
        while cli("intents", "get", intent, "--json").json["reason"] != "PROMISE":
            time.sleep(0.02)
        return intent, cli("intents", "history", intent, "--values", "--json").json[0]["value"]

    intent, mailed = token()
    refused(cli("intents", "resolve", mailed, "maybe"), "BAD_ARGUMENT", "the value is not JSON")
    refused(cli("intents", "resolve", mailed, '"maybe"'), "TYPE_MISMATCH")
    refused(cli("intents", "resolve", mailed + "x", "true"), "BAD_TOKEN", exit_code=1)
    refused(cli("intents", "resolve", mailed, "approved", "true"), "BAD_ARGUMENT", "names the promise by itself")
    refused(cli("intents", "resolve", mailed, "true", "--index", "1"), "BAD_ARGUMENT", "without NAME and --index")
    refused(cli("intents", "resolve", intent), "BAD_ARGUMENT", "no promise is named", "token")
    assert cli("intents", "resolve", mailed, "true", "--by", "ann").out == "RESOLVED\n"
    assert cli("intents", "resolve", mailed, "true", "--json").json == {"token": mailed, "answer": "RESOLVED"}
    refused(cli("intents", "resolve", mailed, "false"), "ALREADY_RESOLVED", exit_code=1)
    assert cli("intents", "watch", intent).code == 0
    intent, mailed = token()
    refused(cli("intents", "reject", mailed), "BAD_ARGUMENT", "say why")
    refused(cli("intents", "reject", intent, "approved"), "BAD_ARGUMENT", "say why")
    assert cli("intents", "reject", mailed, "no", "--json").json == {"token": mailed, "answer": "REJECTED"}
    assert cli("intents", "watch", intent).code == 1


def test_what_waits_for_people_is_listed_and_answered(cli: Cli, worker: Running) -> None:
    intent = cli("send", "publish").out.strip()
    while not (found := [a for a in cli("approvals", "list", "--json").json if a["intent"] == intent]):
        time.sleep(0.02)
    assert (found[0]["name"], found[0]["outcomes"]) == ("publish", ["approve", "reject"])
    assert found[0]["form"]["type"] == "string"
    assert "Publish the page?" in cli("approvals").out
    assert intent in {a["intent"] for a in cli("approvals", "--json").json}
    said = cli("approvals", "answer", intent, "publish", "perhaps", "--value", '"ok"')
    assert (said.code, "BAD_OUTCOME" in said.err) == (2, True)
    said = cli("approvals", "answer", intent, "publish", "approve", "--value", "1")
    assert (said.code, "TYPE_MISMATCH" in said.err) == (2, True)
    said = cli("approvals", "answer", intent, "publish", "approve")
    assert (said.code, "TYPE_MISMATCH" in said.err) == (2, True)
    assert "approval 'publish' of" in said.err
    assert "it has a form, and no value fills it in" in said.err
    assert "it takes string: fill that in by --value '\"...\"'" in said.err
    (wait,) = cli("intents", "get", intent, "--json").json["waits"]
    assert (wait["kind"], wait["name"], wait["detail"]) == ("approval", "publish", "Publish the page?")
    said = cli("approvals", "answer", intent, "other", "approve")
    assert (said.code, "APPROVAL_NOT_FOUND" in said.err) == (1, True)
    assert cli("approvals", "answer", intent, "publish", "approve", "--value", '"ok"', "--by", "ann").code == 0
    assert cli("intents", "watch", intent).code == 0
    arrived = next(e for e in cli("intents", "history", intent, "--json").json if e["detail"].get("by") == "ann")
    assert arrived["detail"]["by"] == "ann"
    said = cli("approvals", "answer", intent, "publish", "reject", "--value", '"ok"')
    assert (said.code, "ALREADY_RESOLVED" in said.err) == (1, True)
    assert not [a for a in cli("approvals", "list", "--json").json if a["intent"] == intent]


def test_queues_and_workers_list_what_is_there(cli: Cli, worker: Running) -> None:
    done(cli, "sum", "[1]")
    queues = {q["name"]: q for q in cli("queues", "--json").json}
    assert set(queues["sum"]) == {
        "name", "queued", "running", "delayed", "waiting", "unknown", "suspects", "oldest_seconds", "workers",
        "paused",
    }  # fmt: skip
    assert (queues["sum"]["queued"], queues["sum"]["workers"]) == (0, 1)
    assert cli("queues").out.splitlines()[0].split() == [
        "QUEUE", "QUEUED", "RUNNING", "DELAYED", "WAITING", "UNKNOWN", "SUSPECTS", "OLDEST", "WORKERS"
    ]  # fmt: skip
    (found,) = [w for w in cli("workers", "--json").json if w["alive"]]
    assert set(found["queues"]) == SERVED
    assert {"id", "host", "pid", "running", "concurrency", "started", "renewed", "python", "release"} < set(found)
    assert any(found["id"] in line and "yes" in line for line in cli("workers").out.splitlines())


def test_a_queue_that_nobody_serves_is_pointed_out(cli: Cli, worker: Running) -> None:
    cli("send", "deserted", "1")
    said = cli("queues")
    assert "note: deserted: what is queued there waits for a worker" in said.err
    assert "note: sum:" not in said.err
    assert cli("queues", "--json").err == ""


def test_a_type_that_nobody_knows_shows_among_the_queues(cli: Cli, worker: Running, redis_url: str) -> None:
    with Client(redis_url, namespace=NAMESPACE) as client:
        intent = client.send("nap", 1, type="strange")
    end = time.monotonic() + 20
    while (shown := {q["name"]: q for q in cli("queues", "--json").json}["nap"])["unknown"] != 1:
        assert time.monotonic() < end, shown
        time.sleep(0.05)
    assert shown["waiting"] == {"UNKNOWN_TYPE": 1}
    assert worker.wait_for("intent.unknown_type")["intent"] == intent


def test_what_nobody_knows_can_be_canceled_and_times_out_unless_a_handler_began_it(
    cli: Cli, worker: Running, redis_url: str, server: PrivateServer
) -> None:
    def until(intent: str, field: str, value: str) -> dict[str, Any]:
        end = time.monotonic() + 20
        while (shown := cli("intents", "get", intent, "--json").json)[field] != value:
            assert time.monotonic() < end, shown
            time.sleep(0.05)
        return dict(shown)

    with Client(redis_url, namespace=NAMESPACE) as client:
        canceled = client.send("nap", 1, type="strange", key="line")
        behind = client.send("nap", 0.01, key="line")
        begun = client.send("nap", 1, type="strange")
        late = client.send("nap", 1, type="strange", deadline=4)
    for intent in (canceled, begun):
        until(intent, "reason", "UNKNOWN_TYPE")
    with redis.Redis(unix_socket_path=server.socket) as link:
        # as a worker that knew the type would have left it
        link.rpush(
            f"{NAMESPACE}:{{0}}:j:{begun}", encode_entry(StepDone("", "charge", 0, 0, b"", msgspec.Raw(b"\x01")))
        )
        link.hset(f"{NAMESPACE}:{{0}}:i:{begun}", "attempt", 1)
    assert cli("intents", "cancel", canceled, "--note", "not wanted").out == f"{canceled}  CANCELED\n"
    assert cli("intents", "get", canceled, "--json").json["attempt"] == 0, "it was no attempt"
    cli("intents", "cancel", begun)
    assert until(canceled, "status", "CANCELED")["error"]["message"] == "not wanted"
    assert until(late, "status", "TIMED_OUT")["error"]["code"] == "DEADLINE"
    assert until(behind, "status", "COMPLETED")
    # what it did may have to be undone, so it waits for one who can, or is killed
    assert until(begun, "reason", "UNKNOWN_TYPE")["canceling"]
    assert cli("intents", "kill", begun).out == f"{begun}  CANCELED\n"


def test_a_paused_queue_is_shown_and_gives_nothing_until_it_is_resumed(cli: Cli, worker: Running) -> None:
    turned = len(worker.lines("queues.turned"))
    assert cli("queues", "pause", "sum").out == "sum  paused\n"
    try:
        worker.wait_for("queues.turned", turned + 1)
        said = cli("queues")
        assert "note: sum: it is paused" in said.err
        assert {q["name"]: q for q in cli("queues", "--json").json}["sum"]["paused"]
        intent = cli("send", "sum", "[1, 2]", "--json").json["id"]
        time.sleep(1)
        assert cli("intents", "get", intent, "--json").json["status"] == "SUBMITTED"
    finally:
        assert cli("queues", "resume", "sum", "--json").json == {"name": "sum", "paused": False}
    assert cli("intents", "watch", intent).code == 0


def test_a_queue_of_delayed_intents_alone_is_shown(cli: Cli) -> None:
    intent = cli("send", "some-day", "1", "--delay", "3600", "--json").json["id"]
    (shown,) = [q for q in cli("queues", "--json").json if q["name"] == "some-day"]
    assert (shown["delayed"], shown["queued"], shown["workers"]) == (1, 0, 0)
    cli("intents", "cancel", intent)


def test_metrics_and_health_are_served_by_the_parent(cli: Cli, worker: Running) -> None:
    done(cli, "sum", "[1]")
    port = worker.wait_for("metrics.serving")["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert 'redurable_attempts_total{ended="COMPLETED",queue="sum"}' in text
    assert "redurable_store_up 1.0" in text
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
        assert json.load(answer)["status"] == "ok"


def test_dev_starts_shows_and_ends_the_projects_server(
    alone: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert alone("dev", "--status").code == 1
    started = alone("dev", "--json").json
    try:
        assert started["running"]
        assert started["url"] in alone("dev").out
        assert alone("dev", "--status", "--json").json == started
        assert alone("queues", "--json").json == []
    finally:
        assert alone("dev", "--stop", "--json").json == {"running": False, "ended": True}
    assert alone("dev", "--status", "--json").json["running"] is False
    assert "no server ran" in alone("dev", "--stop").err


def test_version_is_that_of_the_package(cli: Cli) -> None:
    from importlib.metadata import version

    assert cli("version").out.startswith(f"redurable {version('redurable')} (Python 3.")
    assert cli("--version").out == cli("version").out


@pytest.mark.parametrize(
    "words",
    [
        [], ["worker"], ["dev"], ["send"], ["queues"], ["workers"], ["limits"], ["version"], ["intents"],
        ["queues", "pause"], ["queues", "resume"],
        *(["intents", verb] for verb in ("get", "list", "history", "watch", "retry")),
        *(["intents", verb] for verb in ("cancel", "kill", "pause", "resume", "resolve", "reject", "fork")),
        ["approvals"], ["approvals", "list"], ["approvals", "answer"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_has_a_help_that_teaches(cli: Cli, words: list[str]) -> None:
    said = cli(*words, "--help")
    assert said.code == 0
    assert "Usage: redurable" in said.out
    assert "worker-process" not in said.out


def test_a_command_is_completed_with_its_own_options(shell: Cli) -> None:
    words = {"COMP_WORDS": "redurable intents li", "COMP_CWORD": "2", "_REDURABLE_COMPLETE": "complete_bash"}
    assert shell(**words).out.split() == ["list"]


def test_help_imports_neither_what_commands_need_nor_the_demo() -> None:
    code = (
        "import sys; from redurable.cli import app\n"
        "try: app(['--help'], prog_name='redurable')\n"
        "except SystemExit: pass\n"
        "heavy = {'redurable.cli.demo', 'redurable.model', 'msgspec', 'asyncio', 'structlog', 'prometheus_client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"
    assert "demo" in done.stdout
    assert "bench" in done.stdout


def test_an_unknown_command_is_answered_with_the_nearest(cli: Cli) -> None:
    said = cli("intent")
    assert said.code == 2
    assert "intents" in said.err


def test_secrets_are_in_no_line(cli: Cli, worker: Running, start_worker: Callable[..., Running]) -> None:
    secret = "s3cr3t-payload"
    said: list[Said] = [cli("send", "nap", json.dumps(secret), "--wait", "--timeout", "60")]
    intent = done(cli, "nap", "0.01")
    said += [cli("intents", "history", intent), cli("intents", "list"), cli("intents", "list", "--json")]
    said += [cli("intents", verb, intent, "--json") for verb in ("history", "watch")]
    text = worker.log.read_text() + "".join(s.out + s.err for s in said)
    assert secret not in text
    assert SECRET not in text
