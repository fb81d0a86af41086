"""
Traces by OpenTelemetry's API: a span for each send (producer), attempt (consumer) and step (internal).

    send orders                      the producer's, in whatever span it sends from
    ├── process orders   attempt 1   its worker was killed: told by the attempt that followed
    │   ├── charge#1
    │   └── pack#1
    └── process orders   attempt 2   linked to attempt 1
        └── ship#1

Invariants: a step has one span, ended once its result is in the journal, with its failed tries as events; what is
replayed has none. An attempt's span is a child of the sender's, whose context came in the envelope, and is linked to
the attempt before it. Ids of attempts and steps are derived from the intent, so that any process knows those of the
others without a word in Redis, and what a user's code did in a try that died hangs under the step in the end. Nothing
of payloads, results or messages of errors is in a span: an error is its class, its code, and where it was raised.

An attempt that lost its intent tells nothing: the next one tells it, since a killed process cannot.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, cast

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from redurable import events, spans
from redurable.model import AttemptFailed, Claimed, Reopened, decode_entry
from redurable.runtime.handlers import spec_of
from redurable.spans import Seen

__all__ = ["observe"]

_SYSTEM = "redurable"
_FRAMES = 12
_FACTS = {"id": "messaging.message.id", "count": "messaging.batch.message_count", "tries": "redurable.tries"}
_chosen: ContextVar[tuple[int, int] | None] = ContextVar("redurable_span_ids", default=None)
_attempts: ContextVar[_Attempt | None] = ContextVar("redurable_attempt_span", default=None)


def observe(provider: trace.TracerProvider | None = None) -> Callable[[], None]:
    """
    Trace what this process sends and runs from now on; return a function that ends it.

    A client does so by itself if its program has set a tracer provider before the client's first use, and a worker
    by the standard OTEL_* variables; call it only for a provider that is not the global one.
    """
    tracing = _Tracing(provider or trace.get_tracer_provider())
    before = spans.watch(tracing)
    unsubscribe = events.subscribe(_failed, ["step.failed", "handler.failed"])

    def end() -> None:
        unsubscribe()
        if spans.observer is tracing:
            spans.watch(before)

    return end


class _Ids:
    """The ids that are derived where they are, else those of the program's own generator."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def generate_trace_id(self) -> int:
        chosen = _chosen.get()
        return int(self._own.generate_trace_id()) if chosen is None else chosen[0]

    def generate_span_id(self) -> int:
        chosen = _chosen.get()
        return int(self._own.generate_span_id()) if chosen is None else chosen[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def _derived(size: int, *words: object) -> int:
    text = "\0".join(map(str, words)).encode()
    return int.from_bytes(blake2b(text, digest_size=size).digest(), "big") or 1


class _Attempt:
    """What the steps of an attempt need of it."""

    __slots__ = ("number", "reopened", "step")

    def __init__(self, number: int, reopened: int) -> None:
        self.number = number
        self.reopened = reopened  # an operator's retries: a step that they void is another one


class _Seen:
    def __init__(self, span: Span) -> None:
        self.span = span
        self.ended = False

    def done(self, how: str, /, **facts: Any) -> None:
        self.ended = how != "lost"
        if how:
            self.span.set_attribute("redurable.ended", how)
        for name, value in facts.items():
            self.span.set_attribute(_FACTS[name], value)


class _Tracing:
    """The observer: see the module."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer(_SYSTEM, version("redurable"))
        # the API has no word for it; a tracer of the SDK asks its own generator, and this tracer is ours alone
        tracer = cast("Any", self._tracer)
        self._derives = hasattr(tracer, "id_generator")
        if self._derives:
            tracer.id_generator = _Ids(tracer.id_generator)

    def carrier(self) -> dict[str, str]:
        carried: dict[str, str] = {}
        propagate.inject(carried)
        return carried

    def ids(self) -> dict[str, str]:
        here = trace.get_current_span().get_span_context()
        if not here.is_valid:
            return {}
        return {"trace_id": f"{here.trace_id:032x}", "span_id": f"{here.span_id:016x}"}

    def _span(self, name: str, kind: SpanKind, ids: tuple[int, int] | None, **options: Any) -> Span:
        token = _chosen.set(ids)
        try:
            return self._tracer.start_span(name, kind=kind, **options)
        finally:
            _chosen.reset(token)

    @contextmanager
    def sending(self, to: Any) -> Iterator[Seen]:
        queue = to if isinstance(to, str) else spec_of(to).queue
        span = self._span(
            f"send {queue}", SpanKind.PRODUCER, None,
            attributes={
                "messaging.system": _SYSTEM, "messaging.operation.name": "send", "messaging.operation.type": "send",
                "messaging.destination.name": queue,
            },
        )  # fmt: skip
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield _Seen(span)
        except BaseException as error:
            _tell(span, error)
            span.set_status(Status(StatusCode.ERROR, _class(error)))
            raise
        finally:
            context.detach(token)
            span.end()

    @contextmanager
    def attempt(self, lease: Any, carrier: dict[str, str], handler: str, losses: int) -> Iterator[Seen]:
        came = propagate.extract(carrier, context=context.Context())
        entries = [decode_entry(raw) for raw in lease.entries]
        claims = {int(e.attempt): e for e in entries if isinstance(e, Claimed)}
        if losses and len(entries) >= lease.base and _was_lost(entries, losses):
            number = lease.attempt - 1
            begun = claims[number].at if number in claims else lease.started
            lost = self._attempt(lease, came, handler, number, begun)
            if number in claims:
                lost.set_attribute("redurable.worker", claims[number].worker)
            lost.set_attribute("redurable.ended", "lost")
            lost.set_status(Status(StatusCode.ERROR, "its worker was lost"))
            lost.end(end_time=claims[lease.attempt].at * 1_000_000)
        span = self._attempt(lease, came, handler, lease.attempt, None)
        span.set_attribute("redurable.worker", lease.worker)
        here = _Attempt(lease.attempt, sum(isinstance(e, Reopened) for e in entries))
        reset = _attempts.set(here)
        token = context.attach(trace.set_span_in_context(span, came))
        seen = _Seen(span)
        try:
            yield seen
        finally:
            context.detach(token)
            _attempts.reset(reset)
            if seen.ended:
                span.end()

    def _attempt(self, lease: Any, came: context.Context, handler: str, number: int, begun_ms: int | None) -> Span:
        ids = (_derived(16, lease.id), _derived(8, lease.id, number)) if self._derives else None
        parent = trace.get_current_span(came).get_span_context()
        links = []
        if ids is not None and number > 1:
            flags = parent.trace_flags if parent.is_valid else TraceFlags(TraceFlags.SAMPLED)
            trace_id = parent.trace_id if parent.is_valid else ids[0]
            before = SpanContext(trace_id, _derived(8, lease.id, number - 1), is_remote=True, trace_flags=flags)
            links = [Link(before, {"redurable.link": "previous attempt"})]
        return self._span(
            f"process {lease.queue}", SpanKind.CONSUMER, ids, context=came, links=links,
            start_time=None if begun_ms is None else begun_ms * 1_000_000,
            attributes={
                "messaging.system": _SYSTEM, "messaging.operation.name": "process",
                "messaging.operation.type": "process", "messaging.destination.name": lease.queue,
                "messaging.message.id": lease.id, "code.function.name": handler, "redurable.attempt": number,
            },
        )  # fmt: skip

    @contextmanager
    def step(self, lease: Any, identity: tuple[str, str, int | str]) -> Iterator[Seen]:
        place, name, n = identity
        attempt = _attempts.get()
        ids = None
        if self._derives and attempt is not None:
            ids = (_derived(16, lease.id), _derived(8, lease.id, place, name, n, attempt.reopened))
        span = self._span(
            name, SpanKind.INTERNAL, ids,
            attributes={
                "redurable.intent": lease.id, "redurable.attempt": lease.attempt, "redurable.step": f"{name}#{n}",
                **({"redurable.scope": place} if place else {}),
            },
        )  # fmt: skip
        token = context.attach(trace.set_span_in_context(span))
        seen = _Seen(span)
        try:
            yield seen
        finally:
            context.detach(token)
            if seen.ended:
                span.end()


def _was_lost(entries: list[Any], losses: int) -> bool:
    """
    Whether the attempt before the last claim was lost, as far as the journal and the head's *losses* can tell.

    The losses since the last progress are as many as the attempts since then, so each of them was lost. When some were
    not, nobody knows which; then it is not told, rather than told twice.
    """
    before = entries[:-1]  # the last is the claim itself
    if before and isinstance(before[-1], AttemptFailed):
        return False
    silent = 0  # attempts that recorded nothing
    while before and isinstance(before[-1], Claimed):
        before.pop()
        silent += 1
    begun = not before or not isinstance(before[-1], AttemptFailed)
    return losses >= silent + begun


def _failed(name: str, fields: dict[str, Any]) -> None:
    """Subscriber of events: a try or a handler raised, in the context of its span."""
    span = trace.get_current_span()
    final = fields["retry_in"] is None
    _tell(span, fields["error"], {} if final else {"redurable.retry_in": fields["retry_in"]})
    if final or name == "handler.failed":
        span.set_attribute("error.type", _class(fields["error"]))
        span.set_status(Status(StatusCode.ERROR, _class(fields["error"])))


def _class(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def _tell(span: Span, error: BaseException, more: dict[str, Any] | None = None) -> None:
    """An event as `record_exception` makes it, but for the message: it may quote a payload."""
    frames = traceback.format_list(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    told = {"exception.type": _class(error), "exception.stacktrace": "".join(frames), **(more or {})}
    code = getattr(error, "code", None)
    if isinstance(code, str):
        told["redurable.code"] = code
    span.add_event("exception", told)
