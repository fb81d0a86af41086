"""`redurable deployments check`: real journals against another release, from Redis and from a file."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Running, Said

OLD = """
from redurable import handler, promise, step

@step
async def charge(cents: int) -> str:
    return f"charged {cents}"

@step
async def ship(what: str) -> str:
    open("{mark}", "a").write("ran\\n")
    return what

@handler(queue="check.orders")
async def order(payload: dict) -> list[str]:
    print("between steps")
    return [await charge(payload["cents"]), await ship("tea"), await promise("go"), await ship("last")]
"""


@dataclass
class Shop:
    """A shop whose intent waits; *release* writes another module of its code and returns its name."""

    intent: str
    mark: Path
    release: Callable[..., str]


@pytest.fixture
def shop(cli: Cli, start_worker: Callable[..., Running], tmp_path: Path) -> Iterator[Shop]:
    mark, count = tmp_path / "mark", 0

    def release(*changes: tuple[str, str]) -> str:
        nonlocal count
        count += 1
        text = OLD.replace("{mark}", str(mark))
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / f"shopapp{count}.py").write_text(text)
        return f"shopapp{count}"

    worker = start_worker(release(), "--app-dir", str(tmp_path), "--version", "v1")
    worker.wait_for("worker.started")
    intent = cli("send", "check.orders", '{"cents": 5}', "--json").json["id"]
    end = time.monotonic() + 20
    while cli("intents", "get", intent, "--json").json["status"] != "WAITING":
        assert time.monotonic() < end
        time.sleep(0.05)
    yield Shop(intent, mark, release)
    cli("intents", "kill", intent)


def test_open_intents_are_replayed_against_another_release(
    cli: Cli, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def _check(module: str, *words: str) -> Said:
        return cli("deployments", "check", module, "--app-dir", str(tmp_path), *words)

    same = _check(shop.release(), "--json")
    assert same.code == 0, same.err
    assert same.json == {"checked": 1, "breaks": 0, "changes": 0, "findings": []}
    assert "between steps" in same.err, "what handlers print is no answer"
    before = cli("intents", "export", shop.intent).out

    renamed = shop.release(('await ship("tea")', 'await send_off("tea")'), ("async def ship", "async def send_off"),
                           ('await ship("last")', 'await send_off("last")'))  # fmt: skip
    broken = _check(renamed, "--json")
    (finding,) = broken.json["findings"]
    assert (broken.code, broken.json["breaks"]) == (1, 1)
    assert {k: finding[k] for k in ("intent", "queue", "version", "code", "breaks", "seq", "step")} == {
        "intent": shop.intent, "queue": "check.orders", "version": "v1", "code": "JOURNAL_MISMATCH", "breaks": True,
        "seq": 2, "step": "ship#1",
    }  # fmt: skip
    text = _check(renamed)
    assert text.code == 1
    assert shop.intent in text.out
    assert "1 would break (1 would be held: serve both with patched(), or pin them with --version)" in text.err

    changed = shop.release(('f"charged {cents}"', 'f"billed {cents}"'))
    assert _check(changed).code == 0
    strict = _check(changed, "--strict", "--json")
    assert (strict.code, strict.json["changes"], strict.json["findings"][0]["code"]) == (1, 1, "CODE_CHANGED")

    file = tmp_path / "open.jsonl"
    file.write_text(before)
    assert _check(renamed, "--from", str(file), "--json").json == broken.json
    monkeypatch.setattr("sys.stdin", io.StringIO(before))
    assert _check(renamed, "--from", "-").code == 1
    assert _check(renamed, "--version", "v2", "--json").json["checked"] == 0
    assert _check(renamed, "--version", "v1", "--json").json["checked"] == 1

    assert cli("intents", "export", shop.intent).out == before, "nothing was written"
    assert shop.mark.read_text() == "ran\n", "no body ran"


def test_what_cannot_be_checked_is_refused(cli: Cli, tmp_path: Path) -> None:
    bad, gone = tmp_path / "bad.jsonl", tmp_path / "gone.jsonl"
    bad.write_text('{"head": 5}\n')
    for words, code in (
        (("tests.cli.app", "--from", str(bad)), "BAD_IMPORT"),
        (("tests.cli.app", "--from", str(gone)), "BAD_ARGUMENT"),
        (("tests.cli.app", "--version", "a b"), "BAD_VERSION"),
        (("no.such.module",), "UNKNOWN_MODULE"),
        (("tests.cli.app:nothing",), "UNKNOWN_HANDLER"),
        (("not a target",), "BAD_ARGUMENT"),
    ):
        said = cli("deployments", "check", *words)
        assert (said.code, said.out) == (2, ""), said
        assert f"[{code}]" in said.err
    bad.write_text(json.dumps({"head": {"queue": "plain", "status": "WAITING"}}) + "\n")
    assert "[BAD_IMPORT]" in cli("deployments", "check", "tests.cli.app:plain", "-q", "plain", "--from", str(bad)).err
