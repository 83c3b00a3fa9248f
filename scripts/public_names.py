"""The names that pymicro promises, one a line: `docs/public-names.txt`, as docs/stability.md explains it.

`python -m scripts.public_names` says how code and file differ, and fails if they do. With `--write`
the file is written anew (`make papers`), unless a change breaks somebody's code; `--breaks` says
that it is meant.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
import textwrap
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pymicro.cli.app import command_line
from pymicro.cli.flags import is_setting
from pymicro.discovery.selectors import dns, static
from pymicro.nodes import keys, wellknown
from pymicro.rpc.wire import gomicro, metadata, status
from pymicro.settings import plugins
from pymicro.settings.config import settings
from scripts.papers import default_of
from scripts.public_changes import CONTRACT, Change, changes

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "public-names.txt"

MODULES = [
    "pymicro",
    "pymicro.sync",
    "pymicro.testing",
    "pymicro.discovery.registry",
    "pymicro.discovery.selector",
    "pymicro.balancing.balancer",
]

# Protocols that other people's plug-ins implement: what is added to one is a break for them.
CONTRACTS = {"Balancer", "Diagnosable", "Pick", "Registry", "Selector"}

# Of the classes above, and yet for pymicro's own parts: what nobody promises.
PRIVATE = {
    # Made by pymicro only; Config's keywords are its attributes.
    *(f"pymicro.{name}.__init__" for name in ("CallContext", "Channel", "Config", "Shape")),
    *(f"pymicro.sync.{name}.__init__" for name in ("SyncCall", "SyncChannel")),
    "pymicro.sync.SyncCall.result_of_call",
    *(f"pymicro.sync.{name}.{part}" for name in ("Client", "SyncChannel") for part in ("opened", "thread")),
    "pymicro.testing.Running.__init__",
    "pymicro.testing.RunningNode.__init__",
    *(
        f"pymicro.CallContext.{name}"
        for name in ("emit", "forwarded", "mark_cancelled", "mark_idempotent", "request_mappers")
    ),
    *(f"pymicro.CallContext.{name}" for name in ("response_mappers", "task")),
    *(
        f"pymicro.Channel.{name}"
        for name in (
            "caller",
            "forget",
            "forwarded",
            "forwards",
            "layers",
            "live",
            "logged",
            "loop",
            "marks",
            "open",
            "own_calls",
            "target",
            "tracing",
        )
    ),
    "pymicro.Channel.tasks",
    *(f"pymicro.CallContext.{name}" for name in ("began", "coded", "span")),
    *(
        f"pymicro.Client.{name}"
        for name in ("core", "directory", "equip", "find_tracing", "identity", "missing", "recorder")
    ),
    *(f"pymicro.Service.{name}" for name in ("apart", "config_for", "node_metadata", "recorder")),
    "pymicro.testing.Running.close",
}

# What a peer of another version, or an operator, may rely on by its text.
WIRE = [
    metadata.IDEMPOTENT[0],
    metadata.NOT_STARTED[0],
    metadata.PREVIOUS_ATTEMPTS,
    metadata.PUSHBACK,
    status.DETAILS_KEY,
    status.FROM_PEER[0],
    gomicro.FROM_SERVICE,
    keys.METADATA_PREFIX,
    keys.PORT_PREFIX,
    keys.RECORD_PREFIX,
    keys.SELECTOR_PREFIX,
    keys.TYPE_LABEL,
    wellknown.ADMIN_PORT,
    wellknown.KEEPALIVE,
    wellknown.PROTOCOL,
    wellknown.TLS,
    wellknown.ZONE,
]

# What `async with`, `for`, `len` and `if` ask for.
_MAGIC = {"__init__", "__aenter__", "__aexit__", "__bool__", "__iter__", "__len__"}

HEAD = """\
# What pymicro promises, one name a line: docs/stability.md says for how long.
# Written by `make papers`; tests/packaging/test_public_names.py holds the code to it.
# What does not stand here is private, however it is spelled.
"""


def names() -> dict[str, str]:
    """What stands behind each name, by name."""
    found: dict[str, str] = {}
    for name, line in [*_python(), *_settings(), *_commands(), *_others()]:
        if name not in PRIVATE:
            assert found.setdefault(name, line) == line, name
    return dict(sorted(found.items()))


def text_of(found: Mapping[str, str]) -> str:
    """The file."""
    return HEAD + "".join(f"{name}  {line}".rstrip() + "\n" for name, line in found.items())


def read(text: str) -> dict[str, str]:
    """The names of a file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: line for name, _, line in (line.partition("  ") for line in lines)}


