"""The Dockerfile, whose steps are done here one by one in a folder: no container engine is needed."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import venv
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from tests.processes import ROOT, Processes, clean_environment

# An image is made of one Python, and takes most of a minute to make.
pytestmark = pytest.mark.once

Step = tuple[str, str]


def steps(text: str) -> list[Step]:
    """Instruction and arguments of each step, comments and continuations resolved."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps this path, relative to the checkout, out: the last match decides."""
    out = False
    ancestors = [path, *(str(parent) for parent in PurePosixPath(path).parents)][:-1]
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        # `*` is one name; `**/` any folders or none.
        depth = None if wanted.startswith("**/") else wanted.count("/")
        name = wanted.removeprefix("**/")
        for candidate in ancestors:
            subject = candidate.rpartition("/")[2] if depth is None else candidate
            if (depth is None or candidate.count("/") == depth) and fnmatch.fnmatchcase(subject, name):
                out = not pattern.startswith("!")
    return out


@dataclass
class Image:
    """What the Dockerfile makes, below `root` instead of /."""

    root: Path
    env: dict[str, str]
    cwd: Path
    stages: int = 0
    user: str = ""
    command: list[str] = field(default_factory=list)
    copied: set[str] = field(default_factory=set)
    shipped: set[str] = field(default_factory=set)

    def place(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.cwd / path

    def here(self, text: str) -> str:
        """`text` with absolute paths of the image as they are below `root`."""
        return re.sub(r"(?<![\w./-])/(?=(src|dist|venv|app)\b)", f"{self.root}/", text)

    def do(self, word: str, rest: str) -> None:
        getattr(self, word.lower())(rest)

    def arg(self, rest: str) -> None:
        assert rest.startswith("PYTHON=3.")

    def from_(self, rest: str) -> None:
        assert re.fullmatch(r"python:\$\{PYTHON\}-slim( AS build)?", rest)
        self.stages += 1

    def workdir(self, rest: str) -> None:
        self.cwd = self.place(rest)
        self.cwd.mkdir(parents=True, exist_ok=True)

    def copy(self, rest: str) -> None:
        if rest.startswith("--from=build "):
            source, target = rest.split()[1:]
            assert source == target
            assert self.place(source).is_dir()
            self.shipped.add(source)
            return
        *sources, target = rest.split()
        patterns = (ROOT / ".dockerignore").read_text().splitlines()
        patterns = [line for line in patterns if line and not line.startswith("#")]
        for source in sources:
            files = [path for path in [ROOT / source, *(ROOT / source).rglob("*")] if path.is_file()]
            kept = {
                str(path.relative_to(ROOT))
                for path in files
                if not ignored(str(path.relative_to(ROOT)), patterns)
            }
            assert kept, f"COPY {source}: nothing is left of it"
            self.copied |= kept
            for name in kept:
                inside = Path(name).relative_to(source)
                goal = self.place(target) / (name if inside == Path() else inside)
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, goal)

    def run(self, rest: str) -> None:
        done = subprocess.run(
            ["sh", "-ec", self.here(rest)],
            cwd=self.cwd,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"

    def set_env(self, rest: str) -> None:
        for pair in rest.split():
            name, _, value = pair.partition("=")
            self.env[name] = self.here(value).replace("$PATH", self.env["PATH"])

    def set_user(self, rest: str) -> None:
        self.user = rest

    def expose(self, rest: str) -> None:
        assert rest == "8080"

    def cmd(self, rest: str) -> None:
        self.command = json.loads(rest)


METHODS = {"FROM": "from_", "ENV": "set_env", "USER": "set_user"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image's folders, made by the steps of the Dockerfile."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder / "python", with_pip=True)  # the Python of the base image
    env = clean_environment(PATH=f"{folder}/python/bin{os.pathsep}{os.environ['PATH']}")
    made = Image(folder / "root", env, folder / "root")
    for word, rest in steps((ROOT / "Dockerfile").read_text()):
        made.do(METHODS.get(word, word), rest)
    return made


def test_a_greeter_runs_in_the_image_and_its_client_finds_it(image: Image, processes: Processes) -> None:
    # As `docker run -p 8080:8080` reaches it; here it must not listen where others of this machine do.
    assert image.env["MICRO_SERVER_ADDRESS"] == "0.0.0.0:8080"
    processes.environment = {
        **image.env,
        "MICRO_SERVER_ADDRESS": "127.0.0.1:0",
        "MICRO_REGISTRY_ADDRESS": processes.environment["MICRO_REGISTRY_ADDRESS"],
    }
    app = image.place("/app")
    assert image.cwd == app
    python = str(image.place("/venv/bin/python"))
    server = processes.start(python, *image.command[1:], cwd=app)
    address = server.wait_for(r"greeter.*?(127\.0\.0\.1:\d+)")[1]
    client = processes.start(python, "client.py", "Ada", cwd=app)
    assert client.wait() == 0, client.report()
    assert client.stdout[0] == f"Hello Ada  ({address}, pid {server.pid})"
    assert server.stop() == 0, server.report()


def test_the_image_has_what_runs_and_not_what_made_it(image: Image) -> None:
    python = image.place("/venv/bin/python")
    listing = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"],
        cwd=image.cwd,
        env=image.env,
        capture_output=True,
        text=True,
        check=True,
    )
    installed = {name.lower().replace("_", "-") for name in listing.stdout.split()}
    assert {"pymicro-grpc", "grpcio", "uvloop"} <= installed
    assert not {"pip", "setuptools", "grpcio-tools"} & installed
    assert image.shipped == {"/venv", "/app"}
    assert image.stages == 2


def test_it_is_started_as_a_numbered_user_without_a_shell(image: Image) -> None:
    uid, _, gid = image.user.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert image.command == ["python", "-m", "pymicro", "run", "server.py"]


def test_only_what_the_image_needs_reaches_the_build(image: Image) -> None:
    assert {"pyproject.toml", "README.md", "LICENSE", "pymicro/__init__.py"} <= image.copied
    assert {"examples/greeter/server.py", "examples/greeter/client.py"} <= image.copied
    tops = {name.partition("/")[0] for name in image.copied}
    assert tops == {"pyproject.toml", "README.md", "LICENSE", "pymicro", "protos", "examples"}
    assert not [name for name in image.copied if "_pb2" in name or "__pycache__" in name]
