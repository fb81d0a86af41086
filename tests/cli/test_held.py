"""An intent that is held: what operators see of it, and what their verbs do to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.conftest import Cli, Running

CODE = """
from redurable import compensate, handler, promise, step

@step
async def {first}(cents: int) -> str:
    open("{mark}", "a").write("{first}\\n")
    return "ok"

async def undone():
    open("{mark}", "a").write("undone\\n")

@handler(queue="held.orders")
async def order(payload: dict) -> str:
    compensate(undone)
    await {first}(payload["cents"])
    await promise("go")
    return "done"
"""


def test_it_is_shown_whole_and_is_retried_canceled_and_killed(
    cli: Cli, start_worker: Callable[..., Running], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    for name, first in (("heldold", "charge_the_customer_of_the_order"), ("heldnew", "bill_the_customer_of_the_order")):
        (tmp_path / f"{name}.py").write_text(CODE.format(first=first, mark=mark))

    def until(intent: str, **wanted: str) -> Any:
        end = time.monotonic() + 60
        while (found := cli("intents", "get", intent, "--json").json) | wanted != found:
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found

    old = start_worker("heldold", "--app-dir", str(tmp_path))
    old.wait_for("worker.started")
    ids = [cli("send", "held.orders", '{"cents": 5}').out.strip() for _ in range(3)]
    for intent in ids:
        until(intent, reason="PROMISE")
    assert old.stop() == 0
    new = start_worker("heldnew", "--app-dir", str(tmp_path))
    for intent in ids:
        assert cli("intents", "resolve", intent, "go", "1").code == 0
        assert until(intent, reason="HELD")["held"] == (
            "JOURNAL_MISMATCH: entry 1 of the journal is charge_the_customer_of_the_order#1, "
            "but the handler now asks for bill_the_customer_of_the_order#1 there"
        )
    canceled, killed, kept = ids
    told = new.wait_for("intent.held")
    assert (told["entry"], told["recorded"]) == (1, "charge_the_customer_of_the_order#1")
    for words in (("get", kept), ("list", "-q", "held.orders")):
        until(kept, reason="HELD")
        assert "WAITING (HELD)" in cli("intents", *words).out
    refused = cli("intents", "delete", kept)
    assert (refused.code, "[WRONG_STATE]" in refused.err) == (1, True), refused

    assert cli("intents", "kill", killed).out == f"{killed}  CANCELED\n"
    assert mark.read_text().count("undone") == 0
    assert cli("intents", "cancel", canceled).out == f"{canceled}  REQUESTED\n"
    error = until(canceled, status="CANCELED")["error"]
    assert error["code"] == "CANCELED"
    assert "its code does not fit: entry 1 of the journal" in error["message"]
    assert mark.read_text().count("undone") == 1

    until(kept, reason="HELD")
    assert new.stop() == 0
    chosen = cli("intents", "retry", "-q", "held.orders", "-s", "WAITING", "--dry-run")
    assert chosen.out == "1 chosen, nothing done\n"
    assert cli("intents", "retry", kept).out == f"{kept}  SUBMITTED\n"
    start_worker("heldold", "--app-dir", str(tmp_path))
    info = until(kept, status="COMPLETED")
    assert (info["result"], info["held"]) == ("done", None)
    assert mark.read_text().splitlines().count("charge_the_customer_of_the_order") == 3, "once for each"
