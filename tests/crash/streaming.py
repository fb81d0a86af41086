"""Stream steps for the crash tests: one that begins anew, as an LLM's answer does, and one that goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from redurable import emit, handler, progress, resume_offset, run, step
from tests.crash.app import gate, note

PACE = 0.01
Item = dict[str, int]


@step
async def answer(n: int, stops: list[int]) -> AsyncIterator[Item]:
    """Never twice the same: each item names the process."""
    note("answer")
    for i in range(n):
        if i in stops:
            await gate(f"answer{i}")
        yield {"n": i, "pid": os.getpid()}
        await asyncio.sleep(PACE)


@step(resume=True)
async def pages(n: int, stops: list[int]) -> AsyncIterator[Item]:
    """The same whoever reads them, but for the process."""
    note(f"pages:{resume_offset()}")
    for i in range(resume_offset(), n):
        if i in stops:
            await gate(f"pages{i}")
        yield {"n": i, "pid": os.getpid()}
        await asyncio.sleep(PACE)


@handler(queue="streamed", max_delivery_attempts=100)
async def streamed(payload: dict[str, Any]) -> dict[str, list[Item]]:
    """An answer, then pages, a step after each fifty; before items in *stops* they wait for their gates."""
    n, stops = payload["n"], payload["stops"]
    emit("begun")
    answered = [item async for item in answer(n, stops["answer"])]
    emit("answered")
    read: list[Item] = []
    async for page in pages(n, stops["pages"]):
        read.append(page)
        if len(read) % 50 == 0:
            await run("mark", lambda: None)
            emit({"read": len(read)})
        progress(len(read), n, "pages")
    emit("over")
    return {"answer": answered, "pages": read}
