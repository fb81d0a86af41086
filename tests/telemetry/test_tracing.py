"""Traces as an exporter sees them: of one process, and of an intent whose worker is killed."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog
from opentelemetry import baggage, context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from redurable import Retry, compensate, sleep, spans, step, testing
from redurable import sync as blocking
from redurable.errors import IdempotencyConflict
from redurable.store.inspection import decode_envelope
from redurable.store.server import PrivateServer
from redurable.telemetry import logs, tracing
from tests.runtime.world import QUEUE, World, again
from tests.support.fleet import Fleet, until

pytestmark = pytest.mark.anyio
AT_ONCE = Retry(attempts=4, first=0, jitter=False)
SECRET = "4111-1111-tip-top"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Traced:
    """What was exported in this process."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("users.own")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def parent(self, span: ReadableSpan) -> str:
        """The name of the span's parent, "" for none that was exported."""
        ids = {s.context.span_id: s.name for s in self.spans if s.context is not None}
        return "" if span.parent is None else ids.get(span.parent.span_id, "?")


@pytest.fixture
def traced() -> Iterator[Traced]:
    seen = Traced()
    end = tracing.observe(seen.provider)
    yield seen
    end()
    assert spans.observer is None


@pytest.fixture
async def w(redis_url: str, namespace: str) -> AsyncIterator[World]:
    async with World(redis_url, namespace) as world:
        yield world


# --- in one process ---------------------------------------------------------------------------------------------------


async def test_send_attempt_and_steps_are_one_trace_with_the_senders_span_on_top(w: World, traced: Traced) -> None:
    @step
    async def inner(n: int) -> int:
        with traced.tracer.start_as_current_span("a query"):
            return n

    @step
    async def outer(n: int) -> int:
        return await inner(n)

    @step
    def plain(n: int) -> int:
        with traced.tracer.start_as_current_span("in a thread"):
            return n

    async def handler(n: int) -> int:
        return sum(await asyncio.gather(outer(n), inner(n))) + await plain.aio(n)

    await w.serve(handler)
    with traced.tracer.start_as_current_span("checkout"):
        intent = await w.send(1)
    assert await w.result(intent) == 3
    await until(lambda: traced.named(f"process {QUEUE}"))
    assert len({span.context.trace_id for span in traced.spans if span.context}) == 1
    tree = Counter((traced.parent(span), span.name) for span in traced.spans)
    assert tree == {
        ("", "checkout"): 1, ("checkout", f"send {QUEUE}"): 1, (f"send {QUEUE}", f"process {QUEUE}"): 1,
        (f"process {QUEUE}", "outer"): 1, ("outer", "inner"): 1, (f"process {QUEUE}", "inner"): 1,
        ("inner", "a query"): 2, (f"process {QUEUE}", "plain"): 1, ("plain", "in a thread"): 1,
    }  # fmt: skip
    sent, attempt = traced.one(f"send {QUEUE}"), traced.one(f"process {QUEUE}")
    assert (sent.kind, attempt.kind, traced.one("outer").kind) == (
        SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.INTERNAL
    )  # fmt: skip
    assert dict(sent.attributes or {}) == {
        "messaging.system": "redurable", "messaging.operation.name": "send", "messaging.operation.type": "send",
        "messaging.destination.name": QUEUE, "messaging.message.id": intent,
    }  # fmt: skip
    told = dict(attempt.attributes or {})
    assert (told["messaging.message.id"], told["redurable.attempt"], told["redurable.ended"]) == (
        intent, 1, "COMPLETED"
    )  # fmt: skip
    assert attempt.status.status_code is StatusCode.UNSET


async def test_a_replayed_step_has_no_second_span_and_attempts_are_linked(w: World, traced: Traced) -> None:
    """Three attempts: the first fails, the second is put down to sleep, the third ends it."""

    @step
    async def first() -> None: ...

    @step
    async def second() -> None: ...

    async def handler() -> None:
        await first()
        again()
        await sleep(1.2)
        await second()

    await w.serve(handler)
    await w.call()
    await until(lambda: len(traced.named(f"process {QUEUE}")) == 3)
    one, two, three = traced.named(f"process {QUEUE}")
    ends = [dict(a.attributes or {})["redurable.ended"] for a in (one, two, three)]
    assert ends == ["retry", "parked", "COMPLETED"]
    assert [len(a.links) for a in (one, two, three)] == [0, 1, 1]
    assert one.context
    assert two.context
    assert two.links[0].context.span_id == one.context.span_id
    assert two.links[0].context.trace_id == one.context.trace_id
    assert three.links[0].context.span_id == two.context.span_id
    assert traced.one("first").parent == one.context
    assert traced.parent(traced.one("second")) == f"process {QUEUE}"
    assert one.status.status_code is StatusCode.ERROR


