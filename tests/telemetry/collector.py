"""A real OTLP receiver over HTTP and protobuf that records spans."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.serving import Answer, Asked, serving


@dataclass(frozen=True)
class ReceivedSpan:
    """A received span."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    begun: int
    ended: int
    attributes: dict[str, str | int]


@dataclass
class Collector:
    """The received spans, and the URL to send them to."""

    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)

    def named(self, name: str) -> ReceivedSpan:
        """The only span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def take(self, body: bytes) -> None:
        """Parses an export."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _read(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [
                    ReceivedSpan(
                        str(service), span.name, span.kind, span.trace_id.hex(), span.span_id.hex(),
                        span.parent_span_id.hex(), span.start_time_unix_nano, span.end_time_unix_nano,
                        _read(span.attributes),
                    )
                    for span in scope.spans
                ]  # fmt: skip


def _read(attributes: Any) -> dict[str, str | int]:
    return {one.key: one.value.string_value or one.value.int_value for one in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens on 127.0.0.1."""
    there = Collector()

    def take(asked: Asked) -> Answer:
        assert (asked.path, asked.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        there.take(gzip.decompress(asked.body) if asked.headers.get("content-encoding") == "gzip" else asked.body)
        return Answer()

    with serving(take) as port:
        there.url = f"http://127.0.0.1:{port}"
        yield there