# Python's names


def _python() -> Iterator[tuple[str, str]]:
    homes: dict[int, str] = {}
    for module_name in MODULES:
        module = import_module(module_name)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            path = f"{module_name}.{name}"
            home = homes.setdefault(id(value), path)
            if home == path:
                yield from _thing(path, value)
            elif not isinstance(value, str):
                yield path, f"is {home}"


def _thing(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, type):
        yield path, _class(value)
        for name, line in _members(value):
            yield f"{path}.{name}", line
    elif inspect.isfunction(value):
        inner = inspect.unwrap(value)
        word = _callable("function", value)
        if inner is not value:  # the two decorators of contextlib
            word = "async context manager" if inspect.isasyncgenfunction(inner) else "context manager"
        yield path, f"{word}{_signature(value)}"
    elif type(value).__module__ in ("typing", "types", "collections.abc"):
        yield path, "type: " + re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(value))
    else:
        yield path, f"constant: {type(value).__name__}"


def _class(kind: type) -> str:
    if getattr(kind, "_is_protocol", False):
        return CONTRACT if kind.__name__ in CONTRACTS else "protocol"
    if issubclass(kind, enum.Enum):
        return "enum"
    word = "exception" if issubclass(kind, BaseException) else "class"
    # Those that somebody may name in an `except` or an `isinstance`.
    bases = [
        base.__name__ if _ours(base) else re.sub(r"\b_\w+\.", "", f"{base.__module__}.{base.__name__}")
        for base in kind.__mro__[1:]
        if (_promised(base) if _ours(base) else base.__module__ not in ("abc", "builtins", "typing"))
    ]
    return f"{word} of {', '.join(bases)}" if bases else word


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "pymicro"


def _promised(kind: type) -> bool:
    return any(kind.__name__ in import_module(module).__all__ for module in MODULES)


def _members(kind: type) -> Iterator[tuple[str, str]]:
    """Of the class and of private ones that it inherits from; a public one has lines of its own."""
    if issubclass(kind, enum.Enum):
        yield from ((member.name, f"member = {member.value!r}") for member in kind)
    seen: set[str] = set()
    for base in kind.__mro__:
        if not _ours(base) or (base is not kind and _promised(base)):
            continue
        attributes = {**_attributes(base), **inspect.get_annotations(base)}
        for name in sorted({*vars(base), *attributes} - seen):
            # Tests of a contract suite may become more in each version.
            if name.startswith(("_", "test_")) and name not in _MAGIC:
                continue
            seen.add(name)
            value = vars(base).get(name)
            if name == "__init__" and getattr(base, "_is_protocol", False):
                continue
            line = _member(kind, name, value, attributes.get(name))
            if line and not (issubclass(kind, enum.Enum) and isinstance(value, kind)):
                yield name, line


def _member(kind: type, name: str, value: object, annotation: object) -> str:
    if isinstance(value, property):
        returns = inspect.get_annotations(value.fget).get("return", "") if value.fget else ""
        return f"property: {returns}"
    if isinstance(value, (classmethod, staticmethod)):
        word = type(value).__name__
        return f"{_callable(word, value.__func__)}{_signature(getattr(kind, name))}"
    if inspect.isfunction(value):
        return f"{_callable('method', value)}{_signature(value, bound=True)}"
    if annotation is None and not isinstance(value, (str, int, float)):
        return ""
    text = str(annotation or type(value).__name__).removeprefix("ClassVar[")
    return f"attribute: {text.removesuffix(']') if text != str(annotation) else text}"


