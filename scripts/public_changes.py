"""Which change of a public name breaks the code that uses it, and which only adds to it.

Both sides are lines as `scripts/public_names.py` writes them: a name, and what stands behind it.
When in doubt a change is a break: a person may say that it is none, and nobody has to find out later.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Change", "changes"]

# `contract`: a Protocol that other people's plug-ins implement.
CONTRACT = "contract"

# What takes at least what the other takes.
_WIDER = {
    "int": {"float"},
    "bool": {"int", "float"},
    "list": {"Sequence", "Collection", "Iterable"},
    "tuple": {"Sequence", "Collection", "Iterable"},
    "Sequence": {"Collection", "Iterable"},
    "Collection": {"Iterable"},
    "frozenset": {"Collection", "Container", "Iterable"},
    "dict": {"Mapping"},
    "Iterator": {"Iterable"},
    "AsyncGenerator": {"AsyncIterator", "AsyncIterable"},
    "AsyncIterator": {"AsyncIterable"},
    "Coroutine": {"Awaitable"},
}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        name: Of what.
        breaks: Whether code that was right before may be wrong now.
        what: What happened to it, as a clause.
    """

    name: str
    breaks: bool
    what: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    """All differences, in the order of the names."""
    found: list[Change] = []
    for name in sorted({*before, *after}):
        parent = name.rpartition(".")[0]
        contract = before.get(parent, "").startswith(CONTRACT)
        if name not in after:
            if parent not in before or parent in after:  # else the parent's line says it
                found.append(Change(name, True, "removed or renamed"))
        elif name not in before:
            if parent not in after or parent in before:
                found.append(_added(name, contract))
        elif before[name] != after[name]:
            compare = _of_setting if name.startswith("setting ") else _differences
            for breaks, what in compare(before[name], after[name]):
                if contract and not breaks:
                    what += ": plug-ins that implement it do not have it so"
                found.append(Change(name, breaks or contract, what))
    return found


def _added(name: str, contract: bool) -> Change:
    if contract:
        return Change(name, True, "added to a contract: plug-ins that implement it do not have it")
    return Change(name, False, "added")


def _differences(before: str, after: str) -> Iterator[tuple[bool, str]]:
    """Whether each difference of two lines breaks, and what it is."""
    old_kind, old_rest = _kind(before)
    new_kind, new_rest = _kind(after)
    if old_kind != new_kind:
        yield True, f"was {before!r}, is {after!r}"
    elif old_rest.startswith("("):
        yield from _of_signature(old_rest, new_rest)
    elif old_rest.startswith(":"):
        yield from _of_value(old_rest[1:].strip(), new_rest[1:].strip(), "type")
    elif old_rest.startswith("of "):
        old, new = (rest.removeprefix("of ").split(", ") for rest in (old_rest, new_rest))
        yield from ((True, f"is no {base} any more") for base in old if base not in new)
        yield from ((False, f"is a {base} too") for base in new if base and base not in old)
    elif old_rest == "":
        yield False, f"is {new_rest}"
    else:
        yield True, f"was {old_rest!r}, is {new_rest!r}"


def _kind(line: str) -> tuple[str, str]:
    """`async method` and the rest of a line that begins so."""
    at = next((at for at, char in enumerate(line) if char in "(:=`"), len(line))
    of = line.find(" of ")
    at = min(at, of if of >= 0 else at)
    return line[:at].strip(), line[at:].strip()


# Settings


def _of_setting(before: str, after: str) -> Iterator[tuple[bool, str]]:
    """Of `TEXT, --balancer, MICRO_BALANCER, default p2c`."""
    old, new = (text.split(", ", 3) for text in (before, after))
    for index, what in enumerate(("value", "flag", "variable", "default")):
        if old[index] == new[index]:
            continue
        choices = set(old[index].split("|"))
        more = what == "value" and len(choices) > 1 and choices < set(new[index].split("|"))
        was, now = (text[index].removeprefix("default ") for text in (old, new))
        yield not more, f"{what} was {was}, is {now}"


# Signatures


@dataclass(frozen=True, slots=True)
class _Parameter:
    kind: str
    annotation: ast.expr | None
    default: str | None

    @property
    def optional(self) -> bool:
        return self.default is not None or self.kind in ("*", "**")


