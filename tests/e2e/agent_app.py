"""What the agent tests run beside the example: tools that wait, and tools that tell what the SDK made of a signal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agents import Agent, Runner, function_tool

from redurable import handler, sleep
from workers.agent.analyst import answer, buy, writer
from workers.agent.durable import durable_config, durable_tool

__all__ = ["answer", "patient", "stubborn"]


def told(context: Any, error: Exception) -> str:
    """Note that the SDK is making an answer for the model out of *error*."""
    with Path(os.environ["AGENT_TOLD"]).open("a") as file:
        file.write(f"{type(getattr(error, 'cancelled_error', error)).__name__}\n")
    return f"it did not work: {error}"


@function_tool(failure_error_function=told)
async def ponder(company: str) -> str:
    """Think about a company; no step, so it may wait without a process."""
    page = await buy("fetch", f"https://{company.lower()}.example")
    await sleep(1.2)
    return await buy("summarise", page)


@durable_tool
@function_tool(failure_error_function=told)
async def research(company: str) -> str:
    """Find out what a company does."""
    page = await buy("fetch", await buy("search", company))
    return await buy("summarise", page)


@handler(queue="patient")
async def patient(question: str) -> str:
    config = durable_config()
    thinker = Agent("thinker", tools=[ponder], model="gpt-5")
    notes = await Runner.run(thinker, question, run_config=config)
    await sleep(1.2)
    written = await Runner.run(writer, notes.final_output, run_config=config)
    return str(written.final_output)


@handler(queue="stubborn")
async def stubborn(question: str) -> str:
    """As the example does, but whatever comes out of the SDK, this handler returns something."""
    config = durable_config()
    analyst = Agent("analyst", tools=[research], model="gpt-5")
    found = "nothing"
    try:
        notes = await Runner.run(analyst, question, run_config=config)
        written = Runner.run_streamed(writer, notes.final_output, run_config=config)
        async for _ in written.stream_events():
            pass
        found = str(written.final_output)
    except BaseException as error:
        found = f"swallowed {type(error).__name__}"
    return found
