"""Release 2 of an application; the other one's code cannot go on with its journals."""

from __future__ import annotations

from typing import Any

from redurable import Retry, handler
from tests.crash.release import body


@handler(queue="release", retry=Retry(attempts=2, first=0.05), max_delivery_attempts=20)
async def order(payload: dict[str, Any]) -> list[str]:
    return await body("v2", ["check", "weigh", "fetch", "ship", "tell"], payload)