def _parsed(text: str) -> tuple[dict[str, _Parameter], str]:
    """The parameters of `(…) -> …` by name, and what it returns."""
    (function,) = ast.parse(f"def f{text}: ...").body
    assert isinstance(function, ast.FunctionDef)
    given = function.args
    found = {}
    ordered = [(item, "positional") for item in given.posonlyargs] + [(item, "any") for item in given.args]
    without = len(ordered) - len(given.defaults)
    for index, (item, kind) in enumerate(ordered):
        default = ast.unparse(given.defaults[index - without]) if index >= without else None
        found[item.arg] = _Parameter(kind, item.annotation, default)
    if given.vararg:
        found[f"*{given.vararg.arg}"] = _Parameter("*", given.vararg.annotation, None)
    for item, value in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found[item.arg] = _Parameter("keyword", item.annotation, ast.unparse(value) if value else None)
    if given.kwarg:
        found[f"**{given.kwarg.arg}"] = _Parameter("**", given.kwarg.annotation, None)
    return found, ast.unparse(function.returns) if function.returns else ""


def _of_signature(before: str, after: str) -> Iterator[tuple[bool, str]]:
    old, old_returns = _parsed(before)
    new, new_returns = _parsed(after)
    for name, parameter in old.items():
        if name not in new:
            yield True, f"parameter {name} removed or renamed"
        else:
            yield from _of_parameter(name, parameter, new[name])
    for name, parameter in new.items():
        if name not in old:
            yield (
                not parameter.optional,
                f"new {'optional' if parameter.optional else 'required'} parameter {name}",
            )
    by_place = [
        [name for name, item in each.items() if item.kind in ("positional", "any")] for each in (old, new)
    ]
    kept = [name for name in by_place[0] if name in by_place[1]]
    if by_place[1][: len(kept)] != kept:
        yield True, "parameters that are given by position stand in another order"
    yield from _of_value(old_returns, new_returns, "result")


def _of_parameter(name: str, old: _Parameter, new: _Parameter) -> Iterator[tuple[bool, str]]:
    if old.kind != new.kind:
        yield new.kind != "any", f"parameter {name} was {_given(old)}, is {_given(new)}"
    if old.default != new.default:
        if new.default is None:
            yield True, f"parameter {name} is required now"
        elif old.default is None:
            yield False, f"parameter {name} has a default now"
        else:
            yield True, f"default of {name} was {old.default}, is {new.default}"
    if _dump(old.annotation) != _dump(new.annotation):
        was = f"parameter {name} takes {_shown(new.annotation)}, took {_shown(old.annotation)}"
        wider = new.annotation is None or (
            old.annotation is not None and _covers(new.annotation, old.annotation)
        )
        yield not wider, f"{was}: {'wider' if wider else 'narrower'}"


def _given(parameter: _Parameter) -> str:
    return {
        "positional": "given by position only",
        "keyword": "given by name only",
        "any": "given by position or name",
    }.get(parameter.kind, parameter.kind)


def _of_value(before: str, after: str, what: str) -> Iterator[tuple[bool, str]]:
    """Of what users are handed: there less is more."""
    if before == after:
        return
    old, new = (ast.parse(text or "Any", mode="eval").body for text in (before, after))
    narrower = _covers(old, new)
    yield not narrower, f"{what} was {before or 'not said'}, is {after or 'not said'}"


# Annotations


def _dump(node: ast.expr | None) -> str:
    return "" if node is None else ast.dump(node)


def _shown(node: ast.expr | None) -> str:
    return "anything" if node is None else ast.unparse(node)


def _members(node: ast.expr) -> list[ast.expr]:
    """Of a union, `A | None`; else the annotation itself."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_members(node.left), *_members(node.right)]
    return [node]


def _covers(wide: ast.expr, narrow: ast.expr) -> bool:
    """Whether every value of `narrow` is one of `wide`, as far as the text tells."""
    return all(any(_takes(one, other) for one in _members(wide)) for other in _members(narrow))


def _takes(wide: ast.expr, narrow: ast.expr) -> bool:
    if _dump(wide) == _dump(narrow) or ast.unparse(wide) in ("Any", "object"):
        return True
    (wide_name, wide_items), (name, items) = _split(wide), _split(narrow)
    if name == "Literal":
        values = {ast.unparse(item) for item in items}
        if wide_name == "Literal":
            return values <= {ast.unparse(item) for item in wide_items}
        return wide_name in {type(ast.literal_eval(value)).__name__ for value in values}
    if wide_name != name and wide_name not in _WIDER.get(name, ()):
        return False
    # `tuple[int, ...]` is a Sequence[int], a generator's second argument is what it is sent.
    items = [item for item in items if not _is_ellipsis(item)][: len(wide_items) or None]
    wide_items = [item for item in wide_items if not _is_ellipsis(item)]
    if not wide_items:
        return True
    return len(items) == len(wide_items) and all(map(_covers, wide_items, items))


def _split(node: ast.expr) -> tuple[str, list[ast.expr]]:
    """`dict` and its arguments."""
    if not isinstance(node, ast.Subscript):
        return ast.unparse(node), []
    inner = node.slice
    return ast.unparse(node.value), list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
