"""The alerts: real Prometheus loads them, none is there when all is well, each is in the fault it is for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.processes import ROOT, clean_environment
from tests.telemetry.real.prometheus import program
from tests.telemetry.real.scene import ALERTS, Recording

pytestmark = pytest.mark.telemetry

UNIT_TESTS = ALERTS.with_name("alerts_test.yaml")
RULES = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
# The mark of the fault that each is for, and what it is about there.
FAULTS = {
    "PymicroCallsFail": ("all fail", {("driver", "front")}),
    "PymicroTooFewNodes": ("panic", {("front", "orders")}),
    "PymicroRegistryStale": (
        "registry is old",
        {("driver", "front"), ("front", "orders"), ("orders", "stock")},
    ),
    "PymicroNotRegistered": ("not registered", {("stock", "")}),
    "PymicroEventLoopHeld": ("held", {("stock", "")}),
}
# `test_tls_in_prometheus.py` has its fault: no process of the scene has a certificate.
ELSEWHERE = "PymicroCertificateExpires"


def promtool(*arguments: str) -> str:
    ran = subprocess.run(
        [program("PROMTOOL"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=clean_environment(),
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert "SUCCESS: 6 rules found" in promtool("check", "rules", str(ALERTS))


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(UNIT_TESTS))
    tested = UNIT_TESTS.read_text()
    assert [alert for alert in RULES if alert not in tested] == []


def test_the_unit_tests_of_the_rules_can_fail(tmp_path: Path) -> None:
    for rule, weaker in (
        ("> 0.05", "> 0.07"),
        ("== 0", "== 2"),
        ("> 30", "> 400"),
        ("for: 5m", "for: 15m"),
        ("< 3600", "< 1800"),
    ):
        changed = ALERTS.read_text().replace(rule, weaker)
        assert changed != ALERTS.read_text()
        (tmp_path / ALERTS.name).write_text(changed)
        (tmp_path / UNIT_TESTS.name).write_text(UNIT_TESTS.read_text())
        with pytest.raises(AssertionError, match="FAILED"):
            promtool("test", "rules", str(tmp_path / UNIT_TESTS.name))


def test_prometheus_evaluates_all_of_them(recording: Recording) -> None:
    (group,) = recording.prometheus.ask("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == list(RULES)
    for rule in group["rules"]:
        assert rule["health"] == "ok", rule


@pytest.mark.parametrize("alert", [alert for alert in RULES if alert != "PymicroEventLoopHeld"])
def test_no_alert_is_there_when_all_is_well(recording: Recording, alert: str) -> None:
    assert recording.prometheus.query(RULES[alert]["expr"], recording.marks["well"]) == []


def test_an_event_loop_counts_as_held_if_one_in_a_hundred_things_is_late(recording: Recording) -> None:
    """On a machine that does much else, some are when all is well."""
    ask, marks = recording.prometheus.query, recording.marks
    lag = "pymicro_event_loop_lag_seconds"
    in_time = f'rate({lag}_bucket{{le="0.25"}}[5m]) / on (job, instance) rate({lag}_count[5m])'
    late = f"1 - sum by (job, instance) ({in_time})"
    for mark in ("well", "held", "end"):
        held = {each["instance"] for each in ask(RULES["PymicroEventLoopHeld"]["expr"], marks[mark])}
        assert held == {each["instance"] for each in ask(f"{late} > 0.01", marks[mark])}


@pytest.mark.parametrize("alert", [alert for alert in RULES if alert != ELSEWHERE])
def test_each_alert_is_there_in_the_fault_that_it_is_for(recording: Recording, alert: str) -> None:
    mark, wanted = FAULTS[alert]
    found = recording.prometheus.query(RULES[alert]["expr"], recording.marks[mark])
    assert {(each["job"], each["grpc_target"]) for each in found} >= wanted


@pytest.mark.parametrize("alert", ["PymicroTooFewNodes", "PymicroRegistryStale", "PymicroNotRegistered"])
def test_what_looks_at_the_present_is_gone_when_all_is_well_again(recording: Recording, alert: str) -> None:
    assert recording.prometheus.query(RULES[alert]["expr"], recording.marks["well again"]) == []


def test_the_page_tells_of_each_alert() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    for alert in RULES:
        assert f"`{alert}`" in page
