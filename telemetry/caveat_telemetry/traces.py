"""Traces with OpenTelemetry: one trace from the request to the child process that computes, wherever each part runs.

Tracing is enabled by `OTEL_EXPORTER_OTLP_ENDPOINT` and exported with OTLP over HTTP; the other variables of
OpenTelemetry apply too. Parts pass on only ids, as a `traceparent` (W3C Trace Context).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

CONTEXT = TraceContextTextMapPropagator()
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Attributes = Mapping[str, AttributeValue]


@cache
def begin(service: str) -> None:
    """Starts exporting the spans of this process if an endpoint is set; has an effect once per process."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({SERVICE_NAME: service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def end() -> None:
    """Exports the remaining spans."""
    provider = trace.get_tracer_provider()
    if shutdown := getattr(provider, "shutdown", None):
        shutdown()


@contextmanager
def span(
    name: str, attributes: Attributes, *, after: str | None = None, kind: SpanKind = SpanKind.INTERNAL
) -> Iterator[Span]:
    """Records a span around a block, whose log lines name the trace; `after` is the `traceparent` to continue from."""
    tracer = trace.get_tracer("caveat")
    with tracer.start_as_current_span(name, _context(after), kind, attributes) as begun, _named(begun):
        yield begun


def past(name: str, attributes: Attributes, begun: int, ended: int) -> None:
    """Records a span of the past inside the current one; times are in nanoseconds since 1970."""
    trace.get_tracer("caveat").start_span(name, attributes=attributes, start_time=begun).end(ended)


def carried() -> str | None:
    """The `traceparent` of the current span; None where nothing is traced."""
    carrier: dict[str, str] = {}
    CONTEXT.inject(carrier)
    return carrier.get("traceparent")


def _context(traceparent: str | None) -> Context | None:
    return None if traceparent is None else CONTEXT.extract({"traceparent": traceparent})


@contextmanager
def _named(begun: Span) -> Iterator[None]:
    about = begun.get_span_context()
    if not about.is_valid:
        yield
        return
    from caveat_telemetry import logs

    with logs.about(trace_id=f"{about.trace_id:032x}"):
        yield
