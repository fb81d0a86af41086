"""An agent researches companies, all at once, and another writes the answer; how they are kept is in `durable`."""

from __future__ import annotations

import functools
from typing import TypedDict

from agents import Agent, Runner, function_tool
from openai import AsyncOpenAI

from redurable import handler, idempotency_key, step
from workers.agent.durable import durable_config, durable_tool

client = functools.cache(AsyncOpenAI)


@step
async def buy(what: str, text: str) -> str:
    """Make a call that costs money."""
    headers = {"Idempotency-Key": idempotency_key()}
    return await client().post(f"/{what}", cast_to=str, body={"text": text}, options={"headers": headers})


@durable_tool
@function_tool
async def research(company: str) -> str:
    """Find out what a company does."""
    address = await buy("search", company)
    page = await buy("fetch", address)
    return await buy("summarise", page)


analyst = Agent("analyst", instructions="Research each company, then take notes.", tools=[research], model="gpt-5")
writer = Agent("writer", instructions="Write the answer out of the notes.", model="gpt-5")


class Answer(TypedDict):
    text: str
    tokens: int


@handler(queue="analyst")
async def answer(question: str) -> Answer:
    config = durable_config()
    notes = await Runner.run(analyst, question, run_config=config)
    written = Runner.run_streamed(writer, notes.final_output, run_config=config)
    async for _ in written.stream_events():
        pass
    tokens = notes.context_wrapper.usage.total_tokens + written.context_wrapper.usage.total_tokens
    return Answer(text=written.final_output, tokens=tokens)
