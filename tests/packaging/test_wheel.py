"""What users install: the wheel has all that it needs and nothing else."""

from __future__ import annotations

import configparser
import subprocess
import zipfile
from pathlib import Path

from tests.processes import ROOT, clean_environment

IMPORT_EVERYTHING = """
import importlib, pathlib, pkgutil, sys
import pymicro

assert sys.prefix in pymicro.__file__, pymicro.__file__  # not the checkout's
for module in pkgutil.walk_packages(pymicro.__path__, "pymicro."):
    if module.name == "pymicro.__main__":
        continue  # would run the command
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as exc:
        # The contract suites are for those who have pytest, a transport for those who have its package,
        # and spans that are passed on for those who have OpenTelemetry's API.
        packages = {"pytest": "pymicro.testing", "pymicro_fast": "fast", "opentelemetry": "passed_on"}
        package = packages.get(exc.name, "nobody's")
        assert package in (module.name.rpartition(".")[0], *module.name.split(".")), exc
    print(module.name)
for name in pymicro.__all__:
    getattr(pymicro, name)
"""


# What `pymicro manifest` prints and `pymicro new` writes.
DATA = {
    f"pymicro/cli/data/{name}"
    for name in (
        "manifests/account-calls.yaml.template",
        "manifests/account.yaml.template",
        "manifests/certificate.yaml.template",
        "manifests/deployment.yaml.template",
        "manifests/disruption-budget.yaml.template",
        "manifests/network-policy.yaml.template",
        "manifests/rbac/discovery.yaml",
        "manifests/rbac/kustomization.yaml",
        "manifests/rbac-self-register/admission-policy-unmarked.yaml",
        "manifests/rbac-self-register/admission-policy.yaml",
        "manifests/rbac-self-register/kustomization.yaml",
        "manifests/rbac-self-register/role.yaml",
        "manifests/self-register-account.yaml.template",
        "project/.dockerignore.template",
        "project/.github/workflows/check.yml.template",
        "project/.gitignore.template",
        "project/Dockerfile.template",
        "project/Makefile.template",
        "project/README.md.template",
        "project/protos/{{package}}/v1/{{package}}.proto.template",
        "project/pyproject.toml.template",
        "project/tests/test_{{package}}.py.template",
        "project/{{package}}/__init__.py.template",
        "project/{{package}}/client.py.template",
        "project/{{package}}/server.py.template",
    )
}


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_every_module_and_nothing_but_the_package(wheel: Path) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pymicro").rglob("*.py")}
    names = names_in(wheel)
    assert modules <= names
    info = {name for name in names if name.startswith("pymicro_grpc-") and ".dist-info/" in name}
    assert names - modules - info == {"pymicro/py.typed", *DATA}
    with zipfile.ZipFile(wheel) as archive:
        for name in DATA:
            assert archive.read(name) == (ROOT / name).read_bytes(), name


def test_the_wheel_carries_licence_readme_and_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert archive.read(f"{info}/licenses/LICENSE").decode() == (ROOT / "LICENSE").read_text()
        assert (ROOT / "README.md").read_text() in archive.read(f"{info}/METADATA").decode()
        points = configparser.ConfigParser()
        points.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert points["console_scripts"]["pymicro"] == "pymicro.cli:main"
    assert {"etcd", "local", "mdns", "memory", "static"} <= set(points["pymicro.registries"])
    assert {"registry", "static", "dns"} <= set(points["pymicro.selectors"])
    assert {"p2c", "round_robin", "random"} <= set(points["pymicro.balancers"])


def test_every_module_of_the_installed_wheel_can_be_imported(wheel_python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [wheel_python, "-c", IMPORT_EVERYTHING],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pymicro.service" in done.stdout.split()


def test_the_console_script_and_the_module_are_the_same(wheel_python: Path, tmp_path: Path) -> None:
    outputs = [
        subprocess.run(
            argv, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
        )
        for argv in (
            [wheel_python.with_name("pymicro"), "config"],
            [wheel_python, "-m", "pymicro", "config"],
        )
    ]
    assert outputs[0].returncode == outputs[1].returncode == 0, outputs
    assert outputs[0].stdout == outputs[1].stdout
    assert "registry" in outputs[0].stdout
