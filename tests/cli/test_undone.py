"""An intent whose undo work has run: its retry is refused, its fork does the work anew; a ledger says what was done."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.conftest import Cli, Running

CODE = """
import os
from redurable import Retry, compensate, handler, idempotency_key, step

def note(what):
    with open("{ledger}", "a") as ledger:
        ledger.write(what + "\\n")

@step
async def charge(cents: int) -> str:
    note("charge " + idempotency_key())
    return idempotency_key()

@step
async def refund(charged: str) -> None:
    note("refund " + charged)

@step(retry=Retry(attempts=1))
async def ship(charged: str) -> str:
    if not os.path.exists("{stock}"):
        raise LookupError("nothing in stock")
    note("ship " + charged)
    return charged

@handler(queue="undone.orders")
async def order(cents: int) -> str:
    charged = await charge(cents)
    compensate(refund, charged)
    return await ship(charged)
"""


def test_a_retry_is_refused_and_a_fork_takes_the_money_anew(
    cli: Cli, shell: Cli, start_worker: Callable[..., Running], tmp_path: Path
) -> None:
    ledger, stock = tmp_path / "ledger", tmp_path / "stock"
    (tmp_path / "undoneapp.py").write_text(CODE.format(ledger=ledger, stock=stock))
    start_worker("undoneapp", "--app-dir", str(tmp_path)).wait_for("worker.started")

    def ended(intent: str) -> Any:
        end = time.monotonic() + 60
        while (found := cli("intents", "get", intent, "--json").json)["finished"] is None:
            assert time.monotonic() < end, found
            time.sleep(0.05)  # each look is a process
        return found

    intent = cli("send", "undone.orders", "500").out.strip()
    assert ended(intent)["status"] == "FAILED"
    charged, refunded = ledger.read_text().splitlines()
    assert refunded.split()[1] == charged.split()[1]
    stock.touch()

    for said in (cli("intents", "retry", intent), shell("intents", "retry", intent, "--json")):
        assert said.code == 1, said
        assert "its undo work has run (refund#1)" in said.err
        assert "[ALREADY_UNDONE]" in said.err
        assert f"redurable intents fork {intent} --from-step" in said.err
        assert "Traceback" not in said.err
    many = cli("intents", "retry", "-q", "undone.orders", "-s", "FAILED")
    assert (many.code, many.out) == (0, "1 chosen: 1 ALREADY_UNDONE\n")
    assert ended(intent)["status"] == "FAILED"
    assert ledger.read_text().splitlines() == [charged, refunded], "nothing was done"

    fork = ended(cli("intents", "fork", intent, "--from-step", "charge").out.strip())
    assert fork["status"] == "COMPLETED"
    again, shipped = ledger.read_text().splitlines()[2:]
    assert (again, shipped) == (f"charge {fork['result']}", f"ship {fork['result']}")
    assert again != charged, "another key: a bank that knows the first would answer with what was refunded"
