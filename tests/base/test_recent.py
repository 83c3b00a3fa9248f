"""A cache with a bound on what its values cost together."""

from __future__ import annotations

from pymicro.base.recent import Recent, sweep


def test_the_least_recently_asked_for_go_when_all_cost_too_much() -> None:
    recent: Recent[str, str] = Recent(10)
    assert recent.put("a", "A", 4) == "A"
    recent.put("b", "B", 4)
    assert recent.get("a") == "A"
    recent.put("c", "C", 4)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == ("A", None, "C")
    assert recent.cost == 8


def test_what_costs_more_than_all_may_is_not_kept() -> None:
    recent: Recent[str, str] = Recent(10)
    recent.put("a", "A", 10)
    assert recent.put("b", "B", 11) == "B"
    assert (recent.get("a"), recent.get("b")) == ("A", None)


def test_a_value_that_is_replaced_counts_once() -> None:
    recent: Recent[str, str] = Recent(10)
    for cost in (3, 9, 5):
        recent.put("a", "A", cost)
    assert (len(recent), recent.cost) == (1, 5)


def test_what_nobody_holds_goes_with_the_second_sweep() -> None:
    recent: Recent[str, list[int]] = Recent(100)
    held = recent.put("held", [1], 5)
    recent.put("left", [2], 5)
    sweep()
    assert len(recent) == 2, "somebody may ask again in a moment"
    assert recent.get("held") is held
    sweep()
    assert (recent.get("held"), recent.get("left"), recent.cost) == (held, None, 5)
    del held
    sweep()
    sweep()
    assert (len(recent), recent.cost) == (0, 0)


def test_a_text_that_stands_for_itself_goes_too() -> None:
    recent: Recent[str, str] = Recent(1000)
    texts = [f"{number}-" * 20 for number in range(3)]
    for text in texts:
        recent.put(text, text, 5)
    kept = texts.pop()
    del texts, text
    for _ in range(2):
        sweep()
    assert len(recent) == 1
    assert recent.get(kept) is kept
