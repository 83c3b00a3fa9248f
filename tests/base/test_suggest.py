"""The name that a person meant by a word that is none."""

from __future__ import annotations

import pytest

from pymicro.base.suggest import did_you_mean, nearest

NAMES = ["registry", "registry_address", "selector"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("registri", "; did you mean 'registry'?"),
        ("selektor", "; did you mean 'selector'?"),
        ("selector", "; did you mean 'selector'?"),
        ("weather", ""),
        ("", ""),
    ],
)
def test_a_message_ends_with_the_name_that_is_near(word: str, expected: str) -> None:
    assert did_you_mean(word, NAMES) == expected
    assert did_you_mean(word, iter(NAMES)) == expected
    assert did_you_mean(word, []) == ""


def test_only_what_is_bare_of_names_is_compared() -> None:
    def bare(name: str) -> str:
        return name.replace("_", "").lower()

    assert nearest("say_helo", ["SayHello", "SayBye"], bare) == "SayHello"
    assert nearest("SAYHELLO", ["say_hello"], bare) == "say_hello"
    assert nearest("SAYHELLO", ["say_hello"]) is None
