"""What nodes say of themselves, and strangers of theirs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pymicro.nodes.wellknown import ping_interval, server_ping_interval, zone_text

PERMIT = "grpc.keepalive_permit_without_calls"
INTERVAL = "grpc.http2.min_ping_interval_without_data_ms"


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("20s", 20), ("1m30s", 90), ("15", 15)])
def test_a_node_says_how_often_it_may_be_pinged(text: str, seconds: float) -> None:
    assert ping_interval({"keepalive": text}) == seconds


@pytest.mark.parametrize("text", ["0", "1ns", "9.99s", "0.000001"])
def test_nobody_is_pinged_more_often_than_every_ten_seconds(text: str) -> None:
    assert ping_interval({"keepalive": text}) == 10


@pytest.mark.parametrize("text", ["", "yes", "-5s", "nan", "inf", "1e999", "10 s", "ｓ", "\ud800", "٣s s"])
def test_what_cannot_be_read_permits_nothing(text: str) -> None:
    assert ping_interval({"keepalive": text}) is None
    assert ping_interval({}) is None


def test_a_long_text_costs_no_time() -> None:
    # The pattern of a duration takes the cube of the length for this one; a record has room for
    # twenty times as many characters.
    started = time.process_time()
    assert ping_interval({"keepalive": "1" * 800 + "x"}) is None
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([(PERMIT, 1), (INTERVAL, 10_000)], "10s"),
        ([(PERMIT, True), (INTERVAL, 90_000)], "1m30s"),
        ([(PERMIT, 1), (INTERVAL, 1500), (INTERVAL, 30_000)], "30s"),
        ([(PERMIT, 0), (INTERVAL, 10_000)], ""),
        ([(PERMIT, 1), (PERMIT, 0), (INTERVAL, 10_000)], ""),
        ([(INTERVAL, 10_000)], ""),
        ([(PERMIT, 1)], ""),  # then grpc-core's own limit of 5 minutes is in force
        ([(PERMIT, 1), (INTERVAL, "soon")], ""),
    ],
)
def test_a_server_says_what_its_options_permit(options: list[tuple[str, Any]], said: str) -> None:
    assert server_ping_interval(options) == said


@pytest.mark.parametrize(
    ("found", "zone"),
    [("eu-1a", "eu-1a"), ("z" * 253, "z" * 253), ("z" * 254, ""), ("a\nb", ""), (None, ""), (7, "")],
)
def test_a_zone_is_a_short_printable_text(found: object, zone: str) -> None:
    assert zone_text(found) == zone
