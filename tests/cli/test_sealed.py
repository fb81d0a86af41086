"""What the command line shows of sealed intents: the values, if it has codec and key; else what stands for them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Running
from tests.cli.test_errors import refused

SECRET = "tiptopsecretword"
CODEC = "tests.e2e.sealed_app:codec"
ONE, TWO = (f"key{n}=" + base64.b64encode(bytes(range(n, n + 32))).decode() for n in (1, 2))


def until(cli: Cli, intent: str, status: str) -> None:
    end = time.monotonic() + 20
    while cli("intents", "get", intent, "--json").json["status"] != status:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_values_with_the_key_and_placeholders_without(
    cli: Cli, start_worker: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = {"REDURABLE_CODEC": CODEC, "REDURABLE_KEYS": ONE, "SEALED_DIRECTORY": str(tmp_path)}
    worker = start_worker("tests.e2e.sealed_app", "--codec", CODEC, REDURABLE_KEYS=ONE, SEALED_DIRECTORY=str(tmp_path))
    worker.wait_for("worker.started")
    for name, value in sealed.items():
        monkeypatch.setenv(name, value)
    parked = cli("send", "parked", f'{{"text": "{SECRET}", "large": false}}').out.strip()
    failed = cli("send", "failing", f'{{"text": "{SECRET}"}}').out.strip()
    until(cli, parked, "WAITING")
    until(cli, failed, "FAILED")
    assert SECRET in cli("intents", "history", parked, "--values").out
    assert SECRET in cli("intents", "history", parked, "--values", "--json").out
    assert SECRET in cli("intents", "get", failed).out
    assert SECRET in cli("intents", "get", failed, "--traceback").out
    assert SECRET not in cli("intents", "export", parked).out, "an export stays sealed"
    for change in ("no codec", "another key"):
        if change == "no codec":
            monkeypatch.delenv("REDURABLE_CODEC")
        else:
            monkeypatch.setenv("REDURABLE_CODEC", CODEC)
            monkeypatch.setenv("REDURABLE_KEYS", TWO)
        for words in (
            ("history", parked, "--values"), ("history", parked, "--values", "--json"), ("get", failed),
            ("get", failed, "--json", "--traceback"), ("list", "--json"), ("export", failed),
        ):  # fmt: skip
            said = cli("intents", *words)
            assert (said.code, SECRET in said.out + said.err) == (0, False), words
        assert "(sealed by aes-gcm, " in cli("intents", "history", parked, "--values").out
        assert "[CODEC_MISSING]" in cli("intents", "history", parked, "--values", "--json").out
        assert "ValueError: (sealed)" in cli("intents", "get", failed).out
    held = cli("send", "parked", f'{{"text": "{SECRET}", "large": false}}').out.strip()
    until(cli, held, "WAITING")
    told = cli("intents", "get", held)
    assert "WAITING (HELD)" in told.out
    assert "CODEC_KEY_MISSING: key 'key2' is not known here" in told.out
    assert worker.wait_for("intent.held")["intent"] == held
    monkeypatch.delenv("REDURABLE_CODEC")


@pytest.mark.parametrize("codec", ["nothing_of_that_name:here", "os", "os:nothing", "os:sep"])
def test_a_codec_that_cannot_be(cli: Cli, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    refused(cli("worker", "tests.cli.app", "--codec", codec), "BAD_CODEC")
    monkeypatch.setenv("REDURABLE_CODEC", codec)
    refused(cli("intents", "list"), "BAD_CODEC")
    refused(cli("send", "sum", "[1]"), "BAD_CODEC")
    refused(cli("worker", "tests.cli.app"), "BAD_CODEC")


def test_keys_that_are_not_set(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_DIRECTORY", ".")
    monkeypatch.setenv("REDURABLE_CODEC", CODEC)
    refused(cli("intents", "list"), "BAD_CODEC", "REDURABLE_KEYS", "openssl rand")
