"""
Sessions under SIGKILL. This is the quick size; the full one (500 sessions of 40 intents) is its own command:

    uv run python -m tests.crash sessions
"""

from __future__ import annotations

import json

import pytest

from tests.crash.killing import Drill
from tests.crash.queueing import session_drill

pytestmark = pytest.mark.anyio


async def test_forty_sessions_keep_order_exclusion_and_state_through_five_kills() -> None:
    plan = Drill(intents=40, steps=10, kills=5, pace=0.1, pause=0.5, concurrency=8, seed=11, within=120)
    figures = await session_drill(plan)
    print(json.dumps(figures))
    assert figures["kills"] == 5
    assert figures["begun again"] > 0, "no kill hit an intent at work"
