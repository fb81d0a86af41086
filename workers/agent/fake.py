"""
A server that sells: as much of OpenAI's Responses API as the agent needs, and three calls of its own.

    python -m workers.agent.fake --ledger calls.sqlite     # prints its base URL

Its ledger (SQLite) has a row for each Idempotency-Key: how often the call was asked for, and whether it is paid. A
call is paid when its answer is complete, even if nobody is there any more to receive it; a stream that is cut off
before its end is not. Asked again with the key of a paid call, the server gives that answer and takes no money.

Its models invent new ids each time, as real ones do. The rest of it is for those who want to see it suffer: a call can
be stopped `asked` (before anything was done), `paid` (before the answer leaves) or, if it streams, in the `middle`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import secrets
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

PACE = 0.02  # s that a call, or a piece of a stream, takes at least
TOGETHER = 10.0  # s that a call waits for the others that it must overlap with


@dataclass(frozen=True)
class Call:
    """A row of the ledger. *intent* and *name* are for people; times are of the server's clock."""

    key: str
    intent: str
    name: str
    asked: int
    paid: int
    begun: float
    ended: float | None


class Ledger:
    """Calls and what became of them; the server writes, anybody may read."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        self._db.execute("PRAGMA synchronous=OFF")  # it outlives its writer's death, not the machine's
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, intent TEXT, name TEXT, asked INTEGER DEFAULT 0,"
            " paid INTEGER DEFAULT 0, begun REAL, ended REAL, answer TEXT)"
        )

    def ask(self, key: str, name: str) -> None:
        """Note that the call was asked for."""
        intent = key[:36] if len(key) > 36 else ""  # outside a worker keys belong to no intent
        self._db.execute("INSERT OR IGNORE INTO calls (key, intent, name) VALUES (?, ?, ?)", (key, intent, name))
        self._db.execute("UPDATE calls SET asked = asked + 1, begun = coalesce(begun, ?) WHERE key = ?",
                         (time.time(), key))  # fmt: skip

    def paid(self, key: str) -> Any:
        """Return the answer that was paid for, or None."""
        row = self._db.execute("SELECT answer FROM calls WHERE key = ? AND paid", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def pay(self, key: str, answer: Any) -> None:
        """Note that the call is complete, with its answer."""
        self._db.execute("UPDATE calls SET paid = paid + 1, ended = ?, answer = ? WHERE key = ?",
                         (time.time(), json.dumps(answer), key))  # fmt: skip

    def calls(self, intent: str) -> list[Call]:
        """Return the calls of an intent in the order in which they began."""
        columns = "key, intent, name, asked, paid, begun, ended"
        found = self._db.execute(f"SELECT {columns} FROM calls WHERE intent = ? ORDER BY begun", (intent,))
        return [Call(*row) for row in found]


class Stops:
    """Where calls stop until they are told to go on."""

    def __init__(self) -> None:
        self.armed: dict[tuple[str, str], bool] = {}  # whether it stops every call, or one
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.together: dict[str, int] = {}
        self._arrived: dict[str, set[str]] = defaultdict(set)
        self._news = asyncio.Condition()
        self._held: dict[tuple[str, str], list[asyncio.Event]] = defaultdict(list)

    async def at(self, place: str, name: str, request: Request) -> None:
        """Pass, unless a stop is armed here."""
        stop = (name, place)
        if stop in self.armed:
            if not self.armed[stop]:
                del self.armed[stop]
            go = asyncio.Event()
            self._held[stop].append(go)
            assert request.client is not None
            self.told.put_nowait({"call": name, "at": place, "port": request.client.port})
            await go.wait()

    def go(self, place: str, name: str) -> None:
        """Let the calls go on that have stopped here, and let the next ones pass."""
        self.armed.pop((name, place), None)
        for event in self._held.pop((name, place), ()):
            event.set()
        for _ in range(self.told.qsize()):
            told = self.told.get_nowait()
            if (told["call"], told["at"]) != (name, place):  # else nobody has asked for it, nor will
                self.told.put_nowait(told)

    async def meet(self, key: str, name: str) -> None:
        """Wait until as many calls of this kind are here at once as `together` says; TimeoutError if they are not."""
        what = name.split(maxsplit=1)[0]
        here = self._arrived[f"{key[:36]} {what}"]
        async with self._news, asyncio.timeout(TOGETHER):
            here.add(name)
            self._news.notify_all()
            await self._news.wait_for(lambda: len(here) >= self.together.get(what, 0))


# --- what it sells ----------------------------------------------------------------------------------------------------


def think(body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of the call and the items that a model puts out: tool calls, notes, or the answer."""
    given = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    results = [item["output"] for item in given if item.get("type") == "function_call_output"]
    asked = str(given[0]["content"])
    if body.get("tools") and not results:
        companies = re.findall(r"\b[A-Z]\w+", asked)[1:]  # the first word is "Compare"
        return "plan", [
            {"type": "function_call", "id": _id("fc"), "call_id": _id("call"), "name": body["tools"][0]["name"],
             "arguments": json.dumps({"company": company}), "status": "completed"}
            for company in companies
        ]  # fmt: skip
    if results:
        return "take notes", [_message(" ".join(results))]
    return "write", [_message(f"In short: {asked} Which of them is better depends on what you need.")]


