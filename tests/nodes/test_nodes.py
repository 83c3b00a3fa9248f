"""Node sets as values."""

from __future__ import annotations

import random
from dataclasses import replace

from pymicro.nodes.node import Node, NodeSet, differing


def test_differing_names_every_change_and_little_more() -> None:
    rng = random.Random(5)
    pool = [Node(f"n{number:03}", "10.0.0.1:80") for number in range(200)]
    for changes in (0, 1, 3, 20, 200):
        old = NodeSet.of(rng.sample(pool, 100))
        kept = list(old)
        for _ in range(changes):
            match rng.randrange(3):
                case 0 if kept:
                    kept.pop(rng.randrange(len(kept)))
                case 1 if kept:
                    place = rng.randrange(len(kept))
                    kept[place] = replace(kept[place], version=f"v{rng.random()}")
                case _:
                    kept.append(rng.choice(pool))
        new = NodeSet.of(kept)
        gone, present = differing(old, new)
        assert {node.key for node in old if node not in new.nodes} <= {node.key for node in gone}
        assert {node.key for node in new if node not in old.nodes} <= {node.key for node in present}
        # What it leaves out is the same object in both.
        same = {id(node) for node in old} & {id(node) for node in new}
        assert {id(node) for node in old} - {id(node) for node in gone} <= same
        assert {id(node) for node in new} - {id(node) for node in present} <= same
        if changes <= 3:
            assert len(gone) + len(present) <= 2 * changes
