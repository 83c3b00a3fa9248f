"""A program that has set up OpenTelemetry, and samples nothing: what most calls of such a program cost."""

from __future__ import annotations

from typing import Any

__all__ = ["unsampled"]


def unsampled() -> dict[str, Any]:
    """Set up the SDK in this process; the settings for pymicro, which need no change."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))
    return {}
