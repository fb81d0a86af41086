"""
Very many turns, very many cancelled at once. These are the quick sizes; the full ones are commands of their own:

    uv run python -m tests.crash turns | bulk
"""

from __future__ import annotations

import pytest

from tests.crash.killing import Drill
from tests.crash.many import bulk_drill, turn_drill

pytestmark = pytest.mark.anyio


async def test_turn_after_turn_takes_no_more_memory() -> None:
    figures = await turn_drill(Drill(1, 2000, 0, pace=0.0, pause=0.0, concurrency=10, within=40))
    assert figures["turns"] == 2000


async def test_a_dry_run_counts_exactly_what_a_bulk_cancel_then_ends() -> None:
    figures = await bulk_drill(Drill(2000, 0, 0, pace=0.0, pause=0.0, concurrency=100, within=40))
    assert figures["intents"] == 2000
