"""
SIGKILL at random. This is the quick size; the full one (200 kills, 1,000 intents of 50 steps) is its own command:

    uv run python -m tests.crash
"""

from __future__ import annotations

import json

import pytest

from tests.crash.killing import Drill, drill

pytestmark = pytest.mark.anyio


async def test_ten_kills_at_random_lose_nothing_and_repeat_nothing() -> None:
    plan = Drill(intents=70, steps=20, kills=10, pace=0.25, pause=0.2, concurrency=3, seed=7, within=120)
    figures = await drill(plan)
    print(json.dumps(figures))
    assert figures["kills"] == 10
    assert figures["attempts"] > 70, "no kill hit an intent at work"
