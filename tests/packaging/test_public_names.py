"""What pymicro promises stands in docs/public-names.txt; a change of it is told as a break or an addition."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from scripts.public_changes import changes
from scripts.public_names import FILE, MODULES, ROOT, WIRE, main, names, read, report, text_of


def test_the_code_has_the_names_that_are_promised() -> None:
    now = names()
    text = FILE.read_text()
    assert not changes(read(text), now), "\n" + report(changes(read(text), now))
    assert text == text_of(now), "docs/public-names.txt has lost its form: run `make papers`"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("pymicro.NotFound", "exception of RpcError, PymicroError, grpc.aio.AioRpcError, grpc.RpcError"),
        ("pymicro.NodeSet.of", "classmethod(nodes: Iterable[Node]) -> NodeSet"),
        (
            "pymicro.Client.nodes",
            "async method(service: str, *, timeout: float | None = None) -> tuple[Node, ...]",
        ),
        ("pymicro.HandlersError.mismatches", "attribute: tuple[HandlerMismatch, ...]"),
        ("pymicro.Shape.UNARY_STREAM", "member = 'unary_stream'"),
        ("pymicro.Proceed", "type: Callable[[], Awaitable[Any]]"),
        ("pymicro.detached", "context manager() -> Iterator[None]"),
        ("pymicro.discovery.registry.Node", "is pymicro.Node"),
        ("pymicro.discovery.registry.Registry", "contract"),
        ("pymicro.discovery.registry.Registry.drain_delay", "attribute: float"),
        ("pymicro.discovery.selector.NodeSource", "protocol"),
        ("pymicro.balancing.balancer.Pick.node", "property: Node"),
        ("setting log_format", "auto|human|json, --log-format, MICRO_LOG_FORMAT, default auto"),
        ("setting stop_grace", "DURATION, --stop-grace, MICRO_STOP_GRACE, default 20s"),
        ("command nodes", "SERVICE"),
        ("command nodes -o", "option"),
        ("entry point pymicro.registries etcd", ""),
        ("logger pymicro.registry.etcd", ""),
        ("wire pymicro-not-started", ""),
        ("variable STATIC_SELECTOR_PORT_NUMBER", ""),
    ],
)
def test_a_promise_reads_like_this(name: str, line: str) -> None:
    assert read(FILE.read_text())[name] == line


def test_every_promised_name_can_be_imported_from_its_module() -> None:
    for module in MODULES:
        found = importlib.import_module(module)
        for name in found.__all__:
            assert getattr(found, name) is not None
            assert f"{module}.{name}" in names()


def test_no_name_stands_there_that_only_parts_of_pymicro_use() -> None:
    for private in ("pymicro.Service.apart", "pymicro.Channel.live", "pymicro.CallContext.emit"):
        assert private not in names()


def test_what_stands_on_the_wire_is_what_is_sent() -> None:
    assert len(set(WIRE)) == len(WIRE)
    assert all(key == key.lower() for key in WIRE), "metadata keys are lower case"


def test_the_page_tells_of_each_logger_group_and_key_that_is_promised() -> None:
    page = (ROOT / "docs" / "stability.md").read_text()
    told = set(re.findall(r"`([\w./-]+)", page))
    sorts = ("logger ", "entry point group ", "extra ", "fixture ", "variable ", "wire ")
    for name in names():
        if name.startswith(sorts):
            word = name.rpartition(" ")[2]
            assert word in told, f"{name} is not on the page"
    assert not {word for word in told if word.startswith("pymicro-")} - {"pymicro-", *WIRE}, (
        "keys that nobody sends"
    )
    for module in MODULES:
        assert f"`{module}`" in page


# The judge of changes

BREAKS = [
    # name, before, after, what is said
    ("pymicro.Node", "class", None, "removed or renamed"),
    ("pymicro.f", "function(a: int)", "function()", "parameter a removed or renamed"),
    ("pymicro.f", "function(a: int)", "function(b: int)", "parameter a removed or renamed"),
    ("pymicro.f", "function()", "function(a: int)", "new required parameter a"),
    ("pymicro.f", "function()", "function(*, a: int)", "new required parameter a"),
    ("pymicro.f", "function(a: int = 1)", "function(a: int)", "parameter a is required now"),
    ("pymicro.f", "function(a: int = 1)", "function(a: int = 2)", "default of a was 1, is 2"),
    (
        "pymicro.f",
        "function(a: int)",
        "function(*, a: int)",
        "was given by position or name, is given by name",
    ),
    ("pymicro.f", "function(a: int)", "function(a: int, /)", "is given by position only"),
    ("pymicro.f", "function(a: int, b: int)", "function(b: int, a: int)", "stand in another order"),
    ("pymicro.f", "function(b: int)", "function(a: int = 1, b: int = 2)", "stand in another order"),
    ("pymicro.f", "function(**more: int)", "function()", "parameter **more removed or renamed"),
    ("pymicro.f", "function(a: int | None)", "function(a: int)", "takes int, took int | None: narrower"),
    ("pymicro.f", "function(a: Any)", "function(a: int)", "takes int, took Any: narrower"),
    ("pymicro.f", "function(a: Iterable[int])", "function(a: list[int])", "narrower"),
    ("pymicro.f", "function(a: Literal['x', 'y'])", "function(a: Literal['x'])", "narrower"),
    ("pymicro.f", "function(a: str)", "function(a: bytes)", "takes bytes, took str"),
    ("pymicro.f", "function() -> int", "function() -> int | None", "result was int, is int | None"),
    ("pymicro.f", "function() -> list[int]", "function() -> Sequence[int]", "result was list[int]"),
    ("pymicro.f", "function() -> int", "function() -> Any", "result was int, is Any"),
    ("pymicro.f", "function()", "async function()", "was 'function()', is 'async function()'"),
    ("pymicro.C.f", "method()", "property: int", "was 'method()', is 'property: int'"),
    ("pymicro.C.f", "attribute: int", "attribute: int | None", "type was int, is int | None"),
    ("pymicro.E", "exception of KeyError, OSError", "exception of OSError", "is no KeyError any more"),
    ("pymicro.E", "exception of KeyError", "exception", "is no KeyError any more"),
    ("pymicro.E.A", "member = 1", "member = 2", "was '= 1', is '= 2'"),
    ("pymicro.N", "is pymicro.A", "is pymicro.B", "was 'is pymicro.A', is 'is pymicro.B'"),
    ("pymicro.T", "type: int", "type: str", "type was int, is str"),
    ("setting x", "N, --x, MICRO_X, default 1", "N, --x, MICRO_X, default 2", "default was 1, is 2"),
    ("setting x", "N, --x, MICRO_X, default 1", "SIZE, --x, MICRO_X, default 1", "value was N, is SIZE"),
    ("setting x", "a|b, --x, MICRO_X, default a", "a, --x, MICRO_X, default a", "value was a|b, is a"),
    ("setting x", "N, --x, MICRO_X, default 1", "N, --y, MICRO_X, default 1", "flag was --x, is --y"),
    (
        "setting x",
        "N, --x, MICRO_X, default f(1, 2)",
        "N, --x, MICRO_X, default f(1, 3)",
        "default was f(1, 2)",
    ),
    ("command call", "SERVICE", "SERVICE METHOD", "was 'SERVICE', is 'SERVICE METHOD'"),
    ("command call -o", "option", "flag", "was 'option', is 'flag'"),
    ("logger pymicro.client", "", None, "removed or renamed"),
    ("entry point pymicro.registries etcd", "", None, "removed or renamed"),
]

ADDITIONS = [
    ("pymicro.New", None, "class", "added"),
    ("logger pymicro.new", None, "", "added"),
    ("setting new", None, "N, --new, MICRO_NEW, default 1", "added"),
    ("pymicro.f", "function()", "function(a: int = 1)", "new optional parameter a"),
    ("pymicro.f", "function(a: int)", "function(a: int, b: int = 1, *more: int)", "new optional parameter b"),
    ("pymicro.f", "function()", "function(**more: Any)", "new optional parameter **more"),
    ("pymicro.f", "function(a: int)", "function(a: int = 1)", "parameter a has a default now"),
    ("pymicro.f", "function(*, a: int)", "function(a: int)", "is given by position or name"),
    ("pymicro.f", "function(a: int)", "function(a: float)", "takes float, took int: wider"),
    ("pymicro.f", "function(a: int)", "function(a: int | str | None)", "wider"),
    ("pymicro.f", "function(a: dict[str, int])", "function(a: Mapping[str, int | None])", "wider"),
    ("pymicro.f", "function(a: tuple[int, ...])", "function(a: Sequence[int])", "wider"),
    ("pymicro.f", "function(a: Literal['x'])", "function(a: str)", "wider"),
    ("pymicro.f", "function(a: int)", "function(a)", "takes anything, took int: wider"),
    ("pymicro.f", "function() -> int | None", "function() -> int", "result was int | None, is int"),
    (
        "pymicro.f",
        "function() -> AsyncIterator[int]",
        "function() -> AsyncGenerator[int, None]",
        "result was",
    ),
    ("pymicro.E", "exception of OSError", "exception of KeyError, OSError", "is a KeyError too"),
    (
        "setting x",
        "a|b, --x, MICRO_X, default a",
        "a|b|c, --x, MICRO_X, default a",
        "value was a|b, is a|b|c",
    ),
]


def judged(name: str, before: str | None, after: str | None) -> list[tuple[bool, str]]:
    sides = [{} if line is None else {name: line} for line in (before, after)]
    return [(change.breaks, change.what) for change in changes(*sides)]


@pytest.mark.parametrize(("name", "before", "after", "said"), BREAKS)
def test_a_break_is_called_one(name: str, before: str | None, after: str | None, said: str) -> None:
    found = judged(name, before, after)
    assert any(breaks and said in what for breaks, what in found), found


@pytest.mark.parametrize(("name", "before", "after", "said"), ADDITIONS)
def test_an_addition_is_called_one(name: str, before: str | None, after: str | None, said: str) -> None:
    found = judged(name, before, after)
    assert any(said in what for _, what in found), found
    assert not any(breaks for breaks, _ in found), found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"pymicro.R.more": "method()"}),
        ({"pymicro.R.f": "method()"}, {"pymicro.R.f": "method(a: int = 1)"}),
        ({"pymicro.R.f": "method(a: int)"}, {"pymicro.R.f": "method(a: int | None)"}),
    ],
)
def test_whatever_is_asked_of_a_contract_besides_breaks_plug_ins_that_implement_it(
    before: dict[str, str], after: dict[str, str]
) -> None:
    contract = {"pymicro.R": "contract"}
    (change,) = changes(contract | before, contract | after)
    assert change.breaks
    assert "plug-ins that implement it" in change.what
    # The same of a class of pymicro's own is an addition.
    (change,) = changes({"pymicro.R": "class"} | before, {"pymicro.R": "class"} | after)
    assert not change.breaks


def test_a_class_that_goes_or_comes_is_one_change() -> None:
    kind = {"pymicro.C": "class", "pymicro.C.f": "method()", "pymicro.C.g": "method()"}
    assert [str(change) for change in changes(kind, {})] == ["pymicro.C: removed or renamed"]
    assert [str(change) for change in changes({}, kind)] == ["pymicro.C: added"]


def test_nothing_changed_is_nothing() -> None:
    now = names()
    assert changes(now, dict(now)) == []


# What is told, and written

LINE = "pymicro.Node.id  attribute: str\n"


def copy_without(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, instead: str = "") -> Path:
    """A copy of the file for `main`, in which one line is another one or missing."""
    file = folder / "names.txt"
    text = FILE.read_text()
    assert text.count(line) == 1
    file.write_text(text.replace(line, instead))
    monkeypatch.setattr("scripts.public_names.FILE", file)
    return file


def test_the_report_says_what_each_sort_of_change_needs() -> None:
    told = report(
        changes({"pymicro.A": "class", "pymicro.f": "function()"}, {"pymicro.f": "function(b: int = 1)"})
    )
    first, second = told.split("This is an addition:")
    assert "This breaks code that uses pymicro:\n  pymicro.A: removed or renamed\n" in first
    assert "pymicro/base/deprecated.py" in first
    assert "--write --breaks" in first
    assert "\n  pymicro.f: new optional parameter b\n" in second
    assert "`make papers`" in second


def test_an_addition_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = copy_without(tmp_path, monkeypatch, LINE)
    with pytest.raises(SystemExit):
        main([])
    main(["--write"])
    assert LINE in file.read_text()


def test_a_break_is_written_only_if_it_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copy_without(tmp_path, monkeypatch, LINE, instead="pymicro.Node.id  attribute: int\n")
    with pytest.raises(SystemExit):
        main(["--write"])
    assert "pymicro.Node.id: type was int, is str" in capsys.readouterr().out
    assert LINE not in file.read_text()
    main(["--write", "--breaks"])
    assert LINE in file.read_text()
