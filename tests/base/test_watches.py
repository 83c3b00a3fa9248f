"""What is written down of a watch, and for how long."""

from __future__ import annotations

from pymicro.base import watches as module
from pymicro.base.watches import Watches


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_watch_says_since_when_it_is_connected_and_when_it_was_cut() -> None:
    clock = Clock()
    watches = Watches(clock)
    one = watches.begin("pods")
    assert not one.connected
    one.listed()
    one.opened()
    clock.now += 60.0
    one.heard()
    clock.now += 2.0
    one.cut("cut", "the connection broke")
    clock.now += 1.0
    told = one.to_json()
    assert (told["connected_seconds"], told["heard_seconds"], told["watched_seconds"]) == (None, 3.0, 63.0)
    assert (told["cuts"], told["recent_cuts"]) == ({"cut": 1}, [{"seconds": 1.0, "why": "cut"}])
    assert told["error"] == "the connection broke"
    one.opened()
    assert (one.to_json()["connected_seconds"], one.to_json()["error"]) == (0.0, None)
    one.ended()
    assert not one.connected
    assert one.cuts == {"cut": 1}


def test_only_what_was_read_before_counts_as_read_again() -> None:
    watches = Watches()
    one, other = watches.begin("pods"), watches.begin("slices")
    one.listed()
    other.listed()
    assert watches.relists == 0
    one.listed()
    assert (watches.relists, one.lists, other.lists) == (1, 2, 1)
    one.end()
    assert watches.relists == 1


def test_the_next_watch_of_what_failed_goes_on_with_its_record_for_a_while() -> None:
    clock = Clock()
    watches = Watches(clock)
    one = watches.begin("pods")
    one.listed()
    one.opened()
    one.cut("away", "nobody answers")
    one.end()
    one.end()
    assert watches.records == (one,)
    again = watches.begin("pods")
    assert again is one
    again.listed()
    assert (again.lists, watches.relists) == (2, 1)
    again.failed("nobody answers")
    again.end()
    clock.now += module.KEPT + 1
    assert watches.records == ()
    assert watches.begin("pods") is not one


def test_a_watch_that_nobody_wants_any_more_leaves_nothing() -> None:
    watches = Watches()
    one = watches.begin("pods")
    one.listed()
    one.opened()
    assert watches.records == (one,)
    one.end()
    assert watches.records == ()
    watches.begin("pods").listed()
    assert watches.relists == 0


def test_two_watches_of_the_same_thing_are_two() -> None:
    watches = Watches()
    assert watches.begin("pods") is not watches.begin("pods")
    assert len(watches.records) == 2


def test_what_is_kept_is_bounded() -> None:
    watches = Watches()
    for number in range(module.MOST_KEPT + 10):
        one = watches.begin(f"pods {number}")
        one.failed("x" * 10_000)
        one.end()
    assert len(watches.records) == module.MOST_KEPT
    assert len(watches.records[0].error) == module.LONGEST
    one = watches.begin("pods")
    for number in range(100):
        one.cut(f"reason {number}", "")
    assert len(one.cuts) == module.MOST_REASONS + 1
    assert sum(one.cuts.values()) == 100
    assert len(one.to_json()["recent_cuts"]) == module.RECENT
    assert one.error