async def test_failed_tries_are_events_of_the_steps_one_span(w: World, traced: Traced) -> None:
    tries = 0

    @step(retry=AT_ONCE)
    async def shaky(secret: str) -> str:
        nonlocal tries
        tries += 1
        with traced.tracer.start_as_current_span("a try", record_exception=False, set_status_on_exception=False):
            if tries < 3:
                raise LookupError(f"no {secret}")
        return secret

    async def handler(secret: str) -> str:
        return await shaky(secret)

    await w.serve(handler)
    assert await w.call(SECRET) == SECRET
    span = await until(lambda: traced.named("shaky")[0])
    assert dict(span.attributes or {})["redurable.tries"] == 3
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["exception", "exception"]
    told = dict(span.events[0].attributes or {})
    assert told["exception.type"] == "LookupError"
    assert "shaky" in str(told["exception.stacktrace"])
    assert [traced.parent(s) for s in traced.named("a try")] == ["shaky"] * 3
    assert SECRET not in "".join(s.to_json() for s in traced.spans)


async def test_a_step_that_failed_for_good_and_its_intent_are_errors_without_words(w: World, traced: Traced) -> None:
    @step(retry=Retry(attempts=2, first=0))
    def broken(secret: str) -> None:
        raise LookupError(f"no {secret}")

    @step
    async def undo() -> None: ...

    async def handler(secret: str) -> None:
        compensate(undo)
        await broken.aio(secret)

    await w.serve(handler)
    intent = await w.send(SECRET)
    await w.failure(intent)
    await until(lambda: traced.named(f"process {QUEUE}"))
    span, attempt = traced.one("broken"), traced.one(f"process {QUEUE}")
    assert span.status.status_code is attempt.status.status_code is StatusCode.ERROR
    assert span.status.description == dict(span.attributes or {})["error.type"] == "LookupError"
    assert dict(attempt.attributes or {})["redurable.ended"] == "FAILED"
    assert dict(attempt.events[0].attributes or {})["redurable.code"] == "STEP_FAILED"
    assert traced.parent(traced.one("undo")) == f"process {QUEUE}"
    assert SECRET not in "".join(s.to_json() for s in traced.spans)


async def test_an_operators_retry_is_another_span(w: World, traced: Traced) -> None:
    @step(retry=Retry(attempts=2, first=0))
    def broken() -> None:
        raise LookupError

    async def handler(payload: None) -> None:
        await broken.aio()

    await w.serve(handler)
    intent = await w.send()
    await w.failure(intent)
    await until(lambda: traced.named(f"process {QUEUE}"))
    await w.client.retry(intent)
    await w.failure(intent)
    await until(lambda: len(traced.named("broken")) == 2)
    ids = {s.context.span_id for s in traced.named("broken") if s.context}
    assert len(ids) == 2


async def test_a_plain_handlers_steps_are_children_of_its_attempt(w: World, traced: Traced) -> None:
    @step
    def plain() -> None:
        with traced.tracer.start_as_current_span("a query"):
            pass

    def handler() -> None:
        plain()
        again()
        blocking.run("inline", lambda: None)

    await w.serve(handler)
    await w.call()
    await until(lambda: len(traced.named(f"process {QUEUE}")) == 2)
    assert [traced.parent(traced.one(name)) for name in ("plain", "inline", "a query")] == [
        f"process {QUEUE}", f"process {QUEUE}", "plain"
    ]  # fmt: skip


async def test_an_attempt_that_lost_its_intent_is_told_by_the_next(w: World, traced: Traced) -> None:
    gate = asyncio.Event()

    @step
    async def held() -> None:
        await gate.wait()

    async def handler() -> None:
        await held()

    await w.serve(handler)
    intent = await w.send()
    await w.event("step.started")
    assert await w.lose(intent, counted=True) == "OK"
    await until(lambda: len(w.seen("step.started")) == 2)
    gate.set()
    await w.result(intent)
    await until(lambda: len(traced.named(f"process {QUEUE}")) == 2 and w.seen("attempt.fenced"))
    lost, last = sorted(traced.named(f"process {QUEUE}"), key=lambda s: dict(s.attributes or {})["redurable.attempt"])
    assert dict(lost.attributes or {})["redurable.ended"] == "lost"
    assert lost.start_time
    assert lost.end_time
    assert last.start_time
    assert lost.start_time < lost.end_time <= last.start_time + 50_000_000
    assert lost.context
    assert last.links[0].context.span_id == lost.context.span_id
    assert traced.one("held").parent == last.context


