"""OpenTelemetry's SDK as a program sets it up: all spans go to a collector over OTLP."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

__all__ = ["make_provider", "set_up_tracing"]


def make_provider(process: str, instance: str, endpoint: str) -> TracerProvider:
    """A provider whose spans are those of `instance`, one of the processes of `process`.

    Whoever makes it shuts it down, which sends the last ones.
    """
    # Of the group `telemetry`, which `make test` does not have.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    resource = Resource.create({"service.name": process, "service.instance.id": instance})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=200))
    return provider


def set_up_tracing(process: str, instance: str, endpoint: str) -> TracerProvider:
    """Make it that of this program."""
    provider = make_provider(process, instance, endpoint)
    trace.set_tracer_provider(provider)
    return provider
