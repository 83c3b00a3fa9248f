"""Trouble with pods under load, and what the users of a client with default settings notice of it.

One scene serves all tests, since ten pods take longer to start than a test to run: a client with round robin
and one with p2c call the same ten pods, everything else being default, while the tests kill pods, silence
them and slow them down.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.bars import (
    KILLED_MARKED,
    KILLED_UNMARKED,
    REGISTRY_AWAY,
    SLOW_P99,
    SLOW_SHARE,
    SWALLOWED,
    SWALLOWED_P2C,
    Bars,
)
from tests.cluster.chaos.account import Call, describe, failed, none, percentile
from tests.cluster.chaos.scene import CLIENTS, PODS, Scene, address, selector
from tests.cluster.cluster import Cluster, PodView
from tests.cluster.plane import eventually

pytestmark = pytest.mark.cluster

KILLS = 3

# Seconds that the kernel takes to close a killed process's connections: a call that is begun meanwhile is
# in flight there, too.
CLOSING = 0.1
# Calls of two clients that can be on one connection each to a pod that is lost.
LEFT_BEHIND = 6
# Nobody else than a silent pod has a call wait for so many seconds.
PATIENT = 4.0
# Seconds after which p2c has had answers of a pod that became slow.
NOTICED = 2.0


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[Scene]:
    """After the last test it holds that all calls are accounted for, and that no unmarked one ran twice."""
    namespace = cluster.plane.namespace()
    try:
        found = Scene.start(cluster, namespace)
        yield found
        found.stop()
    finally:
        cluster.plane.kubectl("delete", "namespace", namespace, "--wait=false")


def lost_with(pod: PodView, killed: float) -> Callable[[Call], bool]:
    """Whether a call failed because it was in flight on a pod when that was killed."""

    def lost(call: Call) -> bool:
        in_flight = call.begun < killed + CLOSING and call.ended > killed
        return call.code == "UNAVAILABLE" and call.node == address(pod) and in_flight

    return lost


def test_sigkill_of_one_of_ten_pods_fails_only_unmarked_calls_in_flight_on_it(
    scene: Scene, bars: Bars, say: Callable[[str], None]
) -> None:
    left = scene.settle()
    begun = time.time()
    kills: list[Callable[[Call], bool]] = []
    for _ in range(KILLS):
        victim = scene.busiest(left)
        left.remove(victim)
        kills.append(lost_with(victim, time.time()))
        victim.signal(signal.SIGKILL)
        scene.pass_calls(40)
    scene.settle()
    scene.end_calls()

    calls = scene.account.of(since=begun - 1.0)
    lost = failed(calls)
    again = sum(call.marked and len(call.ran) > 1 for call in calls)
    marked = [call for call in lost if call.marked]
    elsewhere = [call for call in lost if not any(with_it(call) for with_it in kills)]
    say(f"kill -9 of 1 of {PODS} pods ×{KILLS}, default settings: {describe(calls)}")
    bars.met(KILLED_MARKED, str(len(marked)), not marked)
    bars.met(KILLED_UNMARKED, f"{len(lost) - len(marked)}, {len(elsewhere)} of them elsewhere", not elsewhere)
    none("are marked and failed", marked)
    none("failed and were not in flight on a pod that was killed", elsewhere)
    # Kills found calls of both kinds on their way.
    assert lost
    assert again


def test_a_pod_that_swallows_packets_is_left_without_anybody_telling(
    scene: Scene, bars: Bars, say: Callable[[str], None]
) -> None:
    victim, *_ = scene.settle()
    cluster, account = scene.cluster, scene.account
    cluster.black_hole(victim)
    silent = time.time()

    def timed_out() -> float | None:
        """When a client was first told that a call there had failed."""
        account.read()
        lost = failed(account.of("round-robin", since=silent - 1.0))
        return min((call.ended for call in lost if call.node == address(victim)), default=None)

    try:
        first: float = eventually("calls there fail", timed_out, 10.0)
        scene.pass_calls(100, since=first + 2.0)
    finally:
        cluster.end_black_hole(victim)
    healed = time.time()
    scene.settle()
    scene.end_calls()

    calls = account.of(since=silent - 1.0)
    lost = failed(calls)
    say(f"1 of {PODS} pods black-holed for {healed - silent:.0f} s, default settings: {describe(calls)}")
    # The connection is given up while there is time left for another node.
    none("failed although they may run twice", [call for call in lost if call.marked])
    # One that waited there almost to its deadline has next to nothing left for another node.
    none("failed elsewhere", [c for c in lost if c.node != address(victim) and c.ended - c.begun < PATIENT])

    # Of a marked call that was tried again the first node is not known: let it have been this one.
    def there(calls: list[Call]) -> list[Call]:
        return [call for call in calls if call.node == address(victim) or call.tried_again]

    p2c = account.of("p2c", since=silent + 2.0, until=healed)
    share = len(there(p2c)) / len(p2c)
    late = there(account.of("round-robin", since=first + 2.0, until=healed))
    bars.met(SWALLOWED_P2C, f"{share:.2%}", share < 0.01)
    # Of so short a time one may be the call that asks whether the pod is well again.
    probes = min(1, len(late))
    bars.met(SWALLOWED, f"{len(late) - probes} ({probes} probes)", len(late) == probes)
    assert share < 0.01
    none("were begun there although calls there had timed out", late[probes:])
    assert failed(account.of("round-robin", since=silent))


def test_a_pod_ten_times_slower_is_hardly_called_by_p2c(
    scene: Scene, bars: Bars, say: Callable[[str], None]
) -> None:
    victim, *_ = scene.settle()
    usual = time.time()
    scene.pass_calls(100)
    victim.signal(signal.SIGUSR1)
    slow = time.time()
    try:
        # Enough that the few which are found slow, at first and some seconds later, are not a fiftieth.
        scene.pass_calls(600)
    finally:
        victim.signal(signal.SIGUSR2)
    well = time.time()
    scene.end_calls()

    calls = scene.account.of(since=slow, until=well)
    none("failed", failed(calls))
    shares = {}
    for client in CLIENTS:
        own = [call for call in calls if call.client == client]
        shares[client] = sum(call.node == address(victim) for call in own) / len(own)
    # Until the first slow answer nobody can know, and a hundredth of so few calls is a handful.
    then = scene.account.of("p2c", since=slow + NOTICED, until=well)
    ratio = percentile(then, 0.99) / percentile(scene.account.of("p2c", since=usual, until=slow), 0.99)
    share = shares["p2c"]
    say(
        f"1 of {PODS} pods 10 × slower: {share:.1%} of the calls with p2c, {shares['round-robin']:.1%} with"
        f" round robin; p99 with p2c, from {NOTICED:.0f} s on, {ratio:.2f} × what it was"
    )
    bars.met(SLOW_SHARE, f"{share:.1%}", share <= 0.02)
    bars.met(SLOW_P99, f"{ratio:.2f} from {NOTICED:.0f} s on", ratio <= 1.25)
    assert share <= 0.02
    # It was slow, and could be called.
    assert shares["round-robin"] > 0.05


def test_no_call_fails_while_all_pods_are_replaced_with_default_settings(
    scene: Scene, say: Callable[[str], None]
) -> None:
    before = scene.cluster.wait_for_pods(scene.namespace, selector("victim"), PODS)
    begun = time.time()
    scene.cluster.rollout_restart(scene.namespace, "victim", timeout=120.0)
    after = scene.settle()
    scene.end_calls()

    calls = scene.account.of(since=begun)
    say(f"rolling restart of {PODS} pods in {time.time() - begun:.0f} s, default settings: {describe(calls)}")
    none("failed", failed(calls))
    assert not {pod.uid for pod in before} & {pod.uid for pod in after}


def test_without_an_api_server_pods_that_die_slow_down_or_lose_their_address_fail_no_marked_call(
    scene: Scene, bars: Bars, say: Callable[[str], None]
) -> None:
    killed, slow, replaced, *_ = scene.settle()
    [stranger] = scene.cluster.pods(scene.namespace, selector("greeter"))
    account = scene.account
    begun = time.time()
    with scene.cluster.api_server_away():
        scene.pass_calls(20)
        with_it = lost_with(killed, time.time())
        killed.signal(signal.SIGKILL)
        slow.signal(signal.SIGUSR1)
        scene.pass_calls(100)

        # The pod's address is another one's by now, who has another service; nobody can tell the clients.
        with_that = lost_with(replaced, time.time())
        replaced.signal(signal.SIGKILL)
        scene.cluster.hand_over_ip(replaced, stranger)
        handed_over = time.time()
        try:

            def sent_away() -> bool:
                """Each client has asked the stranger, who has no such method."""
                account.read()
                later = account.of(since=handed_over + CLOSING)
                sent = {call.client for call in later if call.tried_again or call.code != "OK"}
                return sent == set(CLIENTS)

            eventually("clients call the stranger", sent_away, 15.0)
            scene.pass_calls(150)
        finally:
            scene.cluster.give_back_ip(replaced, stranger)
        scene.end_calls()
        ended = time.time()

    calls = account.of(since=begun, until=ended)
    lost = failed(calls)
    marked = [call for call in lost if call.marked]
    away = [call for call in calls if call.begun > handed_over + CLOSING and call.tried_again]
    say(
        f"API server away for {ended - begun:.0f} s, a pod killed, one slow, one's address another service's:"
        f" {describe(calls)} ({len(away)} sent away by the other service)"
    )
    bars.met(REGISTRY_AWAY, f"{len(marked)} marked", not marked)
    none("are marked and failed", marked)

    def with_that(call: Call) -> bool:
        """Whether it went with the connection to the pod whose address is another one's.

        Its end may have been sent while the address changed hands, and be lost: then the
        other pod's kernel resets the connection at the next call, which was sent.
        """
        return call.code == "UNAVAILABLE" and call.node == address(replaced)

    none(
        "failed and were not in flight on a pod that was killed",
        [call for call in lost if not with_it(call) and not with_that(call)],
    )
    assert sum(map(with_that, lost)) <= LEFT_BEHIND
