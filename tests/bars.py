"""The bars that calls have to meet, who measures each, and the table of what was measured.

    async def test_…(bars: Bars) -> None:
        bars.met(AMPLIFICATION, f"{figure:.3f}", figure <= 1.1)

A test asserts by itself what must hold wherever it runs; the table shows the figure, also of what is
a matter of the machine. `tests/test_bars.py` holds that each bar has somebody who fills it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["ROWS", "Bars", "Measured", "Row", "measured_in", "table"]

_PROPERTY = "bar"
BENCH = "make bench"
BENCH_CLUSTER = "make bench-cluster"


@dataclass(frozen=True, slots=True)
class Row:
    """A bar.

    Attributes:
        what: What is measured.
        bar: What it has to be.
        filled_by: Tests (`file::function`) or commands; all of them measure it.
    """

    what: str
    bar: str
    filled_by: tuple[str, ...]


LAST_CALL = Row(
    "pod unready or terminating → last new call to it",
    "p99 ≤ 1 s",
    (BENCH_CLUSTER,),
)
ROLLING = Row(
    "failed calls in a rolling restart under load, retries off",
    "0",
    (
        "tests/chaos/test_rollouts.py::test_all_nodes_replaced_by_sigterm_under_load",
        "tests/cluster/test_pods_rolling.py::test_no_call_fails_while_all_pods_are_replaced",
    ),
)
KILLED_MARKED = Row(
    "SIGKILL of one of 10 nodes, marked methods: failed calls",
    "0",
    (
        "tests/chaos/test_kills.py::test_sigkill_of_one_of_ten_nodes_under_load",
        "tests/cluster/test_pods_chaos.py::test_sigkill_of_one_of_ten_pods_fails_only_unmarked_calls_in_flight_on_it",
    ),
)
KILLED_UNMARKED = Row(
    "SIGKILL of one of 10 nodes, unmarked methods: failed calls",
    "in flight there only",
    (
        "tests/chaos/test_kills.py::test_sigkill_of_one_of_ten_nodes_under_load",
        "tests/cluster/test_pods_chaos.py::test_sigkill_of_one_of_ten_pods_fails_only_unmarked_calls_in_flight_on_it",
    ),
)
SWALLOWED_P2C = Row(
    "node that swallows packets, p2c: share of picks after 2 s",
    "< 1 %",
    (
        "tests/chaos/test_black_holes.py::test_a_node_that_swallows_packets_gets_hardly_a_call_of_p2c",
        "tests/cluster/test_pods_chaos.py::test_a_pod_that_swallows_packets_is_left_without_anybody_telling",
    ),
)
SWALLOWED = Row(
    "node that swallows packets, others: calls from 2 s after the first timed out, probes apart",
    "0",
    (
        "tests/chaos/test_black_holes.py::test_a_node_that_swallows_packets_is_left_by_round_robin",
        "tests/cluster/test_pods_chaos.py::test_a_pod_that_swallows_packets_is_left_without_anybody_telling",
    ),
)
SLOW_SHARE = Row(
    "one of 10 nodes 10 × slower, p2c: its share",
    "≤ 2 %",
    (
        "tests/chaos/test_bad_nodes.py::test_one_of_ten_nodes_ten_times_slower_with_p2c",
        "tests/cluster/test_pods_chaos.py::test_a_pod_ten_times_slower_is_hardly_called_by_p2c",
    ),
)
SLOW_P99 = Row(
    "one of 10 nodes 10 × slower, p2c: p99 ÷ baseline",
    "≤ 1.25",
    (
        "tests/chaos/test_bad_nodes.py::test_one_of_ten_nodes_ten_times_slower_with_p2c",
        "tests/cluster/test_pods_chaos.py::test_a_pod_ten_times_slower_is_hardly_called_by_p2c",
    ),
)
EVENNESS = Row("load, max ÷ mean, 1,000 calls per node", "round_robin ≤ 1.01, p2c ≤ 1.10", (BENCH,))
PICK = Row("pick and its done, 10 to 10,000 nodes", "round_robin ≤ 1.5 µs, p2c ≤ 3 µs", (BENCH,))
UNARY = Row("unary call ÷ bare grpc.aio", "clock ≥ 0.95, CPU ≥ 0.92", (BENCH,))
REGISTRY_AWAY = Row(
    "registry away: failed calls",
    "0",
    (
        "tests/chaos/test_registry_loss.py::test_a_registry_that_is_away_for_the_whole_test",
        "tests/cluster/test_pods_chaos.py::"
        "test_without_an_api_server_pods_that_die_slow_down_or_lose_their_address_fail_no_marked_call",
    ),
)
AMPLIFICATION = Row(
    "retry amplification in a full outage, three services deep",
    "≤ 1.1",
    ("tests/chaos/test_storms.py::test_nested_retries_in_a_full_outage_of_the_deepest",),
)
RESTARTED = Row(
    "node restarted on the same address: used again",
    "≤ 6 s",
    ("tests/chaos/test_kills.py::test_a_node_restarted_on_the_same_address_is_used_again",),
)
CHANNELS = Row(
    "10,000 channels opened and closed: memory growth",
    "< 5 MB",
    ("tests/calling/test_faults.py::test_10_000_channels_opened_and_closed_grow_memory_by_less_than_5_mb",),
)
CUT_WATCH = Row(
    "watch cut every 35 s for an hour (virtual time): without a watch",
    "≤ 1 %",
    (
        "tests/kubernetes/api/test_faults_streams.py::test_a_load_balancer_that_cuts_every_watch_leaves_nobody_blind",
        BENCH_CLUSTER,
    ),
)
CERTIFIED = Row(
    "to required TLS, certificates exchanged, at 200 calls/s, retries off: failed calls",
    "0",
    (
        "tests/cluster/test_pods_tls.py::test_a_deployment_moves_from_plain_text_to_required_tls",
        "tests/cluster/test_pods_tls.py::test_certificates_are_exchanged_twenty_times",
        "tests/cluster/test_pods_tls.py::test_certificates_expire_and_are_renewed_late",
        "tests/cluster/test_pods_tls.py::test_an_authority_is_exchanged",
    ),
)

ROWS = (
    LAST_CALL,
    ROLLING,
    KILLED_MARKED,
    KILLED_UNMARKED,
    SWALLOWED_P2C,
    SWALLOWED,
    SLOW_SHARE,
    SLOW_P99,
    EVENNESS,
    PICK,
    UNARY,
    REGISTRY_AWAY,
    AMPLIFICATION,
    RESTARTED,
    CHANNELS,
    CUT_WATCH,
    CERTIFIED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure, the test it comes from, and whether it meets the bar."""

    row: Row
    figure: str
    ok: bool
    test: str


