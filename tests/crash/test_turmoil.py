"""
Everything at once. This is the quick size; the full one is its own command:

    uv run python -m tests.crash turmoil
"""

from __future__ import annotations

import pytest

from tests.crash.killing import Drill
from tests.crash.turmoil import turmoil_drill

pytestmark = pytest.mark.anyio


async def test_whatever_people_and_machines_do_everything_ends_and_the_books_agree() -> None:
    figures = await turmoil_drill(Drill(15, 2, 6, pace=0.3, pause=0.0, concurrency=50, within=120, seed=5))
    assert sum(figures["strokes"].values()) == 6
    assert figures["ended"]["COMPLETED"] > 0