def _attributes(kind: type) -> dict[str, str]:
    """What `__init__` gives an instance, with its type where the source says one."""
    made = vars(kind).get("__init__")
    if not inspect.isfunction(made):
        return {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(made)))
    except OSError:  # a dataclass', which has no source
        return {}
    found: dict[str, str] = {}
    types_of = {name: item.annotation for name, item in inspect.signature(made).parameters.items()}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in targets:
            if not (isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"):
                continue
            if isinstance(node, ast.AnnAssign):
                found[target.attr] = ast.unparse(node.annotation)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                found[target.attr] = types_of.get(node.value.id, "")
            elif isinstance(node.value, ast.Call):
                found.setdefault(target.attr, ast.unparse(node.value.func))
            elif isinstance(node.value, ast.Constant):
                found.setdefault(target.attr, type(node.value.value).__name__)
            else:
                found.setdefault(target.attr, "")
    return {name: text or "Any" for name, text in found.items()}


def _callable(word: str, function: types.FunctionType) -> str:
    return f"async {word}" if inspect.iscoroutinefunction(function) else word


def _signature(function: Any, *, bound: bool = False) -> str:
    """`(a: int, *, b: str = '') -> None`: what is not a literal stands as `...`."""
    signature = inspect.signature(function)
    given = [item for item in signature.parameters.values() if not item.name.startswith("_")]
    plain = signature.replace(
        parameters=[
            item.replace(
                annotation=_Word(item.annotation) if item.annotation is not item.empty else item.empty,
                default=_Word(_literal(item.default)) if item.default is not item.empty else item.empty,
            )
            for item in given[1 if bound else 0 :]
        ],
        return_annotation=_Word(signature.return_annotation)
        if signature.return_annotation not in (signature.empty, "None", None)
        else signature.empty,
    )
    return str(plain)


class _Word:
    """Stands in a signature as it is written, without quotes."""

    def __init__(self, text: object) -> None:
        self._text = text if isinstance(text, str) else getattr(text, "__name__", str(text))

    def __repr__(self) -> str:
        return self._text


def _literal(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or isinstance(value, (str, int, float, bool)) or value == ():
        return repr(value)
    return "..."


# Names of operators and peers


def _settings() -> Iterator[tuple[str, str]]:
    for setting in settings().values():
        value, default = setting.kind.metavar.replace(",", "+"), default_of(setting).strip("`")
        line = f"{value}, {setting.flag}, {setting.variable}, default {default or 'none'}"
        yield f"setting {setting.name}", line


def _commands() -> Iterator[tuple[str, str]]:
    context = click.Context(command_line, info_name="pymicro")
    for name in command_line.list_commands(context):
        command = command_line.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        arguments = [piece for piece in command.collect_usage_pieces(inner) if piece != "[OPTIONS]"]
        yield f"command {name}", " ".join(arguments)
        for option in command.get_params(inner):
            if isinstance(option, click.Option) and not is_setting(option):
                for spelling in (*option.opts, *option.secondary_opts):
                    yield f"command {name} {spelling}", "flag" if option.is_flag else "option"


def _others() -> Iterator[tuple[str, str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (plugins.BALANCERS, plugins.REGISTRIES, plugins.SELECTORS):
        yield f"entry point group {group}", ""
        yield from ((f"entry point {group} {name}", "") for name in project["entry-points"][group])
    yield from ((f"extra {name}", "") for name in project["optional-dependencies"])
    yield "fixture pymicro_services", ""
    for path in sorted((ROOT / "pymicro").rglob("*.py")):
        for name in re.findall(r'ogger\("(pymicro[\w.]*)"\)', path.read_text()):
            yield f"logger {name}", ""
    for variable in (static.DOMAIN_VARIABLE, static.PORT_VARIABLE, dns.DOMAIN_VARIABLE):
        yield f"variable {variable}", ""
    yield from ((f"wire {name}", "") for name in WIRE)


# What to do about a change

_BREAK = """\
A break needs a way for those who have the old name: keep it and let it warn for two minor versions
(pymicro/base/deprecated.py, docs/stability.md), or take the change back. If it is meant as it is:
tell users in CHANGELOG.md what to write instead, then `python -m scripts.public_names --write --breaks`."""
_ADDITION = "An addition needs a line in CHANGELOG.md; `make papers` writes it into docs/public-names.txt."


def report(found: Iterable[Change]) -> str:
    """The changes for the person who made them, and what each sort needs."""
    breaks, additions = [], []
    for change in found:
        (breaks if change.breaks else additions).append(change)
    parts = []
    for listed, what, advice in (
        (breaks, "breaks code that uses pymicro", _BREAK),
        (additions, "is an addition", _ADDITION),
    ):
        if listed:
            parts += [f"This {what}:", *(f"  {change}" for change in listed), advice]
    return "\n".join(parts)


def main(arguments: Iterable[str]) -> None:
    """Compare, and write if told to."""
    given = set(arguments)
    now = names()
    found = changes(read(FILE.read_text()) if FILE.exists() else now, now)
    allowed = "--write" in given and ("--breaks" in given or not any(change.breaks for change in found))
    if found:
        print(report(found))
    if allowed:
        FILE.write_text(text_of(now))
    elif found:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
