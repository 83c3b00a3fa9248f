"""Changes protoc's Python code so that it can lie in any package."""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from dataclasses import dataclass

from pymicro.cli.report import InputError

__all__ = ["Layout", "check_code", "head_of_types", "mend"]

# The three ways in which protoc imports a module that it made, and the way of grpc's plug-in.
_MODULE = re.compile(
    r"^(?:from (?P<package>[\w.]+) )?import (?P<name>\w+_pb2) as (?P<alias>\w+)$", re.MULTILINE
)
_NAMES = re.compile(r"^from (?P<module>[\w.]+_pb2) import (?P<names>.+)$", re.MULTILINE)
_BY_CALL = re.compile(r"^(?P<alias>\w+) = importlib\.import_module\('(?P<module>[\w.]+)'\)$", re.MULTILINE)

# Where messages learn the name of their module, by which pickle finds them.
_OWN_NAME = re.compile(r"(?<=BuildTopDescriptorsAndMessages\(DESCRIPTOR, )'[^']*'")

_UNTYPED = re.compile(r"^(?:from|import) google\.(?!protobuf\b)", re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """How each module is imported.

    Attributes:
        local: Modules in the output folder.
        in_package: Whether the output folder is a package itself. If not, it is on
            sys.path, and no relative import leads out of a package in it.
    """

    local: frozenset[str]
    in_package: bool

    def package_from(self, importer: str, package: str, module: str) -> str:
        """`package` of an imported `module`, as `importer` must write it; "" for none."""
        if module not in self.local:
            return package
        own, other = importer.split(".")[:-1], package.split(".") if package else []
        common = 0
        while common < min(len(own), len(other)) and own[common] == other[common]:
            common += 1
        if not common and not self.in_package:
            return package
        return "." * (len(own) - common + 1) + ".".join(other[common:])

    def from_module(self, importer: str, module: str, names: str) -> str:
        """The import of `names` from `module`."""
        package, _, name = module.rpartition(".")
        place = self.package_from(importer, package, module)
        return f"from {place}{'' if place.endswith('.') or not place else '.'}{name} import {names}"

    def statement(self, importer: str, module: str, alias: str) -> str:
        """The import of `module` as `alias`."""
        package, _, name = module.rpartition(".")
        place = self.package_from(importer, package, module)
        if any(keyword.iskeyword(part) for part in module.split(".")):
            path = f"{place}{'' if place.endswith('.') or not place else '.'}{name}"
            anchor = ", __package__" if path.startswith(".") else ""
            return f"import importlib\n{alias} = importlib.import_module({path!r}{anchor})"
        return f"from {place} import {name} as {alias}" if place else f"import {name} as {alias}"

    def typed(self, importer: str, module: str, alias: str) -> str:
        """The same for a type checker."""
        # If google/api, say, is in the output folder too, mypy looks only there for what is imported from it.
        if module not in self.local:
            return f"import {module} as {alias}"
        return self.statement(importer, module, alias)


def mend(text: str, module: str, layout: Layout) -> str:
    """The code of `module` with imports as `layout` says.

    Raises:
        InputError: The code is no Python, or imports something in another way.
    """

    def by_module(found: re.Match[str]) -> str:
        return layout.statement(
            module, ".".join(filter(None, (found["package"], found["name"]))), found["alias"]
        )

    def by_names(found: re.Match[str]) -> str:
        return layout.from_module(module, found["module"], found["names"])

    text = text.replace("\nimport importlib\n", "\n")
    text = _BY_CALL.sub(lambda found: layout.statement(module, found["module"], found["alias"]), text)
    text = _OWN_NAME.sub("__name__", _NAMES.sub(by_names, _MODULE.sub(by_module, text)))
    check_code(text, module, layout)
    return text


def head_of_types(imports: str, *, overrides: bool = False) -> str:
    """The first lines of a `.pyi`.

    Args:
        imports: Its imports.
        overrides: Whether a class of it gives a name of its base another meaning, as
            messages do with fields.
    """
    codes = ["assignment"] if overrides else []
    # googleapis-common-protos has types, but lacks the py.typed that says so.
    codes += ["import-untyped"] if _UNTYPED.search(imports) else []
    disabled = f'# mypy: disable-error-code="{",".join(codes)}"\n' if codes else ""
    return f"# Made by `pymicro gen`. DO NOT EDIT!\n{disabled}"


def check_code(text: str, module: str, layout: Layout) -> None:
    """Compile the code of `module`, and check that no import was missed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(text, module, "exec", dont_inherit=True)
    except SyntaxError as exc:
        line = (exc.text or "").strip()
        raise InputError(
            f"{module} as grpcio-tools makes it is no Python: line {exc.lineno}: {line}"
        ) from exc
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        else:
            continue
        for name in layout.local.intersection(named):
            if layout.package_from(module, name.rpartition(".")[0], name).startswith("."):
                raise InputError(
                    f"this grpcio-tools imports {name} into {module} in a way that gen does not know: "
                    f"{ast.unparse(node)}"
                )
