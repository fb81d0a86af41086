"""
Very many turns, very many cancelled at once. These are the quick sizes; the full ones are commands of their own:

    uv run python -m tests.crash turns | bulk
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.crash.killing import Drill
from tests.crash.many import bulk_drill
from tests.support.fleet import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


def test_turn_after_turn_takes_no_more_memory_by_the_command_for_long_drills() -> None:
    words = [sys.executable, "-m", "tests.crash", "turns", "--steps", "2000", "--seed", "7"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, _, figures = done.stdout.partition("\n")
    assert json.loads(first) == {"drill": "turns", "seed": 7}
    assert json.loads(figures)["turns"] == 2000


async def test_a_dry_run_counts_exactly_what_a_bulk_cancel_then_ends() -> None:
    figures = await bulk_drill(Drill(2000, 0, 0, pace=0.0, pause=0.0, concurrency=100, within=100))
    assert figures["intents"] == 2000
