"""The files of a new project. `{{name}}` and its like are filled in by `pymicro new`."""

from __future__ import annotations

from typing import Final

__all__ = ["CODE", "TOOLS"]

_PROTO = """\
syntax = "proto3";

package {{package}}.v1;

// {{Class}} is what this project serves. Change it, and `make test` again.
service {{Class}} {
  // Hello greets one person.
  rpc Hello(HelloRequest) returns (HelloReply);

  // Count counts from one up to a number, one message each.
  rpc Count(CountRequest) returns (stream CountReply);
}

message HelloRequest {
  // Who is greeted; must not be empty.
  string name = 1;
}

message HelloReply {
  string message = 1;
}

message CountRequest {
  int32 to = 1;
}

message CountReply {
  int32 number = 1;
}
"""

_INIT = '''\
"""The service {{name}} and its client."""
'''

_SERVER = '''\
"""The service: `pymicro run {{package}}.server`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import version

import pymicro

from {{package}}.v1 import {{package}}_pb2 as pb


class {{Class}}:
    @pymicro.handler
    async def hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        if not request.name:
            raise pymicro.InvalidArgument("name is empty")
        return pb.HelloReply(message=f"Hello {request.name}")

    @pymicro.handler
    async def count(
        self, request: pb.CountRequest, context: pymicro.CallContext
    ) -> AsyncIterator[pb.CountReply]:
        for number in range(1, request.to + 1):
            if context.draining:  # the service is stopping: a long stream ends
                raise pymicro.Unavailable(f"stopping; {number} and above were not counted")
            yield pb.CountReply(number=number)


service = pymicro.Service("{{name}}", version=version("{{name}}"))
service.add({{Class}}(), pb)

if __name__ == "__main__":
    service.init()
    service.run()
'''

_CLIENT = '''\
"""A client, which knows the service's name only: `python -m {{package}}.client Ada`."""

from __future__ import annotations

import asyncio
import sys

import pymicro

from {{package}}.v1 import {{package}}_pb2 as pb
from {{package}}.v1 import {{package}}_pb2_grpc as rpc


async def main(name: str) -> int:
    async with pymicro.Client() as client:
        stub = rpc.{{Class}}Stub(client.channel("{{name}}"))
        try:
            reply = await stub.Hello(pb.HelloRequest(name=name), timeout=2)
            print(reply.message)
            async for counted in stub.Count(pb.CountRequest(to=3)):
                print(counted.number)
        except pymicro.RpcError as exc:
            print(exc, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:2] or ["Ada"])))
'''

_TEST = '''\
"""The service, called as its clients call it: over a socket, found by its name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pymicro
import pytest
from pymicro.testing import running

from {{package}}.server import service
from {{package}}.v1 import {{package}}_pb2 as pb
from {{package}}.v1 import {{package}}_pb2_grpc as rpc


@pytest.fixture
async def stub() -> AsyncIterator[rpc.{{Class}}Stub]:
    async with running(service) as services:
        yield rpc.{{Class}}Stub(services.channel(service))


async def test_hello(stub: rpc.{{Class}}Stub) -> None:
    assert (await stub.Hello(pb.HelloRequest(name="Ada"))).message == "Hello Ada"


async def test_nobody_is_not_greeted(stub: rpc.{{Class}}Stub) -> None:
    with pytest.raises(pymicro.InvalidArgument, match="name is empty"):
        await stub.Hello(pb.HelloRequest())


async def test_count(stub: rpc.{{Class}}Stub) -> None:
    assert [reply.number async for reply in stub.Count(pb.CountRequest(to=3))] == [1, 2, 3]
'''

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "{{name}}"
version = "0.1.0"
description = "A gRPC service"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["pymicro-grpc>={{version}}"]

[dependency-groups]
# What makes code of the protos; the image is built with it and does not keep it.
gen = ["pymicro-grpc[tools]"]
dev = [
    { include-group = "gen" },
    "mypy",
    "pytest",
    "pytest-asyncio",
    "ruff",
    "types-grpcio",
    "types-protobuf",
]

[tool.hatch.build.targets.wheel]
packages = ["{{package}}"]
artifacts = ["*_pb2*.py", "*_pb2*.pyi"] # which git ignores

[tool.ruff]
line-length = 110
extend-exclude = ["{{package}}/v1"]

[tool.ruff.lint]
select = ["E", "F", "W", "I", "UP", "B", "ASYNC"]

[tool.ruff.lint.isort]
known-first-party = ["{{package}}"] # also before there is any code of protos

[tool.mypy]
strict = true
files = ["{{package}}", "tests"]

[tool.pytest.ini_options]
testpaths = ["tests"]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""