def sell(what: str, text: str) -> tuple[str, str]:
    """Return the name of the call and its result."""
    company = re.findall(r"\w+", text.removeprefix("https://"))[0].capitalize()
    result = {
        "search": f"https://{company.lower()}.example/about",
        "fetch": f"{company} makes things. It has made them since 1999, and sells them.",
        "summarise": f"{company} makes things.",
    }[what]
    return f"{what} {company}", result


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": _id("msg"), "role": "assistant", "status": "completed", "content": content}


def _response(body: dict[str, Any], output: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    read, written = len(json.dumps(body["input"])) // 4, len(json.dumps(output)) // 4
    return {
        "id": _id("resp"), "object": "response", "created_at": time.time(), "status": status, "model": body["model"],
        "output": output, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
        "usage": {
            "input_tokens": read, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read + written,
        },
    }  # fmt: skip


def _events(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events by which a response of one message is streamed."""
    item = response["output"][0]
    part = item["content"][0]
    where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0,
         "item": {**item, "status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
          for piece in re.findall(r"\S+\s*", part["text"])),
        {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    ]  # fmt: skip
    return [{**event, "sequence_number": n} for n, event in enumerate(events)]


# --- how it sells it --------------------------------------------------------------------------------------------------


def application(ledger: Ledger) -> Starlette:
    """Return the server; its requests share one ledger."""
    stops = Stops()
    under_way: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def responses(request: Request) -> Response:
        body = await request.json()
        name, output = think(body)
        if not body.get("stream"):
            return await once(request, name, lambda: _response(body, output))
        return StreamingResponse(stream(request, name, body, output), media_type="text/event-stream")

    async def goods(request: Request) -> Response:
        name, result = sell(request.path_params["what"], (await request.json())["text"])
        return await once(request, name, lambda: result, PlainTextResponse)

    async def once(
        request: Request, name: str, make: Callable[[], Any], form: Callable[[Any], Response] = JSONResponse
    ) -> Response:
        key = request.headers["Idempotency-Key"]
        ledger.ask(key, name)
        await stops.at("asked", name, request)
        async with under_way[key]:
            answer = ledger.paid(key)
            if answer is None:
                await stops.meet(key, name)
                await asyncio.sleep(PACE)
                answer = make()
                ledger.pay(key, answer)
        await stops.at("paid", name, request)
        return form(answer)

    async def stream(
        request: Request, name: str, body: dict[str, Any], output: list[dict[str, Any]]
    ) -> AsyncIterator[str]:
        key = request.headers["Idempotency-Key"]
        ledger.ask(key, name)
        await stops.at("asked", name, request)
        async with under_way[key]:
            response = ledger.paid(key)
            complete = response is not None
            events = _events(response if response is not None else _response(body, output))
            for n, event in enumerate(events):
                if n == len(events) // 2:
                    await stops.at("middle", name, request)
                if event is events[-1]:
                    if not complete:
                        ledger.pay(key, event["response"])
                    await stops.at("paid", name, request)
                yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
                await asyncio.sleep(0 if complete else PACE)

    async def control(request: Request) -> Response:
        asked = await request.json()
        for call, at in asked.get("go", ()):
            stops.go(at, call)
        stops.armed.update(dict.fromkeys(map(tuple, asked.get("stop", ())), asked.get("every", False)))
        stops.together.update(asked.get("together", {}))
        # bounded: of two that wait, one who has gone must not be told what the other is there for
        told = asyncio.wait_for(stops.told.get(), asked["wait"]) if "wait" in asked else asyncio.sleep(0, {})
        try:
            return JSONResponse(await told)
        except TimeoutError:
            return JSONResponse({}, 504)

    return Starlette(
        routes=[
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/control", control, methods=["POST"]),
            Route("/v1/{what}", goods, methods=["POST"]),
        ]
    )


def main() -> None:
    """Serve until told to stop."""
    words = argparse.ArgumentParser(description="A private server that sells answers, and keeps a ledger of it.")
    words.add_argument("--ledger", type=Path, required=True)
    words.add_argument("--port", type=int, default=0)
    given = words.parse_args()
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind(("127.0.0.1", given.port))
    door.listen()
    print(f"http://127.0.0.1:{door.getsockname()[1]}/v1", flush=True)
    config = uvicorn.Config(application(Ledger(given.ledger)), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[door])


if __name__ == "__main__":
    main()
