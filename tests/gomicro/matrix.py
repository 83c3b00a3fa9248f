"""What calls between the two languages came to: direction × registry × shape × codec × error.

A cell is one call. Every cell that exists has a test; those that cannot exist say why under the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "CODECS",
    "ENDS",
    "OK",
    "PLAIN",
    "REGISTRIES",
    "ROWS",
    "SHAPES",
    "STATUSES",
    "TO_GO",
    "TO_PYTHON",
    "Matrix",
    "Row",
    "exists",
]

TO_GO, TO_PYTHON = ("pymicro → Go", "Go → pymicro")
REGISTRIES = ("direct", "etcd", "mdns", "kubernetes")
SHAPES = ("unary", "server stream", "client stream", "bidi")

# By what the callers of go-micro write.
CODECS = {
    "proto": "application/grpc+proto",
    "json": "application/json",
    "bytes": "application/grpc+bytes",
}

# How a call ends: well, with an error that has an HTTP status, or with a bare one (Go's `errors.New`,
# any exception that is not pymicro's).
OK, PLAIN = "ok", "bare"
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}
ENDS = (OK, *map(str, STATUSES), PLAIN)

WHY_NOT = (
    "pymicro → Go, json and bytes: a Go 1.18 server goes by the real content-type, which Python cannot set;",
    "  it answers x-content-type: application/json with INTERNAL. pymicro sends protobuf.",
    "Go → pymicro, 405: no exception of pymicro's means it.",
)


@dataclass(frozen=True, slots=True)
class Row:
    """Calls that differ in their end only."""

    direction: str
    registry: str
    shape: str
    codec: str

    def __str__(self) -> str:
        direction = "to-go" if self.direction == TO_GO else "to-pymicro"
        return "-".join((direction, self.registry, self.shape.replace(" ", "-"), self.codec))


def exists(row: Row, end: str) -> bool:
    """Whether there can be such a call; see `WHY_NOT`."""
    if row.direction == TO_GO:
        return row.codec == "proto"
    return end != "405"


ROWS = tuple(
    Row(direction, registry, shape, codec)
    for direction in (TO_GO, TO_PYTHON)
    for registry in REGISTRIES
    for shape in SHAPES
    for codec in CODECS
)


class Matrix:
    """The cells of a run; `failures` has what was wrong where."""

    def __init__(self) -> None:
        self._cells: dict[tuple[Row, str], str] = {}

    def put(self, row: Row, end: str, wrong: str) -> None:
        """One call came to what it should, if `wrong` is empty."""
        self._cells[row, end] = wrong

    def __bool__(self) -> bool:
        return bool(self._cells)

    def failures(self, row: Row) -> list[str]:
        """What was wrong in a row."""
        return [f"{end}: {self._cells[row, end]}" for end in ENDS if self._cells.get((row, end))]

    def table(self) -> Iterable[str]:
        """The lines to print."""
        yield line("direction", "registry", "shape", "codec", *ENDS)
        for row in (row for row in ROWS if exists(row, OK)):
            cells = [self._shown(row, end) for end in ENDS]
            yield line(row.direction, row.registry, row.shape.split()[0], row.codec, *cells)
        for codec in CODECS:
            if not exists(Row(TO_GO, "", "", codec), OK):
                yield line(TO_GO, "any", "any", codec, *("–" for _ in ENDS))
        yield from self._summary()

    def _shown(self, row: Row, end: str) -> str:
        if not exists(row, end):
            return "–"
        wrong = self._cells.get((row, end))
        return "?" if wrong is None else "FAIL" if wrong else "ok"

    def _summary(self) -> Iterable[str]:
        all_cells = [(row, end) for row in ROWS for end in ENDS if exists(row, end)]
        good = sum(self._cells.get(cell) == "" for cell in all_cells)
        missing = sum(cell not in self._cells for cell in all_cells)
        yield ""
        failed = len(all_cells) - good - missing
        yield f"{len(all_cells)} cells: {good} ok, {failed} failed, {missing} not run (?)"
        yield "–: there is no such call."
        yield from (f"  {line}" for line in WHY_NOT)
        for row in ROWS:
            if wrong := self.failures(row):
                yield f"FAILED {row}: {len(wrong)} cells; {wrong[0]}"[:200]


def line(direction: str, registry: str, shape: str, codec: str, *cells: str) -> str:
    """A line of the table."""
    return f"{direction:12} {registry:10} {shape:6} {codec:5}" + "".join(f"{cell:>5}" for cell in cells)
