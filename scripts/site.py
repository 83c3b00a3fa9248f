"""The documentation as a site: the same pages, and a reference made from the code's docstrings.

`python -m scripts.site FOLDER` (`make docs`) writes it to FOLDER/html. A link or an anchor that leads
nowhere is an error. What a page links to that is no page, a manifest or a program say, becomes one that
shows it, so that the site needs nothing beside it.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from scripts.public_names import MODULES, PRIVATE

ROOT = Path(__file__).resolve().parent.parent
# Pages that do not lie in docs/, by where they are on the site.
OTHERS = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "deploy.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/simulate/README.md": "simulate.md",
}
# A row of README's table of pages: it has their order.
ROW = re.compile(r"^\| \[([^\]]+)\]\((docs/[\w./-]+\.md)\) \|", re.MULTILINE)
FENCE = re.compile(r"^ *(```+|~~~+)")
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
# A picture in HTML, as GitHub wants it for two colour schemes.
SOURCE = re.compile(r'(\bsrc(?:set)?=")([^"\s]+)(")')
EXTENSIONS = ("attr_list", "md_in_html", "tables", "pymdownx.highlight", "pymdownx.superfences")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
PICTURES = (".png", ".svg")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".proto": "proto"}

OPTIONS = {
    "docstring_style": "google",
    "heading_level": 2,
    "merge_init_into_class": True,
    "separate_signature": True,
    "show_bases": False,
    "show_root_heading": True,
    "show_root_toc_entry": True,
    "show_signature_annotations": True,
    "show_source": False,
    "show_symbol_type_heading": True,
    "show_symbol_type_toc": True,
}


class DeadLink(Exception):
    """A link of a page leads nowhere."""


class Site:
    """Pages on their way to a folder.

    Args:
        root: The checkout.
        pages: Where the Markdown goes that the site is made of.
    """

    def __init__(self, root: Path, pages: Path) -> None:
        self._root = root
        self._pages = pages
        self._there = {f"docs/{path.relative_to(root / 'docs')}" for path in (root / "docs").rglob("*.md")}
        self.places = {
            **{name: place for name, place in OTHERS.items() if (root / name).exists()},
            **{name: name.removeprefix("docs/") for name in sorted(self._there)},
        }
        self._shown: dict[str, str] = {}  # files and folders that are no pages, by where they are shown

    def write(self) -> None:
        """Write all pages, and what they show.

        Raises:
            DeadLink: As the name says.
        """
        for name, place in self.places.items():
            self._put(place, self._linked(name, place, (self._root / name).read_text()))
        for name, place in self._shown.items():
            self._put(place, "".join(self._showing(name)))

    def _put(self, place: str, text: str) -> None:
        path = self._pages / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _linked(self, name: str, place: str, text: str) -> str:
        """The page with its links as they are on the site."""
        lines, fence = [], ""
        for line in text.splitlines(keepends=True):
            found = FENCE.match(line)
            if found is not None and (not fence or line.strip() == fence):
                fence = "" if fence else found[1]
            elif not fence:
                line = LINK.sub(lambda link: link[1] + self._target(name, place, link[2]) + link[3], line)
                line = SOURCE.sub(lambda link: link[1] + self._picture(name, place, link[2]) + link[3], line)
            lines.append(line)
        return "".join(lines)

    def _target(self, name: str, place: str, target: str) -> str:
        """Where a link of the page `name` leads on the site."""
        if re.match(r"[a-z]+:|#", target):
            return target
        path, hash_, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        if wanted.startswith("../") or not (self._root / wanted).exists():
            raise DeadLink(f"{name}: there is no {target}")
        if wanted.endswith(PICTURES):
            there = posixpath.join("pictures", posixpath.basename(wanted))
            (self._pages / "pictures").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._root / wanted, self._pages / there)
        elif wanted in self.places:
            there = self.places[wanted]
        else:
            there = self._shown.setdefault(wanted, f"files/{wanted}.md")
        return posixpath.relpath(there, posixpath.dirname(place) or ".") + hash_ + anchor

    def _picture(self, name: str, place: str, target: str) -> str:
        """Where a picture in HTML is for a browser: each page but the first is a folder there."""
        there = self._target(name, place, target)
        return there if re.match(r"[a-z]+:", there) or place == "index.md" else f"../{there}"

    def _showing(self, name: str) -> Iterator[str]:
        """A page that shows a file, or all files of a folder."""
        path = self._root / name
        yield f"# {name}\n"
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            text = file.read_text().rstrip("\n")
            if path.is_dir():
                yield f"\n## {file.relative_to(path)}\n"
            longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
            fence = "`" * (longest + 1)
            yield f"\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text}\n{fence}\n"


def reference(module: ModuleType) -> str:
    """The page of a public module: what is promised of it, with signatures."""
    about = inspect.getdoc(module) or ""
    parts = [f"# {module.__name__}\n\n{about}\n"]
    parts += [_entry(module, name) for name in module.__all__ if not name.startswith("__")]
    return "\n".join(parts)


def _entry(module: ModuleType, name: str) -> str:
    found = getattr(module, name)
    options: dict[str, Any] = {"heading": name}
    home = module.__name__
    if inspect.isclass(found) or inspect.isfunction(found):
        home = found.__module__
    if inspect.isclass(found):
        options["members"] = [
            each
            for each in _members(found)
            if not each.startswith("_") and f"{module.__name__}.{name}.{each}" not in PRIVATE
        ]
        options["filters"] = []
        if "__init__" not in found.__dict__ and not hasattr(found, "__dataclass_fields__"):
            options["show_signature"] = False  # its base has it
    lines = "".join(f"      {key}: {json.dumps(value)}\n" for key, value in options.items())
    return f"::: {home}.{name}\n    options:\n{lines}"


def _members(found: type) -> Iterable[str]:
    """The names of a class of pymicro's, in the order of its source; what bases have of others is theirs."""
    names: dict[str, None] = {}
    for base in found.__mro__:
        if base.__module__.partition(".")[0] == "pymicro":
            names |= dict.fromkeys((*base.__dict__, *inspect.get_annotations(base)))
    return names