async def test_baggage_travels_and_a_digest_knows_nothing_of_traces(w: World, traced: Traced) -> None:
    seen: list[Any] = []

    @step
    async def look() -> None:
        seen.append(baggage.get_baggage("tenant"))

    async def handler(n: int) -> None:
        await look()

    await w.serve(handler)
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with traced.tracer.start_as_current_span("one request"):
        intent = await w.send(1, idempotency_key="k")
    context.detach(token)
    await w.result(intent)
    assert seen == ["acme"]
    with traced.tracer.start_as_current_span("the same, later"):
        assert await w.send(1, idempotency_key="k") == intent
        with pytest.raises(IdempotencyConflict):
            await w.send(2, idempotency_key="k")
    assert [s.status.status_code for s in traced.named(f"send {QUEUE}")] == [
        StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR
    ]  # fmt: skip


async def test_many_are_sent_in_one_span_and_attempts_are_its_children(w: World, traced: Traced) -> None:
    async def handler(n: int) -> int:
        return n

    await w.serve(handler)
    for intent in await w.client.send_many(QUEUE, range(5)):
        await w.result(intent)
    assert await w.client.call(QUEUE, 7) == 7
    await until(lambda: len(traced.named(f"process {QUEUE}")) == 6)
    many, single = traced.named(f"send {QUEUE}")
    assert dict(many.attributes or {})["messaging.batch.message_count"] == 5
    parents = Counter(s.parent.span_id for s in traced.named(f"process {QUEUE}") if s.parent)
    assert many.context
    assert single.context
    assert parents == {many.context.span_id: 5, single.context.span_id: 1}


async def test_without_a_senders_trace_the_attempts_are_one_all_the_same(w: World) -> None:
    async def handler() -> None:
        again()

    intent = await w.send()
    seen = Traced()
    end = tracing.observe(seen.provider)
    try:
        await w.serve(handler)
        await w.result(intent)
        await until(lambda: len(seen.spans) == 2)
    finally:
        end()
    assert len({span.context.trace_id for span in seen.spans if span.context}) == 1
    assert seen.spans[1].links[0].context.span_id == seen.spans[0].context.span_id  # type: ignore[union-attr]


async def test_without_tracing_nothing_is_carried(w: World) -> None:
    intent = await w.send(1)
    store = w.store
    body = await store.mux.command("GET", store.keys_of(intent).envelope(intent))
    assert decode_envelope(body).trace == {}
    assert spans.observer is None


