"""What two releases of one application have in common: their steps tell the ledger which release ran them."""

from __future__ import annotations

import asyncio
from typing import Any

from redurable import call, current, promise, run, sleep
from tests.crash.app import note

__all__ = ["body"]


async def _stage(release: str, name: str, pause: float) -> str:
    note(f"{release}:{name}:{current().version}")
    await asyncio.sleep(pause)
    return release


async def body(release: str, order: list[str], payload: dict[str, Any]) -> list[str]:
    """Run the stages in *order*, with a park and a child in the middle; return the release that ran each."""
    ran = []
    for place, name in enumerate(order):
        ran.append(await run(name, _stage, release, name, payload["pause"]))
        if place == 1:
            await (promise("go") if payload["nap"] is None else sleep(payload["nap"]))
        if place == 2 and payload.get("child"):
            await call("release", {**payload, "child": False})
    return ran
