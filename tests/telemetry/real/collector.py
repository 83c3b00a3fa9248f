"""A real OpenTelemetry collector that takes OTLP and writes what came into a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.processes import Process, clean_environment
from tests.telemetry.real.loopback import network
from tests.telemetry.real.prometheus import program

__all__ = ["CLIENT", "ERROR", "INTERNAL", "SERVER", "Collector", "Span"]


# `SpanKind` and `StatusCode` of OTLP (opentelemetry/proto/trace/v1/trace.proto).
INTERNAL, SERVER, CLIENT = 1, 2, 3
ERROR = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A span as the collector wrote it.

    Attributes:
        process: `service.name` of its resource.
        instance: `service.instance.id` of its resource.
        parent: The id of the span that it is within; empty for none.
        kind: The number of its kind.
        status: The number of its status: 0 unset, 1 OK, 2 an error.
        seconds: How long it took.
    """

    process: str
    instance: str
    trace: str
    id: str
    parent: str
    name: str
    kind: int
    status: int
    seconds: float
    attributes: Mapping[str, Any]


class Collector:
    """A collector that runs while the context is open.

    Args:
        folder: For its settings, and the file that it writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = folder / "spans.json"
        self._process: Process | None = None
        self._address = f"{network()}.0.3:4317"
        settings = {
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": self._address}}}},
            "exporters": {"file": {"path": str(self._written), "flush_interval": "200ms"}},
            "service": {
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
                "telemetry": {"metrics": {"level": "none"}},
            },
        }
        # JSON is YAML.
        (folder / "otelcol.yaml").write_text(json.dumps(settings, indent=1))

    def __enter__(self) -> Self:
        argv = [program("OTELCOL"), f"--config={self._folder / 'otelcol.yaml'}"]
        self._process = Process(argv, env=clean_environment(), cwd=self._folder)
        self._process.wait_for("Everything is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()

    @property
    def endpoint(self) -> str:
        """For exporters."""
        return f"http://{self._address}"

    def stop(self) -> list[Span]:
        """All spans that came, once the collector has ended as it should and written the last."""
        assert self._process is not None
        code = self._process.stop()
        assert code == 0, self._process.report()
        return list(self._read())

    def _read(self) -> Iterator[Span]:
        for line in self._written.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                about = _attributes(resource["resource"])
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        yield Span(
                            process=about["service.name"],
                            instance=about["service.instance.id"],
                            trace=span["traceId"],
                            id=span["spanId"],
                            parent=span.get("parentSpanId", ""),
                            name=span["name"],
                            kind=span["kind"],
                            status=span.get("status", {}).get("code", 0),
                            seconds=(int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e9,
                            attributes=_attributes(span),
                        )


def _attributes(owner: Mapping[str, Any]) -> dict[str, Any]:
    """OTLP's JSON has the type of each value: `{"intValue": "2"}`."""
    found = {}
    for pair in owner.get("attributes", ()):
        ((kind, value),) = pair["value"].items()
        found[pair["key"]] = int(value) if kind == "intValue" else value
    return found
