"""
The OpenAI Agents SDK on redurable: every call of a model, and every call of a tool, is a step.

    result = await Runner.run(agent, question, run_config=durable_config())

- A model's answer is recorded before the SDK sees it, so a recovered run goes on with the same answer and the same
  tool-call ids. Each request carries an Idempotency-Key, the same on every try, for servers that honour it.
- A streamed answer is one step too: it is recorded when it is complete, and the SDK is given its events then, live as
  on replay. Its text is told as it comes: `async for event in client.stream(id, "model stream")`. Should the call be
  made again, a "reset" comes before the text of the new answer.
- A tool under `durable_tool` is a step named by its tool-call id: calls that the model asks for in parallel run in
  parallel and find their own results again. Steps called inside it are recorded one by one, so a tool of three calls
  recovers to its third. A tool without it runs as a part of the handler: it may `sleep` for days, but what it does
  beside steps is done again on replay.
- What a tool raises becomes an answer for the model, as the SDK does it. What ends an attempt (a drain, a lost lease,
  a cancel) cannot: the next durable call raises it again, and nothing that the run returned is kept.

An agent that holds a `Model` object bypasses the provider, and so all of this: name its model instead.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents import FunctionTool, Model, ModelProvider, ModelResponse, ModelSettings, RunConfig
from agents.items import TResponseOutputItem, TResponseStreamEvent
from agents.models.multi_provider import MultiProvider
from agents.tool_context import ToolContext
from agents.usage import deserialize_usage, serialize_usage
from openai import AuthenticationError, BadRequestError, BaseModel, NotFoundError, PermissionDeniedError

from redurable import Retry, emit, idempotency_key, run

_RETRY = Retry(never=(AuthenticationError, BadRequestError, NotFoundError, PermissionDeniedError))
# a cancelled agent shall stop spending: a model's call is interrupted, a tool's is finished
_ask = run.with_(retry=_RETRY, on_cancel="interrupt")


def durable_config(models: ModelProvider | None = None, **options: Any) -> RunConfig:
    """Return a RunConfig whose models (the SDK's own by default) are journaled; *options* are RunConfig's others."""
    options.setdefault("tracing_disabled", True)  # a replay would trace everything again
    return RunConfig(model_provider=DurableModels(models or MultiProvider()), **options)


def durable_tool(tool: FunctionTool) -> FunctionTool:
    """Return *tool* with each call of it a step, named by the tool-call id; its results must be plain data."""

    async def invoke(context: ToolContext[Any], arguments: str) -> Any:
        once = run.with_(id=context.tool_call_id)
        return await once(tool.name, tool.on_invoke_tool, context, arguments)

    return dataclasses.replace(tool, on_invoke_tool=invoke)


class DurableModels(ModelProvider):
    """Gives the models of another provider, journaled."""

    def __init__(self, models: ModelProvider) -> None:
        self._models = models

    def get_model(self, model_name: str | None) -> Model:
        """Return the model of that name."""
        return DurableModel(self._models.get_model(model_name))

    async def aclose(self) -> None:
        """Close the provider's connections."""
        await self._models.aclose()


class DurableModel(Model):
    """A model each of whose answers is recorded, whole, before anybody acts on it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def get_response(
        self, system_instructions: str | None, input: Any, model_settings: ModelSettings, *args: Any, **kwargs: Any
    ) -> ModelResponse:
        """Ask the model, or return what it answered before."""

        async def ask() -> dict[str, Any]:
            settings = _keyed(model_settings)
            answer = await self._model.get_response(system_instructions, input, settings, *args, **kwargs)
            return {
                "output": _plain(answer.output), "usage": serialize_usage(answer.usage),
                "response_id": answer.response_id, "request_id": answer.request_id,
            }  # fmt: skip

        found = await _ask("model", ask)
        output = _Recorded.construct(output=found["output"]).output
        return ModelResponse(output, deserialize_usage(found["usage"]), found["response_id"], found["request_id"])

    async def stream_response(
        self, system_instructions: str | None, input: Any, model_settings: ModelSettings, *args: Any, **kwargs: Any
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Listen to the model until it has ended, then yield its events; or yield those of before."""

        async def listen() -> bytes:
            events, settings = [], _keyed(model_settings)
            async for event in self._model.stream_response(system_instructions, input, settings, *args, **kwargs):
                events.append(event)
                if event.type == "response.output_text.delta":
                    emit(event.delta)
            return zlib.compress(json.dumps(_plain(events)).encode())  # most of it is the same in every event

        found = json.loads(zlib.decompress(await _ask("model stream", listen)))
        for event in _Recorded.construct(events=found).events:
            yield event


class _Recorded(BaseModel):
    """Restores what was recorded as the client makes it out of a server's answer: whatever fields it has or lacks."""

    output: list[TResponseOutputItem]
    events: list[TResponseStreamEvent]


def _plain(models: Sequence[Any]) -> list[dict[str, Any]]:
    return [model.model_dump(mode="json", by_alias=True, exclude_unset=True) for model in models]


def _keyed(settings: ModelSettings) -> ModelSettings:
    headers = {**(settings.extra_headers or {}), "Idempotency-Key": idempotency_key()}
    return dataclasses.replace(settings, extra_headers=headers)