def _navigation(readme: str) -> list[dict[str, Any]]:
    pages: list[dict[str, Any]] = [
        {title.replace("`", ""): name.removeprefix("docs/")} for title, name in ROW.findall(readme)
    ]
    modules = [{name: f"reference/{name}.md"} for name in MODULES]
    house = [{"Architecture": "architecture.md"}, {"Benchmarks": "benchmarks.md"}]
    house += [{"Contributing": "contributing.md"}, {"Changes": "changelog.md"}]
    return [{"pymicro": "index.md"}, *pages, {"Reference": modules}, {"The project": house}]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def settings(readme: str) -> str:
    """The site's `zensical.toml`."""
    lines = [
        "[project]",
        'site_name = "pymicro"',
        'site_description = "gRPC services in Python that find each other"',
        'docs_dir = "pages"',
        'site_dir = "html"',
        f"nav = {_toml(_navigation(readme))}",
        "[project.validation]",
        "invalid_links = true",
        "invalid_link_anchors = true",
        "[project.theme]",
        # Nothing is fetched from elsewhere by whoever reads it.
        "font = false",
        f"features = {_toml(['content.code.copy', 'navigation.footer', 'navigation.top', 'toc.follow'])}",
        "[[project.theme.palette]]",
        'media = "(prefers-color-scheme: light)"',
        'scheme = "default"',
        'toggle = {icon = "lucide/sun", name = "Dark"}',
        "[[project.theme.palette]]",
        'media = "(prefers-color-scheme: dark)"',
        'scheme = "slate"',
        'toggle = {icon = "lucide/moon", name = "Light"}',
        *(f"[project.markdown_extensions.{name}]" for name in EXTENSIONS),
        "[project.markdown_extensions.toc]",
        "permalink = true",
        # Anchors are those that a page has on GitHub.
        'slugify = {object = "pymdownx.slugs.slugify", kwds = {case = "lower"}}',
        "[project.plugins.mkdocstrings.handlers.python]",
        f"paths = {_toml([str(ROOT)])}",
        "[project.plugins.mkdocstrings.handlers.python.options]",
        *(f"{key} = {_toml(value)}" for key, value in OPTIONS.items()),
    ]
    return "\n".join(lines) + "\n"


def main(folder: Path) -> int:
    """Write the site; returns an exit status."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    site = Site(ROOT, pages)
    try:
        site.write()
    except DeadLink as exc:
        print(exc, file=sys.stderr)
        return 1
    (pages / "reference").mkdir()
    for name in MODULES:
        (pages / "reference" / f"{name}.md").write_text(reference(import_module(name)))
    (folder / "zensical.toml").write_text(settings((ROOT / "README.md").read_text()))
    built = subprocess.run(
        ["zensical", "build", "--strict", "--clean"],
        cwd=folder,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(COLOURS.sub("", built.stdout).partition("Traceback")[0].rstrip())
    if built.returncode == 0:
        print(f"the site: {folder / 'html' / 'index.html'}")
    return built.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
