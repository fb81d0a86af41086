"""Every wrong input that a user can give has its own message and code, and never a traceback."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from redurable.__main__ import main as start
from redurable.store.server import PrivateServer
from tests.cli.conftest import Cli, Running, Said


def refused(said: Said, code: str, *words: str, exit_code: int = 2) -> None:
    """Assert that *said* is one error, with its code and these words."""
    assert said.code == exit_code, said
    (told,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert told.endswith(f"[{code}]"), said.err
    for word in words:
        assert word in said.err
    assert "Traceback" not in said.err + said.out


# --- the server -------------------------------------------------------------------------------------------------------


def test_a_bad_url(alone: Cli) -> None:
    refused(alone("queues", "--url", "http://localhost"), "BAD_URL", "http://localhost", "redis://")
    refused(alone("queues", "--url", "redis://:pa/ss@host"), "BAD_URL")


def test_no_server_at_all(alone: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    refused(alone("queues"), "NO_SERVER", "redurable dev")
    refused(alone("worker", "tests.cli.app:plain"), "NO_SERVER", "redurable dev")


@pytest.mark.crash
def test_the_projects_own_server_is_frozen(alone: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    pid = alone("dev", "--json").json["pid"]
    try:
        os.kill(pid, signal.SIGSTOP)
        for words in (("send", "q", "1"), ("dev", "--status")):
            refused(alone(*words), "STORE_UNAVAILABLE", "is there but does not answer", "frozen", exit_code=1)
    finally:
        os.kill(pid, signal.SIGCONT)
        alone("dev", "--stop")


def test_an_unreachable_server(alone: Cli) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{probe.getsockname()[1]}/0"
    said = alone("queues", "--url", url)
    refused(said, "STORE_UNAVAILABLE", url, exit_code=1)
    assert "REDIS_URL" not in said.err, "it was not read"
    refused(alone("send", "sum", "[1]", "--url", url), "STORE_UNAVAILABLE", url, exit_code=1)
    refused(alone("worker", "tests.cli.app", "--url", url), "STORE_UNAVAILABLE", url, exit_code=1)


def test_a_missing_and_a_wrong_password(alone: Cli) -> None:
    with PrivateServer(port=0, appendfsync=None, args=("--requirepass", "r1ght")) as server:
        place = f"127.0.0.1:{server.port}/0"
        refused(alone("queues", "--url", f"redis://{place}"), "AUTH_FAILED", exit_code=1)
        said = alone("queues", "--url", f"redis://:wr0ng@{place}")
        refused(said, "AUTH_FAILED", "redis://:***@", exit_code=1)
        assert "wr0ng" not in said.err
        assert alone("queues", "--url", f"redis://:r1ght@{place}", "--json").json == []


def test_a_namespace_that_cannot_be(cli: Cli) -> None:
    refused(cli("queues", "--namespace", "a b"), "BAD_ARGUMENT", "namespace")


# --- the worker's target ----------------------------------------------------------------------------------------------


def test_an_unknown_module(cli: Cli) -> None:
    refused(cli("worker", "no_such_module:handler"), "UNKNOWN_MODULE", "'no_such_module'", "--app-dir")
    refused(cli("worker", "tests.cli.nothing"), "UNKNOWN_MODULE", "tests.cli.nothing")


def test_an_unknown_function(cli: Cli) -> None:
    refused(cli("worker", "tests.cli.app:nothing"), "UNKNOWN_HANDLER", "'nothing'", "plain")
    refused(cli("worker", "tests.cli.conftest"), "UNKNOWN_HANDLER", "no @handler")


def test_what_is_no_handler(cli: Cli) -> None:
    refused(cli("worker", "tests.cli.app:NOT_A_FUNCTION"), "BAD_HANDLER")


@pytest.mark.parametrize("target", ["a/b.py", ":f", "module:", "a b"])
def test_a_target_that_is_none(cli: Cli, target: str) -> None:
    refused(cli("worker", target), "BAD_ARGUMENT", "module:function")


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("syntactical", "def f(:\n    pass\n", "line 1"),
        ("raising", "x = 1\nraise RuntimeError('at import')\n", "line 2: raise RuntimeError"),
        ("importing", "import nothing_of_that_name\n", "nothing_of_that_name"),
        ("exiting", "import sys\nsys.exit(3)\n", "line 2: sys.exit(3)"),
        ("yielding", "async def f(x):\n    yield 1\n", "returns its result"),
        ("generating", "from redurable import handler\n@handler\ndef f(x):\n    yield 1\n", "returns its result"),
        ("annotated", "def f(x: 'Unknown') -> int:\n    return 1\n", "Unknown"),
    ],
)
def test_a_module_that_does_not_load_names_its_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, says: str
) -> None:
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(sys, "path", [*sys.path])
    refused(cli("worker", f"{name}:f", "--app-dir", str(tmp_path)), "BAD_HANDLER", says)


def test_two_functions_for_one_queue_and_type(start_worker: Callable[..., Running], tmp_path: Path) -> None:
    start_worker("tests.cli.app:plain", "--queue", "taken").wait_for("worker.started")
    (tmp_path / "another.py").write_text("async def plain(payload):\n    return 2\n")
    second = start_worker("another:plain", "--queue", "taken", "--app-dir", str(tmp_path))
    assert second.process.wait(20) == 2
    text = second.log.read_text()
    assert "[QUEUE_TAKEN]" in text
    assert "tests.cli.app.plain" in text
    assert "Traceback" not in text


# --- the worker's options ---------------------------------------------------------------------------------------------


def test_options_out_of_bounds_are_usage_errors(cli: Cli) -> None:
    for words in (["-c", "0"], ["-p", "0"], ["--lease", "0.1"], ["--log-format", "xml"], ["--metrics-port", "70000"]):
        said = cli("worker", "tests.cli.app", *words)
        assert said.code == 2
        assert words[0].lstrip("-") in said.err or "concurrency" in said.err or "processes" in said.err
        assert "Traceback" not in said.err


def test_a_port_that_is_in_use(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(cli("worker", "tests.cli.app", "--metrics-port", port), "BAD_ARGUMENT", port)


def test_an_unknown_log_level(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDURABLE_LOG_LEVEL", "loud")
    refused(cli("worker", "tests.cli.app"), "BAD_ARGUMENT", "'loud'", "debug")


def test_reload_without_its_package(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "watchfiles" else found(name, *a))
    refused(cli("worker", "tests.cli.app", "--reload"), "BAD_ARGUMENT", "redurable[reload]")


def test_the_workers_own_command_is_not_for_users(shell: Cli) -> None:
    refused(shell("worker-process"), "BAD_ARGUMENT", "redurable worker module:handler")


def test_an_unsupported_platform(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", "win32")
    refused(cli("worker", "tests.cli.app"), "UNSUPPORTED_PLATFORM", "Windows")
    refused(cli("dev"), "UNSUPPORTED_PLATFORM", "REDURABLE_URL")


# --- payloads ---------------------------------------------------------------------------------------------------------


def test_a_payload_that_is_not_json(cli: Cli) -> None:
    said = cli("send", "sum", "{s3cret: 1}")
    refused(said, "BAD_ARGUMENT", "not JSON", "column 2")
    assert "s3cret" not in said.err


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_payload_with_a_number_that_json_has_not(cli: Cli, word: str) -> None:
    refused(cli("send", "unserved", f'{{"n": [{word}]}}'), "BAD_ARGUMENT", f"holds {word}", "null")


def test_a_payload_that_is_too_large(shell: Cli, cli: Cli) -> None:
    big = json.dumps("x" * (1 << 20))
    refused(shell("send", "sum", "-", stdin=big), "PAYLOAD_TOO_LARGE", "1,048,576", "REDURABLE_MAX_PAYLOAD")
    refused(shell("send", "sum", "-", stdin='"' + "x" * 2000 + '"', REDURABLE_MAX_PAYLOAD="1024"), "PAYLOAD_TOO_LARGE")


def test_a_payload_that_cannot_be_stored(cli: Cli) -> None:
    refused(cli("send", "sum", str(1 << 80)), "NOT_SERIALISABLE", "the payload")


def test_a_payload_that_does_not_fit_the_handler(cli: Cli, alone: Cli, start_worker: Callable[..., Running]) -> None:
    refused(cli("send", "tests.cli.app:add", '{"a": 1}'), "TYPE_MISMATCH", "tests.cli.app.add", "list")
    start_worker("tests.cli.app:add", "--queue", "sums").wait_for("worker.started")
    said = cli("send", "sums", '{"a": 1}', "--wait", "--timeout", "60")
    refused(said, "TYPE_MISMATCH", "list", exit_code=1)


def test_a_label_without_a_value(cli: Cli) -> None:
    refused(cli("send", "sum", "1", "--label", "team"), "BAD_ARGUMENT", "name=value")
    refused(cli("intents", "list", "--label", "=x"), "BAD_ARGUMENT", "name=value")


def test_a_name_that_no_queue_can_have(cli: Cli) -> None:
    refused(cli("send", "a b", "1"), "BAD_ARGUMENT", "'a b'")


def test_an_idempotency_key_used_for_another_payload(cli: Cli) -> None:
    assert cli("send", "unserved", "1", "--idempotency-key", "k").code == 0
    refused(cli("send", "unserved", "2", "--idempotency-key", "k"), "IDEMPOTENCY_CONFLICT", "'k'", exit_code=1)


def test_a_wait_that_ends_before_its_intent(cli: Cli) -> None:
    said = cli("send", "unserved", "1", "--wait", "--timeout", "0.1")
    refused(said, "WAIT_TIMEOUT", "still SUBMITTED", "redurable intents get", exit_code=1)
    assert cli("send", "unserved", "1", "--timeout", "1").code == 2


# --- ids and queues ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get", "history", "watch", "cancel", "kill", "pause", "resume", "retry"])
def test_an_unknown_id(cli: Cli, verb: str) -> None:
    unknown = "0192f0c1-2345-7000-8abc-0123456789ab"
    refused(cli("intents", verb, unknown), "INTENT_NOT_FOUND", unknown, exit_code=1)
    for wrong in ("17", str(uuid.uuid4()), "../x"):
        refused(cli("intents", verb, wrong), "INTENT_NOT_FOUND", "not an intent id", exit_code=1)


@pytest.mark.parametrize("verb", ["resolve", "reject"])
def test_an_unknown_promise(cli: Cli, verb: str) -> None:
    unknown = "0192f0c1-2345-7000-8abc-0123456789ab"
    refused(cli("intents", verb, unknown, "approved", "1"), "INTENT_NOT_FOUND", unknown, exit_code=1)
    refused(cli("intents", verb, unknown, "a#b", "1"), "BAD_ARGUMENT", "a promise's name", exit_code=2)
    assert cli("intents", verb, unknown, "approved", "1", "--index", "-1").code == 2


def test_an_unknown_queue_names_the_known_ones(cli: Cli) -> None:
    cli("send", "unserved", "1")
    refused(cli("intents", "list", "--queue", "nope"), "QUEUE_NOT_FOUND", "'nope'", "unserved", exit_code=1)
    said = cli("intents", "list", "--queue", "nope", "--namespace", "empty")
    refused(said, "QUEUE_NOT_FOUND", "nothing was sent", exit_code=1)


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_pausing_a_queue_that_is_none(cli: Cli, verb: str) -> None:
    cli("send", "unserved", "1")
    refused(cli("queues", verb, "nope"), "QUEUE_NOT_FOUND", "'nope'", "unserved", exit_code=1)
    assert cli("queues", verb).code == 2


@pytest.mark.parametrize("verb", ["cancel", "kill", "pause", "resume", "retry", "delete"])
def test_many_that_are_chosen_wrongly(cli: Cli, verb: str) -> None:
    refused(cli("intents", verb), "BAD_ARGUMENT", "no intent is named", "--older-than")
    refused(cli("intents", verb, "--dry-run"), "BAD_ARGUMENT", "no intent is named")
    refused(cli("intents", verb, "ID", "--queue", "q"), "BAD_ARGUMENT", "cannot both choose")
    refused(cli("intents", verb, "--older-than", "soon"), "BAD_ARGUMENT", "'soon' is no time", "15m")
    refused(cli("intents", verb, "--label", "team"), "BAD_ARGUMENT", "name=value")
    refused(cli("intents", verb, "--status", "DELIVERED"), "BAD_ARGUMENT")
    refused(cli("intents", verb, "--queue", "nope", "--dry-run"), "QUEUE_NOT_FOUND", "'nope'", exit_code=1)


def test_a_retry_of_what_has_not_failed(cli: Cli) -> None:
    intent = cli("send", "unserved", "1", "--json").json["id"]
    refused(cli("intents", "retry", intent), "WRONG_STATE", "SUBMITTED", exit_code=1)


def test_a_status_may_be_written_small(cli: Cli) -> None:
    intent = cli("send", "small", "1", "--json").json["id"]
    assert [i["id"] for i in cli("intents", "list", "-q", "small", "--status", "submitted", "--json").json] == [intent]


def test_an_unknown_status_is_a_usage_error(cli: Cli) -> None:
    said = cli("intents", "list", "--status", "BROKEN")
    assert said.code == 2
    assert "completed" in said.err.lower()


def test_a_name_cannot_drive_the_terminal(cli: Cli) -> None:
    said = cli("intents", "get", "\x1b[31mred")
    assert "\x1b" not in said.err


def test_ctrl_c_while_a_worker_starts_is_told(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('there').touch()\ntime.sleep(60)\nasync def handler(payload): ...\n"
    )
    words = [sys.executable, "-m", "redurable", "worker", "slow:handler", "--url", redis_url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        while not (tmp_path / "there").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "stopped while it was starting; it had taken nothing"


# --- the terminal and the shell ---------------------------------------------------------------------------------------


def test_words_that_are_no_utf8(shell: Cli) -> None:
    assert shell("send", "nobody", "1").code == 0  # there is something to look through
    refused(shell("intents", "list", "-q", "\udcff"), "BAD_ARGUMENT", "UTF-8")
    refused(shell("send", "\udcff", "1"), "BAD_ARGUMENT", "queue's name")
    refused(shell("send", "bell\a", "1"), "BAD_ARGUMENT", "queue's name", "printable")
    refused(shell("schedules", "put", "a b", "q", "1", "--cron", "* * * * *"), "BAD_ARGUMENT", "schedule's name")
    refused(shell("queues", "--namespace", "bell\a"), "BAD_ARGUMENT", "namespace", "printable")


def test_bytes_that_are_no_text_on_stdin(server: PrivateServer) -> None:
    command = [sys.executable, "-m", "redurable", "intents", "import", "-", "--url", server.url]
    done = subprocess.run(
        command, input=b"\xf5\xff\x00{", env=os.environ | {"LC_ALL": "C"}, capture_output=True, check=False
    )
    refused(Said(done.returncode, done.stdout.decode(), done.stderr.decode()), "BAD_IMPORT")


@pytest.mark.parametrize("words", [("version",), ("queues", "--json"), ("send", "q", "1")])
def test_a_full_disk_behind_stdout(server: PrivateServer, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "redurable", *words]
    with Path("/dev/full").open("w") as full:
        told = subprocess.run(
            command,
            env=os.environ | {"REDURABLE_URL": server.url},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    refused(Said(told.returncode, "", told.stderr), "CANNOT_PRINT", "No space left", exit_code=1)


def test_stdout_is_closed_or_nobody_reads_it(server: PrivateServer) -> None:
    line = f"{sys.executable} -m redurable send q 1 --url {server.url}"
    closed = subprocess.run(f"{line} >&-", shell=True, capture_output=True, text=True, check=False)
    assert (closed.returncode, "Traceback" in closed.stderr) == (0, False), closed
    read, write = os.pipe()
    os.close(read)
    gone = subprocess.run(line.split(), stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (gone.returncode, gone.stderr) == (1, ""), gone


def test_help_is_broken_where_the_terminal_ends(alone: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = [line.strip() for line in alone("intents", "get", "--help").out.splitlines()]
    text = lines[next(n for n, line in enumerate(lines) if line.startswith("JSON:")) :]
    assert all(len(line) > 40 for line in text[: text.index("") - 1]), text


def test_ctrl_c_while_the_command_line_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupts:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "redurable.cli":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["redurable", "queues"])
    monkeypatch.delitem(sys.modules, "redurable.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupts(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 130
