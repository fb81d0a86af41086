"""`intents fork | delete | export | import`: copied, gone, back and going on; every wrong input has its message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Running
from tests.cli.test_errors import refused

GONE = "0192f0c1-2345-7000-8abc-0123456789ab"


def finished(cli: Cli) -> str:
    said = cli("send", "sum", "[1, 2]", "--wait", "--json")
    return str(said.json["id"])


def test_a_finished_intent_leaves_and_comes_back(worker: Running, cli: Cli, tmp_path: Path) -> None:
    intent = finished(cli)
    exported = cli("intents", "export", intent)
    assert exported.code == 0
    assert exported.err == "1 exported\n"
    (record,) = exported.lines
    assert [entry["kind"] for entry in record["journal"]] == ["StepDone", "StepDone"]
    assert record["outcome"]["result"] == {"json": 6}
    history = cli("intents", "history", intent, "--values", "--json").json
    said = cli("intents", "delete", intent)
    assert (said.code, said.out) == (0, f"{intent}  DELETED\n")
    refused(cli("intents", "get", intent), "INTENT_NOT_FOUND", exit_code=1)
    refused(cli("intents", "delete", intent), "INTENT_NOT_FOUND", exit_code=1)

    file = tmp_path / "intents.jsonl"
    file.write_text(exported.out + "\n")
    assert cli("intents", "import", str(file), "--json").lines == [{"id": intent, "answer": "IMPORTED"}]
    said = cli("intents", "import", str(file))
    assert (said.out, said.err) == (f"{intent}  PRESENT\n", "0 imported, 1 were there already\n")
    assert cli("intents", "get", intent, "--json").json["status"] == "COMPLETED"
    assert cli("intents", "history", intent, "--values", "--json").json == history


def test_an_open_intent_goes_on_where_it_is_imported(worker: Running, cli: Cli, shell: Cli, tmp_path: Path) -> None:
    intent = cli("send", "nobody-serves-this", '{"n": 1}', "--priority", "high", "--label", "a=b").out.strip()
    exported = cli("intents", "export", "--queue", "nobody-serves-this")
    (record,) = exported.lines
    assert (record["id"], record["lane"]) == (intent, "q:high")
    record["head"]["queue"] = "sum"
    record["envelope"]["payload"] = {"json": [5, 6]}
    refused(cli("intents", "delete", intent), "WRONG_STATE", "SUBMITTED", "cancel it", exit_code=1)
    text = json.dumps(record)
    said = shell("intents", "import", "-", stdin=text)
    assert said.code == 1
    assert "[INTENT_EXISTS]" in said.err
    cli("intents", "cancel", intent)
    cli("intents", "delete", intent)
    assert shell("intents", "import", "-", stdin=text).code == 0
    shell("intents", "watch", intent)
    assert cli("intents", "get", intent, "--json").json["labels"] == {"a": "b"}
    assert cli("intents", "export", intent).lines[0]["outcome"]["result"] == {"json": 22}


def test_a_fork_begins_with_the_others_journal_and_goes_on(worker: Running, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mended"
    said = cli("send", "fragile", json.dumps(str(file)), "--wait", "--json")
    assert said.json["status"] == "FAILED"
    broken = said.json["id"]
    file.touch()
    forked = cli("intents", "fork", broken, "--from-step", "fragile").out.strip()
    assert cli("intents", "watch", forked).code == 0
    said = cli("intents", "history", forked, "--json")
    assert [entry["kind"] for entry in said.json] == ["step_done", "forked", "claimed", "step_done"]
    assert said.json[1]["detail"] == {"from": broken, "step": "fragile"}
    assert f"forked from {broken}" in " ".join(cli("intents", "history", forked).out.split())
    assert cli("intents", "get", forked, "--json").json["forked"] == broken
    assert broken in cli("intents", "get", forked).out
    assert cli("intents", "get", broken, "--json").json["forked"] is None
    words = ("intents", "fork", broken, "--from-step", "fragile#1", "--payload", json.dumps(str(file)), "--json")
    said = cli(*words, "--idempotency-key", "once")
    assert said.json == {"id": said.json["id"], "forked": broken, "from_step": "fragile#1"}
    assert cli(*words, "--idempotency-key", "once").json == said.json
    other = cli("intents", "fork", broken, "--from-step", "double", "--idempotency-key", "once")
    refused(other, "IDEMPOTENCY_CONFLICT", "'once'", exit_code=1)


def test_what_cannot_be_forked(worker: Running, cli: Cli) -> None:
    intent = finished(cli)
    assert cli("intents", "fork", intent).code == 2
    refused(cli("intents", "fork", intent, "--from-step", "no"), "STEP_NOT_FOUND", "'no'", "double#1", exit_code=1)
    refused(cli("intents", "fork", GONE, "--from-step", "double"), "INTENT_NOT_FOUND", exit_code=1)
    refused(cli("intents", "fork", "x", "--from-step", "double"), "INTENT_NOT_FOUND", exit_code=1)
    refused(cli("intents", "fork", intent, "--from-step", "double", "--payload", "{"), "BAD_ARGUMENT", "--payload")


def test_export_chooses_by_ids_or_by_options(worker: Running, cli: Cli) -> None:
    intent = finished(cli)
    refused(cli("intents", "export"), "BAD_ARGUMENT", "--queue")
    refused(cli("intents", "export", intent, "--queue", "sum"), "BAD_ARGUMENT")
    refused(cli("intents", "export", GONE), "INTENT_NOT_FOUND", exit_code=1)
    refused(cli("intents", "export", "x"), "INTENT_NOT_FOUND", exit_code=1)
    refused(cli("intents", "export", "--label", "x"), "BAD_ARGUMENT", "team=shop")
    assert cli("intents", "export", "--status", "NO").code == 2
    done = cli("intents", "export", "--status", "COMPLETED", "--queue", "sum")
    assert intent in [record["id"] for record in done.lines]
    assert cli("intents", "export", "--queue", "sum", "--status", "FAILED").err == "0 exported\n"
    refused(cli("intents", "export", "--queue", "no-such-queue"), "QUEUE_NOT_FOUND", "'no-such-queue'", exit_code=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1: this is no JSON object"),
        ("\n[]", "line 2: this is no JSON object"),
        ('{"redurable": 1}', "line 1: this is no exported intent"),
        ('{"redurable": 9, "id": "x", "head": {}, "envelope": {}, "journal": []}', "has format 9"),
        (b"\xff\xfe", "is no text"),
    ],
)
def test_a_file_that_is_no_export(cli: Cli, tmp_path: Path, text: str | bytes, says: str) -> None:
    file = tmp_path / "bad"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    refused(cli("intents", "import", str(file)), "BAD_IMPORT", says)


def test_an_empty_file_is_told(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_text("\n\n")
    said = cli("intents", "import", str(file))
    assert (said.code, said.out, said.err) == (0, "", "0 imported\n")


def test_files_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    refused(cli("intents", "import", str(tmp_path / "none")), "BAD_ARGUMENT", "No such file")
    refused(cli("intents", "import", str(tmp_path)), "BAD_ARGUMENT", "directory")
    assert cli("intents", "import").code == 2
    assert cli("intents", "delete").code == 2
    refused(cli("intents", "delete", "x"), "INTENT_NOT_FOUND", exit_code=1)
