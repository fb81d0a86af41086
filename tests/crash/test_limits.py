"""
Limits under SIGKILL. These are the quick sizes; the full ones (200 kills; 6,000 begun with 30 kills) are commands:

    uv run python -m tests.crash limits | rate
"""

from __future__ import annotations

import json

import pytest

from tests.crash.killing import Drill
from tests.crash.limiting import limit_drill, rate_drill

pytestmark = pytest.mark.anyio


async def test_no_more_than_five_of_a_key_are_inside_through_kills_and_none_is_leaked() -> None:
    plan = Drill(intents=80, steps=3, kills=3, pace=0.1, pause=0.25, concurrency=20, seed=5, within=60)
    figures = await limit_drill(plan)
    print(json.dumps(figures))
    assert figures["kills"] == 3
    assert figures["handlers begun again"] > 0, "no kill hit an intent at work"


async def test_no_second_has_more_than_a_hundred_through_kills() -> None:
    figures = await rate_drill(Drill(30, 15, 2, pace=0.1, pause=0.0, concurrency=20, seed=3, within=60))
    print(json.dumps(figures))
    assert figures["kills"] == 2
    assert figures["a second"] > 40, "the rate was hardly used"
