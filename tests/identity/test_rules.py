"""Rules about who may call what, and the file they are read from."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from random import Random

import pytest

from pymicro.base.errors import ConfigError
from pymicro.identity import rereading
from pymicro.identity.caller import KnownCaller, caller_of
from pymicro.identity.globs import Globs
from pymicro.identity.rules import AllowedCallers, CallRules, read_rules
from pymicro.identity.rules_file import RulesFile
from tests.machine import least_cpu_now
from tests.serving.serving import eventually

CART = KnownCaller(
    "spiffe://cluster.local/ns/shop/sa/cart",
    ("cart", "cart.shop.svc"),
    ("spiffe://cluster.local/ns/shop/sa/cart",),
    "root",
)


@pytest.mark.parametrize(
    ("pattern", "admits"),
    [
        ("spiffe://cluster.local/ns/shop/sa/cart", True),
        ("spiffe://cluster.local/ns/shop/sa/*", True),
        ("spiffe://cluster.local/ns/*/sa/cart", True),
        ("spiffe://cluster.local/ns/shop/sa/c*t", True),
        ("spiffe://cluster.local/**", True),
        ("**/sa/cart", True),
        ("*", True),
        ("cart", True),
        ("CART.shop.svc", True),
        ("*.shop.svc", True),
        ("**", True),
        ("spiffe://cluster.local/*", False),
        ("spiffe://*/sa/cart", False),
        ("spiffe://cluster.local/ns/shop/sa/car", False),
        ("spiffe://cluster.local/ns/shop/sa/cart/more", False),
        ("spiffe://cluster.local/ns/shop/sa/CART", False),
        ("spiffe://cluster.local/ns/shop/sa/[a-z]+", False),
        ("cluster.local", False),
        ("cart.shopxsvc", False),
        ("root", False),  # a subject proves nothing
        ("*.svc.", False),
    ],
)
def test_patterns(pattern: str, admits: bool) -> None:
    assert AllowedCallers(("nobody", pattern)).admit(CART) is admits


SHOP = KnownCaller(principal="token:system:serviceaccount:shop:cart")
KEY = KnownCaller(principal="key:cart")
# Whoever can have a certificate issued may write any URI into it.
FORGED = KnownCaller(names=("key:cart",), uris=("token:system:serviceaccount:shop:cart",))


@pytest.mark.parametrize(
    ("pattern", "admitted"),
    [
        ("token:system:serviceaccount:shop:cart", [SHOP]),
        ("token:system:serviceaccount:shop:*", [SHOP]),
        ("token:system:serviceaccount:*:cart", [SHOP]),
        ("token:**", [SHOP]),
        ("token:*", []),  # a star stops at colons
        ("token:system:*", []),
        ("token:system:serviceaccount:SHOP:cart", []),
        ("system:serviceaccount:shop:cart", []),
        ("key:cart", [KEY]),
        ("key:*", [KEY]),
        ("key:Cart", []),
        ("cart", []),
        ("*", [SHOP, KEY, FORGED]),
        ("**", [FORGED]),
        ("*:cart", [FORGED]),
    ],
)
def test_patterns_of_tokens_and_of_certificates_are_never_taken_for_each_other(
    pattern: str, admitted: list[KnownCaller]
) -> None:
    rule = AllowedCallers((pattern,))
    assert [caller for caller in (SHOP, KEY, FORGED) if rule.admit(caller)] == admitted


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*a*a*a*b", "a" * 2048),
        ("**a*b*c", "a" * 2048),
        ("**/ns/**/sa/**x", "/ns//sa/" * 256),
        ("token:*a*a*a*a*b", "token:" + "a" * 1000),
    ],
)
def test_no_name_makes_a_pattern_take_long(pattern: str, name: str) -> None:
    """A caller has a word in his own name, and is held against the rules in the event loop."""
    rule = AllowedCallers((pattern,))
    caller = KnownCaller(principal=name) if name.startswith("token:") else KnownCaller(uris=(name,))

    def cost() -> float:
        before = time.thread_time()
        assert not rule.admit(caller)
        return time.thread_time() - before

    assert least_cpu_now(cost, 0.01) <= 0.01


def test_stars_mean_the_same_however_many_there_are() -> None:
    """Held against an expression that tries every place."""
    random, plain = Random(7), {"*": "[^/]*", "**": ".*"}
    for _ in range(300):
        parts = random.choices(["a", "b", "/", "ab", "/a", "*", "**"], k=random.randint(1, 8))
        pattern = "".join(parts)
        pieces = re.split(r"(\*\*|\*)", pattern)
        expected = re.compile("".join(plain.get(one) or re.escape(one) for one in pieces), re.DOTALL)
        found = Globs([pattern], "/")
        for _ in range(20):
            text = "".join(random.choices("ab/", k=random.randint(0, 10)))
            assert found.match(text) == bool(expected.fullmatch(text)), (pattern, text)


def test_an_empty_list_admits_nobody_and_a_star_everybody_with_a_certificate() -> None:
    assert not AllowedCallers(()).admit(CART)
    assert AllowedCallers(("*",)).admit(KnownCaller())
    assert not AllowedCallers(("**",)).admit(KnownCaller())


def test_the_nearest_place_decides_and_the_operators_word_goes_first() -> None:
    one, two, three, four = (AllowedCallers((name,)) for name in ("one", "two", "three", "four"))
    code = CallRules(one, {"a.A": two}, {"a.A/X": three})
    assert [code.of(path) for path in ("/b.B/X", "/a.A/Y", "/a.A/X")] == [one, two, three]
    both = CallRules(four, {"a.A": four}).over(code)
    assert [both.of(path) for path in ("/b.B/X", "/a.A/Y", "/a.A/X")] == [four, four, three]
    assert CallRules().of("/a.A/X") is None
    assert not CallRules()
    assert code


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("allow = [", "is no TOML"),
        ("\xff".encode("latin-1"), "is no TOML"),
        ("allow = 'cart'", "allow: 'cart' is no list of callers"),
        ("allow = [3]", "allow: 3 is no caller"),
        ("allow = ['']", "allow: '' is no caller"),
        ("alow = ['cart']", "'alow' means nothing here"),
        ("services = ['cart']", "services is a table"),
        ("[services]\n'a.A' = 'cart'", "services 'a.A': 'cart' is no list of callers"),
        ("[methods]\n'a.A' = ['cart']", "'a.A' is no method, such as greeter.v1.Greeter/SayHello"),
        ("[methods]\n'/a.A/X' = ['cart']", "'/a.A/X' is no method"),
    ],
)
def test_a_file_that_says_nothing_clear_is_refused(text: str | bytes, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_rules(text if isinstance(text, bytes) else text.encode(), "rules.toml")
    assert "rules.toml" in str(caught.value)


def test_a_file_may_begin_with_the_mark_of_windows_editors() -> None:
    assert read_rules(b"\xef\xbb\xbfallow = ['cart']", "rules.toml").everywhere == AllowedCallers(("cart",))


def test_a_file() -> None:
    found = read_rules(
        b"allow = ['*']\n[services]\n'a.A' = ['cart']\n[methods]\n'a.A/X' = []\n", "rules.toml"
    )
    assert found.everywhere == AllowedCallers(("*",))
    assert found.of("/a.A/Y") == AllowedCallers(("cart",))
    assert found.of("/a.A/X") == AllowedCallers(())


async def test_the_file_is_read_again_and_a_bad_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rereading, "PERIOD", 0.01)
    path = tmp_path / "rules.toml"
    taken: list[CallRules] = []
    kept = RulesFile(str(path), taken.append)
    with pytest.raises(ConfigError, match=r"authorization: .*rules\.toml cannot be read"):
        await kept.__aenter__()
    path.write_text("allow = ['one']")
    async with kept:
        assert [rules.everywhere for rules in taken] == [AllowedCallers(("one",))]
        path.write_text("allow = 3")
        await eventually(lambda: kept.refused == 1, "it is refused")
        assert len(taken) == 1
        path.write_text("allow = ['two']")
        await eventually(lambda: len(taken) == 2, "it is taken")
        path.unlink()
        await eventually(lambda: kept.refused == 2, "that is told")
    assert taken[-1].everywhere == AllowedCallers(("two",))
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "rules are not taken, and those before go on" in errors[0]


@pytest.mark.parametrize(
    ("told", "caller"),
    [
        ({}, None),
        ({"transport_security_type": [b"ssl"], "ssl_tls_version": [b"TLSv1.3"]}, None),
        ({"x509_common_name": [b"cart"]}, KnownCaller(subject="cart")),
        (
            {
                "x509_common_name": [b""],
                "x509_subject_alternative_name": [b"spiffe://a/b", b"Cart"],
                "peer_uri": [b"spiffe://a/b"],
                "peer_dns": [b"Cart"],
            },
            KnownCaller("spiffe://a/b", ("cart",), ("spiffe://a/b",)),
        ),
        (  # two URIs are no SPIFFE id
            {"x509_subject_alternative_name": [b"spiffe://a", b"spiffe://b"], "peer_uri": [b"spiffe://a", b"spiffe://b"]},
            KnownCaller("", (), ("spiffe://a", "spiffe://b")),
        ),
        (
            {"x509_common_name": [b"\xff\x1b[31m"]},
            KnownCaller(subject="\\xff\x1b[31m"),
        ),
        (  # the beginning of a long name is another name: rules would take it for `*.shop.svc`
            {
                "x509_subject_alternative_name": [b"-"],
                "peer_dns": [b"a" * 2039 + b".shop.svc.evil.example", b"cart"],
                "peer_uri": [b"spiffe://a/" + b"b" * 2100],
            },
            KnownCaller("", ("cart",)),
        ),
        (  # no name of the DNS passes for a workload
            {"x509_subject_alternative_name": [b"-"], "peer_dns": [b"spiffe://a/b", b"token:x", b"cart"]},
            KnownCaller("", ("cart",)),
        ),
        ({"x509_common_name": [b"a\nb\tc"]}, KnownCaller(subject="a\nb\tc")),
    ],
)  # fmt: skip
def test_who_calls(told: dict[str, list[bytes]], caller: KnownCaller | None) -> None:
    assert caller_of(told) == caller
    if caller is not None:
        assert caller.title.isprintable()
