"""What holds for a chooser whatever happens: thousands of random steps, checked after each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, Balancer, CallInfo, Pick, PlainPick
from pymicro.balancing.balancers.p2c import P2C
from pymicro.balancing.balancers.random import Random
from pymicro.balancing.balancers.round_robin import RoundRobin
from pymicro.balancing.chooser import Chooser
from pymicro.balancing.policy.outliers import JITTER, LONGEST, PATIENCE, most_out
from pymicro.base.errors import NoNode
from pymicro.nodes.node import NodeSet
from tests.balancing.support import Accounting, Clock, node

pytestmark = pytest.mark.once  # a minute of dice, the same on every Python

STEPS = 2000
NUMBERS = range(40)
OK, UNAVAILABLE = OUTCOMES[0], OUTCOMES[14]


@dataclass
class Recorded:
    """A balancer that remembers what it was updated with."""

    balancer: Balancer
    usable: NodeSet = field(default_factory=NodeSet)

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        self.usable = usable
        self.balancer.update(nodes, usable)

    def pick(self, call: CallInfo) -> Pick:
        return self.balancer.pick(call)


@dataclass
class Call:
    pick: Pick
    begun: float
    # A probe whose answer is awaited.
    probe: bool


class World:
    """Nodes that come, go, break, get lost and found; a client that calls them."""

    def __init__(self, make: Callable[[Clock, random.Random], Balancer], seed: int, **options: Any) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.balancer = Recorded(make(self.clock, self.rng))
        self.chooser = Chooser(
            self.balancer, changed=self.changed, clock=self.clock, rng=random.Random(seed), **options
        )
        self.listed = set(NUMBERS[:20])
        self.lost: set[int] = set()
        self.connecting: set[int] = set()
        self.broken: set[int] = set()
        self.calls: list[Call] = []
        self.asked = False
        self.update()

    def changed(self) -> None:
        self.asked = True

    def named(self, numbers: set[int]) -> NodeSet:
        return NodeSet.of(node(number, f"zone-{number % 3}") for number in numbers)

    def update(self) -> None:
        self.asked = False
        self.nodes = self.named(self.listed)
        self.reachable = self.named(self.listed - self.lost - self.connecting)
        self.failed = len(self.listed & self.lost)
        self.chooser.update(self.nodes, self.reachable, self.failed)

    # What may happen

    def comes_or_goes(self) -> None:
        self.listed ^= {self.rng.choice(NUMBERS)}
        self.update()

    def is_lost_or_found(self) -> None:
        number = self.rng.choice(NUMBERS)
        if number in self.lost | self.connecting:
            self.lost.discard(number)
            self.connecting.discard(number)
            self.update()
            key = self.named({number}).nodes[0].key
            self.chooser.reconnected(key)
            for call in self.calls:
                call.probe = call.probe and call.pick.node.key != key
        else:
            self.rng.choice([self.lost, self.connecting]).add(number)
            self.update()

    def breaks_or_is_mended(self) -> None:
        self.broken ^= {self.rng.choice(NUMBERS)}

    def there_is_an_outage(self) -> None:
        self.broken = set(self.rng.sample(NUMBERS, self.rng.choice((0, 2, 24, 40))))
        self.lost = set(self.rng.sample(NUMBERS, self.rng.choice((0, 2, 24, 39))))
        self.update()

    def time_passes(self) -> None:
        self.clock.now += self.rng.expovariate(1.0)

    def calls_begin(self) -> None:
        for _ in range(self.rng.randrange(20)):
            self.call_begins()

    def call_begins(self) -> None:
        tried = frozenset(
            one.key for one in self.reachable if self.rng.random() < self.rng.choice((0, 0, 0.2, 1))
        )
        try:
            pick = self.chooser.pick(CallInfo("/a.B/C", tried))
        except NoNode:
            assert tried == {one.key for one in self.reachable}
            return
        key = pick.node.key
        assert pick.node in set(self.reachable)
        assert key not in tried
        # Which of them is a probe is seen from outside by who else may get such a call: nobody.
        probe = isinstance(pick, PlainPick) and not tried and key in self.chooser.ejected
        if probe and not isinstance(self.balancer.balancer, RoundRobin | Random):
            for other in self.calls:
                waits = other.probe and other.pick.node.key == key
                assert not waits or self.clock.now - other.begun > PATIENCE, "two probes at a time"
        self.calls.append(Call(pick, self.clock.now, probe))

    def calls_end(self) -> None:
        self.rng.shuffle(self.calls)
        for _ in range(self.rng.randrange(len(self.calls) + 1)):
            self.call_ends(self.calls.pop())

    def call_ends(self, call: Call, chance: float = 0.1) -> None:
        fails = int(call.pick.node.id[1:]) in self.broken
        before = self.chooser.ejected
        if self.rng.random() < chance:
            outcome, late = self.rng.choice([(CANCELLED, False), (UNAVAILABLE, True), (OK, True)])
            self.chooser.done(call.pick, outcome, late)
            assert self.chooser.ejected == before
        else:
            self.chooser.done(call.pick, UNAVAILABLE if fails else OK)
            assert not (fails and before - self.chooser.ejected), "a failure brings nobody back"
            assert fails or not self.chooser.ejected - before, "a success ejects nobody"
            self.check_the_cap(before)

    # What must hold

    def check_the_cap(self, before: frozenset[str]) -> None:
        reachable = {one.key for one in self.reachable}
        out = self.chooser.ejected
        if out - before:
            assert self.asked
            assert out - before <= reachable
            assert len(out & reachable) <= most_out(len(reachable) + self.failed)
            assert reachable - out

    def check(self) -> None:
        if self.asked and self.rng.random() < 0.9:  # as ten milliseconds later
            self.update()
        used, reachable = set(self.balancer.usable), set(self.reachable)
        assert used <= reachable
        assert used or not reachable
        assert self.chooser.ejected <= {one.key for one in self.nodes}
        if not self.asked:
            out = {one for one in reachable if one.key in self.chooser.ejected}
            panic = 2 * (len(out) + self.failed) > len(reachable) + self.failed
            assert self.chooser.panicking == panic
            assert used == reachable if panic else not used & out
        accounts = self.balancer.balancer
        if isinstance(accounts, Accounting):
            # Warming nodes passed over were given back; probes and last resorts are not in its books.
            open_now = Counter(
                call.pick.node.key for call in self.calls if not isinstance(call.pick, PlainPick)
            )
            assert +accounts.in_flight == open_now

    def run(self, steps: int) -> None:
        happenings = [
            self.comes_or_goes,
            self.is_lost_or_found,
            self.breaks_or_is_mended,
            *[self.time_passes] * 4,
            *[self.calls_begin] * 10,
            *[self.calls_end] * 10,
        ]
        for step in range(steps):
            (self.there_is_an_outage if step % 200 == 199 else self.rng.choice(happenings))()
            self.check()

    def recover(self) -> float:
        """All faults end and calls go on: seconds until all are used."""
        self.broken, self.lost, self.connecting = set(), set(), set()
        self.listed |= {0, 1}
        for call in self.calls:
            self.call_ends(call, 0)
        self.calls = []
        self.update()
        start = self.clock.now
        while self.chooser.ejected:
            assert self.clock.now - start < 1000
            self.clock.now += 0.05
            self.call_ends(Call(self.chooser.pick(CallInfo("/a.B/C")), self.clock.now, False), 0)
            self.check()
        self.update()
        return self.clock.now - start


BALANCERS: dict[str, Callable[[Clock, random.Random], Balancer]] = {
    "accounting": lambda clock, rng: Accounting(),
    "round_robin": lambda clock, rng: RoundRobin(rng=rng),
    "random": lambda clock, rng: Random(rng=rng),
    "p2c": lambda clock, rng: P2C(rng=rng, clock=clock),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zone": {"zone": "zone-1"},
    "slow start": {"slow_start": 20.0},
    "all": {"zone": "zone-1", "slow_start": 20.0},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("balancer", BALANCERS)
def test_whatever_happens_the_rules_hold_and_all_come_back(balancer: str, options: str) -> None:
    # Not hash(), which is another in each process.
    seed = 1 + 10 * list(BALANCERS).index(balancer) + list(OPTIONS).index(options)
    world = World(BALANCERS[balancer], seed, **OPTIONS[options])
    ejections = 0
    for _ in range(4):
        world.run(STEPS // 4)
        ejections += len(world.chooser.ejected)
        assert world.recover() <= LONGEST * (1 + JITTER) + 1
        if "zone" not in OPTIONS[options]:
            assert world.balancer.usable == world.nodes
    assert ejections, "or nothing was tested"
