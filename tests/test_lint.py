"""Lint and form: what ruff would say, said by the tests, so that one command checks everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("words", [("check", "--output-format=concise"), ("format", "--check")], ids=lambda w: w[0])
def test_ruff_has_nothing_to_say(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "ruff", *words, "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    mend = "uv run ruff check --fix . && uv run ruff format ."
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nmend with: {mend}"


@pytest.mark.parametrize("script", sorted(ROOT.glob(".ci/*")), ids=lambda path: path.name)
def test_shell_scripts_parse(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