def test_a_program_that_traces_needs_no_word_more(redis_url: str, namespace: str) -> None:
    """Its own provider is enough; without one opentelemetry is not even asked."""
    import subprocess

    code = f"""
import asyncio, sys
from redurable import Client, spans
from redurable.sync import Client as Blocking
async def main():
    async with Client({redis_url!r}, namespace={namespace!r}) as client:
        await client.send("q")
asyncio.run(main())
assert spans.observer is None and "redurable.telemetry.tracing" not in sys.modules
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter
provider = TracerProvider()
def told(span):
    return span.name + " in " + str(span.parent and span.parent.span_id) + "\\n"
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=told)))
trace.set_tracer_provider(provider)
with Blocking({redis_url!r}, namespace={namespace!r}) as client:
    with trace.get_tracer("x").start_as_current_span("top") as top:
        client.send("q")
        print("expected", top.get_span_context().span_id)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    sent, expected = done.stdout.splitlines()[:2]
    assert sent == f"send q in {expected.split()[1]}"


async def test_log_lines_bear_the_ids_of_the_span_they_are_said_in(w: World, traced: Traced) -> None:
    lines = io.StringIO()
    end = logs.start("json", stream=lines)

    @step
    async def body() -> None:
        logging.getLogger("mine").info("in the step")

    async def handler() -> None:
        structlog.get_logger("mine").info("in the handler")
        await body()

    try:
        await w.serve(handler)
        intent = await w.send()
        await w.result(intent)
        await until(lambda: traced.named(f"process {QUEUE}"))
        logging.getLogger("mine").info("outside")
    finally:
        end()
    said = {line["event"]: line for line in map(json.loads, lines.getvalue().splitlines())}
    for event, name in (("in the step", "body"), ("in the handler", f"process {QUEUE}")):
        span = traced.one(name).context
        assert span
        assert (said[event]["trace_id"], said[event]["span_id"]) == (
            format_trace_id(span.trace_id), format_span_id(span.span_id)
        )  # fmt: skip
        assert (said[event]["intent"], said[event]["attempt"]) == (intent, 1)
    assert "trace_id" not in said["outside"]


def test_the_testing_kits_runs_are_traced_too(traced: Traced) -> None:
    @step
    async def first() -> None: ...

    @step
    async def second() -> None: ...

    async def handler() -> None:
        await first()
        await second()

    assert testing.run(handler, crash_after=0).result is None
    name = f"process {handler.__module__}.{handler.__qualname__}"
    assert [s.name for s in traced.spans if s.name != name] == ["first", "second"]
    assert [dict(s.attributes or {})["redurable.ended"] for s in traced.spans if s.name == name] == [
        "lost",
        "COMPLETED",
    ]


# --- through a kill -9 ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """A span as a collector gets it."""

    trace: str
    id: str
    parent: str
    name: str
    facts: dict[str, Any]
    links: tuple[str, ...]
    events: tuple[str, ...]
    failed: bool
    of: dict[str, Any]


class Collector:
    """An OTLP/HTTP receiver."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.raw.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[Span]:
        return [
            Span(
                span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name, _facts(span.attributes),
                tuple(link.span_id.hex() for link in span.links), tuple(event.name for event in span.events),
                span.status.code == 2, _facts(resource.resource.attributes),
            )
            for raw in list(self.raw)
            for resource in ExportTraceServiceRequest.FromString(raw).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]  # fmt: skip

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _facts(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value") or "string_value") for a in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture
async def fleet(namespace: str) -> AsyncIterator[Fleet]:
    with PrivateServer(port=0, appendfsync="no") as server:
        async with Fleet(server, namespace) as fleet:
            yield fleet


@pytest.fixture
def supervise(fleet: Fleet, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Start `redurable worker` on the orders, exporting to the collector."""

    def start() -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        words = [sys.executable, "-m", "redurable", "worker", "tests.telemetry.app", "--url", fleet.url]
        fleet._start([*words, "--namespace", fleet.namespace, "--log-format", "json"], {}, "parent")

    return start


async def test_a_killed_recovered_and_retried_intent_is_one_trace(
    fleet: Fleet, collector: Collector, supervise: Callable[..., None], traced: Traced
) -> None:
    supervise()
    await fleet.event("worker.started", 60)
    with traced.tracer.start_as_current_span("checkout"):
        intent = await fleet.client.send("orders", {"items": ["a", "b"], "secret": SECRET})
    victim = (await fleet.line(intent, "pack", within=60)).pid
    await until(lambda: len([s for s in collector.spans() if s.name == "reserve"]) == 2, 60)
    os.kill(victim, signal.SIGKILL)
    await fleet.line(intent, "pack", count=2, within=60)
    fleet.open("packing")
    assert await fleet.client.wait_for(intent, 40) == SECRET
    await fleet.reap()
    found = collector.spans()

    sent = traced.one("send orders")
    assert sent.context
    assert {s.trace for s in found} == {format_trace_id(sent.context.trace_id)}
    assert Counter(s.name for s in found) == {
        "process orders": 3, "reserve": 2, "pack": 1, "wrap": 1, "bill": 1, "ship": 1
    }  # fmt: skip
    assert len({s.id for s in found}) == len(found)
    attempts = sorted((s for s in found if s.name == "process orders"), key=lambda s: s.facts["redurable.attempt"])
    assert [a.facts["redurable.ended"] for a in attempts] == ["lost", "retry", "COMPLETED"]
    assert [a.failed for a in attempts] == [True, True, False]
    assert {a.parent for a in attempts} == {format_span_id(sent.context.span_id)}
    first, second, third = attempts
    assert [a.links for a in attempts] == [(), (first.id,), (second.id,)]
    where = {s.facts["redurable.step"]: s.parent for s in found if "redurable.step" in s.facts}
    assert where == {
        "reserve#1": first.id, "reserve#2": first.id, "pack#1": second.id, "bill#1": second.id, "ship#1": third.id
    }  # fmt: skip
    bill = next(s for s in found if s.name == "bill")
    assert (bill.events, bill.failed, bill.facts["redurable.tries"]) == (("exception",), False, 2)
    assert next(s for s in found if s.name == "wrap").parent == next(s for s in found if s.name == "pack").id
    # who did what: two processes, named after the module that they serve
    assert {s.of["service.name"] for s in found} == {"tests.telemetry.app"}
    assert len({s.of["service.instance.id"] for s in found}) == 2
    assert SECRET not in b"".join(collector.raw).decode(errors="replace")


async def test_a_worker_without_the_packages_says_so_and_works(
    fleet: Fleet, supervise: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin-of-nobody")
    supervise()
    fleet.open("packing")
    assert await fleet.client.call("orders", {"items": [], "secret": "s"}, timeout=40) == "s"
    assert "there is no trace exporter 'zipkin-of-nobody'" in fleet.log()
    assert "tracing.unavailable" in fleet.log()
