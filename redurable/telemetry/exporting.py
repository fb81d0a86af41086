"""
Where a worker's spans go: what the standard OTEL_* variables say, set up as OpenTelemetry's SDK would by itself.

A worker traces if OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_TRACES_EXPORTER is set, or
if a tracer provider is there when it starts: that of `opentelemetry-instrument`, or of the module that it serves.
Invariant: tracing never keeps a worker from its work; what cannot be set up is one line in the log.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from redurable import events
from redurable.errors import ConfigurationError
from redurable.telemetry import logs

__all__ = ["trace_worker"]

_ASKS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
_OFTEN_MS = 500  # the SDK's 5 s lose more of a killed process; OTEL_BSP_SCHEDULE_DELAY sets it
_LAST_MS = 3000  # for what is left at the end


def trace_worker(target: str) -> Callable[[], None]:
    """Trace this process, the worker of *target*, from its `worker.started` on, if that is asked for."""
    provider: Any = None

    def told(name: str, fields: dict[str, Any]) -> None:
        nonlocal provider
        if name == "worker.started":
            provider = _start(target, fields["worker"])
        elif hasattr(provider, "force_flush"):
            provider.force_flush(_LAST_MS)

    # by then the module has been imported and its lifespan entered, and nothing has been claimed
    return events.subscribe(told, ["worker.started", "worker.stopped"])


def _start(target: str, worker: str) -> Any:
    api = sys.modules.get("opentelemetry.trace")
    given = api is not None and not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if off or not (given or any(os.environ.get(name) for name in _ASKS)):
        return None
    try:
        if not given:
            _set_up(target, worker)
        from opentelemetry import trace

        from redurable.telemetry.tracing import observe

        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider):
            observe(provider)
            return provider
    except (ImportError, ConfigurationError) as error:
        reason = error.message if isinstance(error, ConfigurationError) else str(error)
        logs.engine().warning("tracing.unavailable", error=reason, hint="pip install 'redurable[otel]'")
    return None


def _set_up(target: str, worker: str) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")
    exporters = [_exporter(name.strip()) for name in names if name.strip() not in ("", "none")]
    if not exporters:
        return
    facts = {"service.instance.id": worker}
    if not (os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        facts["service.name"] = target.partition(":")[0]
    provider = TracerProvider(resource=Resource.create(facts))
    delay = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else _OFTEN_MS
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay))
    trace.set_tracer_provider(provider)


def _exporter(name: str) -> Any:
    """Return the exporter that OTEL_TRACES_EXPORTER calls *name*."""
    entry = name
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        entry = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for found in entry_points(group="opentelemetry_traces_exporter", name=entry):
        return found.load()()
    raise ConfigurationError(f"there is no trace exporter {name!r} ({entry}) in this environment")
