"""`redurable send --debounce`."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli, Running
from tests.cli.test_sessions import refused, until


def test_such_sends_become_one_that_says_when_it_starts(cli: Cli, worker: Running) -> None:
    words = ("--debounce", "4", "--debounce-key", "17", "--json")
    first = cli("send", "sum", "[1]", *words).json["id"]
    assert cli("send", "sum", "[2]", *words).json["id"] == first
    info = cli("intents", "get", first, "--json").json
    assert info["status"] == "CREATED"
    assert info["start"]
    assert cli("send", "sum", "[3]", "--debounce", "0.2", "--wait").json == 6
    until(cli, first, "COMPLETED")
    assert cli("intents", "get", first, "--json").json["result"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--debounce-key", "17"), "--debounce 5"),
        (("--debounce-max", "17"), "--debounce 5"),
        (("--debounce", "5", "--debounce-max", "4"), "not 4 s"),
        (("--debounce", "5", "--delay", "4"), "--delay"),
        (("--debounce", "5", "--idempotency-key", "a"), "--idempotency-key"),
        (("--debounce", "5", "--key", "k", "--on-busy", "reject"), "--on-busy"),
        (("--debounce", "5", "--key", "k", "--max-queued", "0"), "--max-queued"),
        (("--debounce", "5", "--debounce-key", "a\nb"), "printable"),
    ],
)
def test_what_cannot_be(cli: Cli, words: tuple[str, ...], said: str) -> None:
    refused(cli("send", "debounced", "1", *words), "BAD_ARGUMENT", said, exit_code=2)
    refused(cli("intents", "list", "-q", "debounced"), "QUEUE_NOT_FOUND")


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_a_time_that_is_none(cli: Cli, seconds: str) -> None:
    said = cli("send", "debounced", "1", "--debounce", seconds)
    assert (said.code, said.out) == (2, "")