@dataclass(slots=True)
class Bars:
    """What one test measures goes into the table of the whole run.

    Args:
        test: Its name.
        properties: The test's `user_properties`: pytest-xdist brings them from the process that
            runs the test to the one that prints the table, if they are made of plain values.
    """

    test: str
    properties: list[tuple[str, Any]]

    def met(self, row: Row, figure: str, ok: bool) -> None:
        """Report a figure of `row`, and whether it meets the bar."""
        self.properties.append((_PROPERTY, [row.what, figure, ok, self.test]))


class Report(Protocol):
    """What of pytest's report is read here."""

    user_properties: list[tuple[str, Any]]


def measured_in(reports: Iterable[Report], rows: Iterable[Row] = ROWS) -> list[Measured]:
    """What the tests of these reports measured."""
    named = {row.what: row for row in rows}
    values = [value for report in reports for name, value in report.user_properties if name == _PROPERTY]
    return [Measured(named[what], figure, ok, test) for what, figure, ok, test in values]


def table(measured: Sequence[Measured], rows: Iterable[Row] = ROWS) -> list[str]:
    """The lines of the table: every row, those that nobody measured in this run last."""
    lines = [("what", "bar", "measured", "", "by")]
    for row in rows:
        lines += [
            (row.what, row.bar, one.figure, "met" if one.ok else "MISSED", one.test)
            for one in measured
            if one.row == row
        ]
    seen = {one.row for one in measured}
    for row in rows:
        if row not in seen:
            by = ", ".join(who.rpartition("::")[2] for who in row.filled_by)
            lines.append((row.what, row.bar, "not in this run", "", by))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[4]])
        for line in lines
    ]