_MAKEFILE = """\
# `make` lists what there is. Another Python: make test PYTHON=python3.13
PYTHON ?= python3
VENV ?= .venv
# Where no package index has pymicro: its wheel, or a folder or URL with its sources.
PYMICRO ?=
IMAGE ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup gen run client test lint types check format manifest clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## a virtual environment with all that is needed

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \\
		{ echo "$(PYTHON) is not Python 3.11 or newer: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev --editable . $(PYMICRO)
	@touch $@

gen: $(INSTALLED) ## Python code of the protos
	@$(BIN)/pymicro gen -I protos protos

run: gen ## the service, until Ctrl-C; anew after each change of its code
	$(BIN)/pymicro run --reload {{package}}.server

client: gen ## a client of the service that runs
	$(BIN)/python -m {{package}}.client

test: gen ## the tests
	$(BIN)/python -m pytest

lint: gen ## ruff and its formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: gen ## mypy, strict
	$(BIN)/mypy

check: lint types test ## what CI runs

format: $(INSTALLED) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

manifest: gen ## deploy/{{name}}.yaml for Kubernetes (IMAGE=)
	@mkdir -p deploy
	$(BIN)/pymicro manifest {{package}}.server $(if $(IMAGE),--image $(IMAGE)) > deploy/{{name}}.yaml

clean: ## remove everything that was made here
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
	find {{package}} tests \\( -name '*_pb2*.py' -o -name '*_pb2*.pyi' \\) -exec rm -f {} +
	find {{package}} tests -name __pycache__ -type d -prune -exec rm -rf {} +
"""

_README = """\
# {{name}}

A gRPC service with pymicro.

```console
$ make test                   # makes .venv, installs everything, generates code, runs the tests
$ make run                    # the service; anew after each change of its code
$ make client                 # a client; in another terminal
$ make                        # what else there is
```

| | |
|---|---|
| `protos/{{package}}/v1/{{package}}.proto` | what it serves |
| `{{package}}/server.py` | the service |
| `{{package}}/client.py` | a client |
| `tests/test_{{package}}.py` | its tests, which call it |
| `{{package}}/v1/` | code of the proto, made by `make gen`, not committed |

After a change of the proto, `make gen` is enough for a service that runs.
`.venv/bin/pymicro nodes {{name}}` shows where it does, and

```console
$ .venv/bin/pymicro call {{name}} {{Class}}.Hello '{"name": "Ada"}'
```

calls it. On Kubernetes:

```console
$ docker build -t {{name}}:0.1.0 .
$ make manifest IMAGE={{name}}:0.1.0
$ kubectl apply -f deploy/{{name}}.yaml
```
"""

_DOCKERFILE = """\
#   docker build -t {{name}}:0.1.0 .
#   docker run --rm {{name}}:0.1.0
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
# Where no package index has pymicro: its wheel, as a path in this folder or a URL.
ARG PYMICRO=
WORKDIR /src
COPY . .
RUN python -m pip install --no-cache-dir "pip>=25.1"
# What is installed with the generator fixes the versions for the image:
# generated code refuses an older runtime.
RUN python -m pip install --no-cache-dir --group gen --editable . ${PYMICRO} \\
    && python -m pymicro gen -I protos protos \\
    && python -m pip freeze --exclude-editable --exclude pymicro-grpc > /constraints.txt
RUN python -m venv --without-pip /venv \\
    && python -m pip --python /venv/bin/python install --no-cache-dir \\
        --constraint /constraints.txt . ${PYMICRO}

FROM python:${PYTHON}-slim
COPY --from=build /venv /venv
# Log lines must come out when they are written; the file system may be read-only.
ENV PATH=/venv/bin:$PATH \\
    PYTHONUNBUFFERED=1 \\
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# A number, so that runAsNonRoot can be checked; nobody owns a file here.
USER 65532:65532
EXPOSE 8080
CMD ["python", "-m", "pymicro", "run", "{{package}}.server"]
"""

_DOCKERIGNORE = """\
.git
.venv
**/__pycache__
**/*_pb2*.py
**/*_pb2*.pyi
.*_cache
deploy
dist
"""

_GITIGNORE = """\
.venv/
__pycache__/
.*_cache/
dist/
*_pb2.py
*_pb2.pyi
*_pb2_grpc.py
*_pb2_grpc.pyi
"""

_CI = """\
name: check
on: [push, pull_request]
permissions:
  contents: read
jobs:
  check:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.13"
      - run: make check
"""

# By path, in the order in which `new` shows those of the code.
CODE: Final = {
    "protos/{{package}}/v1/{{package}}.proto": _PROTO,
    "{{package}}/server.py": _SERVER,
    "{{package}}/client.py": _CLIENT,
    "tests/test_{{package}}.py": _TEST,
}
TOOLS: Final = {
    "{{package}}/__init__.py": _INIT,
    ".dockerignore": _DOCKERIGNORE,
    ".github/workflows/check.yml": _CI,
    ".gitignore": _GITIGNORE,
    "Dockerfile": _DOCKERFILE,
    "Makefile": _MAKEFILE,
    "README.md": _README,
    "pyproject.toml": _PYPROJECT,
}
