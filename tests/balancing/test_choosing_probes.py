"""How an ejected node comes back."""

from __future__ import annotations

import pytest

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, Outcome, PlainPick
from pymicro.balancing.policy.outliers import FAILURES
from tests.balancing.chosen import OK, UNAVAILABLE, Ending, Service, cancelled, late, next_pick
from tests.balancing.support import nodes

TEN = nodes(*range(10))
BAD = TEN.nodes[3]


def test_a_call_is_sent_to_see_when_the_time_has_come() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time(0.79)
    assert BAD.key not in service.picked()
    service.pass_time(0.42)
    picks = [next_pick(service) for _ in range(50)]
    assert [pick.node.key == BAD.key for pick in picks] == [True] + [False] * 49, "one at a time"
    assert isinstance(picks[0], PlainPick)
    assert service.balancer.in_flight[BAD.key] == 0
    assert service.changes == 1
    service.chooser.done(picks[0], OK)
    assert service.chooser.ejected == frozenset()
    assert service.changes == 2
    assert service.used == TEN


@pytest.mark.parametrize("code", sorted(set(range(17)) - FAILURES))
def test_any_answer_about_the_request_brings_a_node_back(code: int) -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    assert service.call(OUTCOMES[code]) == BAD.key
    assert service.chooser.ejected == frozenset()


def test_a_failed_probe_makes_it_longer() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    for longer in (2, 4, 8, 16, 32, 60, 60):
        probe = next_pick(service)
        assert probe.node is BAD
        assert BAD.key not in service.picked()
        service.chooser.done(probe, UNAVAILABLE)
        assert service.chooser.ejected == {BAD.key}
        service.pass_time(longer * 0.79)
        assert BAD.key not in service.picked()
        service.pass_time(longer * 0.42)
    assert service.changes == 1, "nothing to be updated"


@pytest.mark.parametrize("ending", [cancelled, late])
def test_a_probe_without_an_answer_is_made_again(ending: Ending) -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    for _ in range(5):
        probe = next_pick(service)
        assert probe.node is BAD
        assert BAD.key not in {next_pick(service).node.key for _ in range(20)}
        ending(service, probe)
        assert service.chooser.ejected == {BAD.key}
    service.call(UNAVAILABLE)
    service.pass_time(2 * 0.79)
    assert BAD.key not in service.picked(), "those five made it no longer and no shorter"
    service.pass_time(2 * 0.42)
    assert service.call(OK) == BAD.key
    assert service.chooser.ejected == frozenset()


def test_a_probe_that_takes_too_long_keeps_nobody_out() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    endless = next_pick(service)
    assert endless.node is BAD
    service.pass_time(9.9)
    assert BAD.key not in service.picked()
    service.pass_time(0.2)
    assert service.call(OK) == BAD.key
    assert service.chooser.ejected == frozenset()
    service.chooser.done(endless, UNAVAILABLE)
    assert service.chooser.ejected == frozenset()


def test_a_retry_goes_to_no_node_in_doubt() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    tried = frozenset({TEN.nodes[0].key})
    assert BAD.key not in {service.call(OK, tried) for _ in range(30)}
    assert service.call(OK) == BAD.key


def test_an_unreachable_node_is_not_probed() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.lose(BAD)
    service.pass_time()
    assert BAD.key not in service.picked()
    service.lose()
    assert service.call(OK) == BAD.key


def test_a_probe_that_fails_after_its_node_was_lost_probes_nobody_unreachable() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    probe = next_pick(service)
    service.lose(BAD)
    service.chooser.done(probe, UNAVAILABLE)
    service.pass_time(100)
    assert BAD.key not in service.picked()


def test_a_node_connected_anew_is_asked_at_once() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.call(OK)
    service.lose(BAD)
    service.lose()
    assert BAD.key not in service.picked()
    service.chooser.reconnected(BAD.key)
    assert service.call(OK) == BAD.key
    assert service.chooser.ejected == frozenset()
    service.chooser.reconnected(BAD.key)
    service.chooser.reconnected("nobody")


def test_what_was_asked_over_the_lost_connection_counts_no_more() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    lost = next_pick(service)
    second = next_pick(service)
    assert second.node is not BAD
    service.chooser.reconnected(BAD.key)
    service.chooser.done(lost, UNAVAILABLE)
    probe = next_pick(service)
    assert probe.node is BAD
    service.chooser.done(probe, OK)
    assert service.chooser.ejected == frozenset()


@pytest.mark.parametrize("end", [OK, UNAVAILABLE, CANCELLED, OUTCOMES[5]])
def test_calls_begun_before_an_ejection_neither_end_nor_lengthen_it(end: Outcome) -> None:
    service = Service(TEN)
    begun = [service.pick_of(BAD) for _ in range(20)]
    service.eject(BAD)
    for pick in begun:
        service.chooser.done(pick, end)
    assert service.chooser.ejected == {BAD.key}
    assert service.changes == 1
    service.pass_time()
    assert service.call(OK) == BAD.key


def test_two_ejected_nodes_are_probed_each_for_itself() -> None:
    every = nodes(*range(20))
    service = Service(every)
    service.eject(every.nodes[0])
    service.eject(every.nodes[1])
    service.pass_time()
    probes = [next_pick(service) for _ in range(10)]
    assert {pick.node for pick in probes[:2]} == set(every.nodes[:2])
    assert not {pick.node for pick in probes[2:]} & set(every.nodes[:2])
    service.chooser.done(probes[1], OK)
    assert service.chooser.ejected == {probes[0].node.key}


def test_a_node_ejected_later_keeps_no_earlier_one_waiting() -> None:
    every = nodes(*range(20))
    service = Service(every)
    service.eject(every.nodes[0])
    service.pass_time(0.75)
    service.eject(every.nodes[1])
    assert not service.picked() & {every.nodes[0].key, every.nodes[1].key}
    service.pass_time(0.46)
    assert every.nodes[0].key in service.picked(1)


def test_a_stream_that_is_answered_brings_its_node_back_and_not_its_end() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    probe = next_pick(service)
    assert probe.node is BAD
    service.chooser.answered(probe)
    assert service.chooser.ejected == frozenset()
    service.chooser.done(probe, OK)
    assert service.chooser.ejected == frozenset()


def test_an_answered_stream_that_is_no_probe_brings_nobody_back() -> None:
    service = Service(TEN)
    picks = [next_pick(service) for _ in range(50)]
    service.eject(BAD)
    for pick in picks:
        service.chooser.answered(pick)
    assert service.chooser.ejected == {BAD.key}


def test_a_balancer_that_wants_to_know_is_told_of_the_first_response() -> None:
    told: list[str] = []

    class Told(PlainPick):
        def answered(self) -> None:
            told.append(self.node.key)

    service = Service(TEN)
    service.chooser.answered(Told(BAD))
    service.chooser.answered(PlainPick(BAD))
    assert told == [BAD.key]
