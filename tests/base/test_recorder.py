"""What is counted, and what is put together of it."""

from __future__ import annotations

import pytest

from pymicro.base.recorder import (
    BOUNDS,
    MOST_METHODS,
    MOST_TARGETS,
    OTHER,
    ClientMethodRecord,
    Durations,
    Recorder,
    ServerRecord,
    TargetRecord,
)


def test_a_value_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    durations = Durations((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5, 100.0):
        durations.add(value)
    assert durations.counts == [2, 2, 2]
    assert durations.count == 6
    assert durations.total == pytest.approx(107.5)


def test_bounds_ascend() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_attempts_are_calls_of_one_attempt_and_those_of_calls_with_more() -> None:
    record = ClientMethodRecord()
    record.once[0].add(0.1)
    record.once[14].add(0.1)
    record.without[4].add(0.2)
    record.several[0].add(0.3)
    record.tries[14].add(0.1)
    record.tries[0].add(0.2)
    assert {code: one.count for code, one in record.calls().items()} == {0: 2, 14: 1, 4: 1}
    assert {code: one.count for code, one in record.attempts().items()} == {0: 2, 14: 2}
    assert record.calls()[0].total == pytest.approx(0.4)
    assert record.once[0].count == 1  # reading changes nothing


def test_a_method_that_the_server_does_not_know_is_not_kept_apart() -> None:
    record = ServerRecord()
    record.know("/a.A/Get")
    record.method("/a.A/Get").started += 1
    for number in range(10_000):
        record.refuse(f"/x.X/{number}", "unknown", 12)
    assert set(record.methods) == {"/a.A/Get", OTHER}
    assert record.methods[OTHER].ended[12].count == record.refused["unknown"] == 10_000
    assert record.methods[OTHER].in_flight == 0


def test_methods_and_services_that_are_called_are_bounded() -> None:
    recorder, target = Recorder(), TargetRecord()
    for number in range(MOST_TARGETS + 100):
        recorder.target(f"service-{number}").added += 1
    for number in range(MOST_METHODS + 100):
        target.method(f"/a.A/{number}").started += 1
    assert len(recorder.targets) == MOST_TARGETS + 1
    assert recorder.targets[OTHER].added == 100
    assert len(target.methods) == MOST_METHODS + 1
    assert target.methods[OTHER].started == 100
    assert recorder.target("service-0").added == 1
