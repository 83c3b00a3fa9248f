"""Settings from `pymicro.toml`: which file is read, what is in it, and what is said of a bad one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pymicro import Client, ConfigError, Service
from pymicro.settings.config import Config, load, unknown_environment
from pymicro.settings.file import FILE_NAME, read_file
from tests.processes import clean_environment

TEXT = """\
# What this folder's programs have in common.
[settings]
log_level = "debug"
registry_address = [
  "/run/a",  # ]
]
server_metadata = { team = "shop" }
stop_grace = 1.5
metrics = false

[services.greeter]
run = "server.py"
settings.stop_grace = "5s"

[services.till.settings]
drain_delay = 0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("MICRO_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str = TEXT, name: str = FILE_NAME) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_the_file_of_the_working_folder_stands_between_environment_and_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder)
    monkeypatch.setenv("MICRO_STOP_GRACE", "7s")
    config = load({"log_level": "error", "stop_grace": 9.0, "balancer": "random"}, ["--metrics=on"])
    assert (config.log_level, config.stop_grace, config.metrics, config.balancer) == (
        "debug",
        7,
        "on",
        "random",
    )
    assert config.registry_address == ("/run/a",)
    assert config.server_metadata == {"team": "shop"}
    assert config.source("log_level") == "pymicro.toml:3"
    assert config.source("registry_address") == "pymicro.toml:4"
    assert config.source("server_metadata") == "pymicro.toml:7"
    assert (config.config, config.source("config")) == (str(path), "working folder")
    assert load({}, []).metrics == "off"


def test_a_service_has_settings_of_its_own_by_the_name_in_its_code(folder: Path) -> None:
    write(folder)
    assert Service("greeter").config_for().stop_grace == 5
    assert Service("greeter").config_for().source("stop_grace") == "pymicro.toml:13"
    assert Service("till").config_for().drain_delay == 0
    assert Service("till").config_for().stop_grace == 1.5
    assert Client().config.stop_grace == 1.5


def test_the_name_in_the_environment_goes_before_that_in_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder)
    monkeypatch.setenv("MICRO_CONFIG_SERVICE", "till")
    assert Service("greeter").config_for().drain_delay == 0
    assert unknown_environment() == []
    monkeypatch.setenv("MICRO_CONFIG_SERVICE", "nobody")
    assert load({}, []).stop_grace == 1.5


def test_another_file_is_named_by_flag_environment_or_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder)
    for name in ("flag", "environment", "code"):
        write(folder, f'[settings]\nzone = "{name}"\n', f"{name}.toml")
    assert load({"config": "code.toml"}, []).zone == "code"
    monkeypatch.setenv("MICRO_CONFIG", "environment.toml")
    assert load({"config": "code.toml"}, []).zone == "environment"
    config = load({"config": "code.toml"}, ["--config", str(folder / "flag.toml")])
    assert (config.zone, config.log_level, config.source("config")) == ("flag", "info", "flag --config")
    assert load({}, ["--config=off"]).zone == ""
    assert load({}, [], {"MICRO_CONFIG": "environment.toml"}).zone == "environment"


def test_an_environment_that_is_given_has_no_working_folder(folder: Path) -> None:
    write(folder)
    assert load({}, [], {}) == Config()


def test_no_folder_above_is_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder)
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert load({}, []) == Config()


@pytest.mark.parametrize("doubt", ["everybody may write it", "it belongs to another user"])
def test_a_file_that_others_could_have_written_is_passed_over_unless_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, doubt: str
) -> None:
    path = write(folder)
    if doubt.startswith("everybody"):
        path.chmod(0o666)
    elif os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    config = load({}, [])
    assert config == Config()
    (remark,) = config.remarks
    assert f"pymicro.toml is not read, because {doubt}" in remark
    assert "MICRO_CONFIG=pymicro.toml" in remark
    monkeypatch.setenv("MICRO_CONFIG", "pymicro.toml")
    assert load({}, []).log_level == "debug"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_link_that_somebody_else_made_is_not_followed(folder: Path) -> None:
    write(folder, name="mine.toml")
    (folder / FILE_NAME).symlink_to("mine.toml")
    assert load({}, []).log_level == "debug"
    os.chown(folder / FILE_NAME, 12345, -1, follow_symlinks=False)
    assert load({}, []).remarks != ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_whatever_somebody_else_puts_there_is_no_error(folder: Path) -> None:
    path = folder / FILE_NAME
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("nowhere"), path.touch):
        make()
        os.chown(path, 12345, -1, follow_symlinks=False)
        assert load({}, []).remarks != ()
        path.rmdir() if path.is_dir() else path.unlink()


BAD = {
    "a misspelt setting": ('[settings]\nregisty = "x"', "f.toml:2: there is no setting 'registy'; did"),
    "its own service's": ("[services.a.settings]\n\nx = 1", "f.toml:3: there is no setting 'x'"),
    "a setting outside": ('registry = "x"', "f.toml:1: 'registry' means nothing here: settings stand below"),
    "a misspelt table": ("\n[setings]", "f.toml:2: 'setings' means nothing here; did you mean 'settings'?"),
    "no table": ("settings = 1", "f.toml:1: 'settings' is no table"),
    "services no table": ("services = [1]", "f.toml:1: 'services' is no table"),
    "a service no table": ("[services]\na = 1", "f.toml:2: 'a' is no table"),
    "a wrong value": ("[settings]\nstop_grace = 'soon'", "f.toml:2: stop_grace: 'soon' is no duration"),
    "a wrong type": ("[settings]\nregistry_address = 5", "f.toml:2: registry_address: 5 is no list of texts"),
    "a date": ("[settings]\nregister_ttl = 1979-05-27", "f.toml:2: register_ttl: datetime.date(1979, 5, 27)"),
    "ages": ("[settings]\nstop_grace = 1e10", "f.toml:2: stop_grace: '10000000000.0' is no duration that"),
    "a truth": ("[settings]\nregistry = true", "f.toml:2: registry: True is no text"),
    "another file": ("[settings]\nconfig = 'x'", "f.toml:2: a file with settings cannot name another one"),
    "no value": ("[settings]\na = \n", "f.toml:2: this is no TOML: Invalid value (column 5)"),
    "a table twice": ("[settings]\n[settings]\n", "f.toml:2: this is no TOML: "),
    "an open text": ("[settings]\na = '''\n\n", "f.toml:2: this is no TOML: "),
    "a long number": (f"[settings]\nregister_ttl = {'9' * 5000}", "f.toml: this is no TOML: "),
    "too deep": (f"a = {'[' * 9000}", "f.toml: its values lie too deep in one another"),
    "too large": ("#" * (1 << 20) + "#", "f.toml is larger than 1 MiB"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_with_its_line(folder: Path, text: str, message: str) -> None:
    write(folder, text, "f.toml")
    with pytest.raises(ConfigError) as caught:
        load({"server_name": "a"}, ["--config=f.toml"])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


def test_what_is_no_utf_8_is_named_with_its_line(folder: Path) -> None:
    (folder / "f.toml").write_bytes(b"[settings]\n\nzone = '\xff'\n")
    with pytest.raises(ConfigError, match=r"--config: f\.toml:3: this is no UTF-8"):
        load({}, ["--config=f.toml"])


def test_a_mark_of_utf_8_at_the_beginning_is_passed_over(folder: Path) -> None:
    (folder / "f.toml").write_bytes(b"\xef\xbb\xbf[settings]\r\nzone = 'b'\r\n")
    config = load({}, ["--config=f.toml"])
    assert (config.zone, config.source("zone")) == ("b", "f.toml:2")


@pytest.mark.parametrize("value", ["123456", "['123456']", "{ it = 123456 }", "123456.0", "1234-12-12"])
def test_a_password_that_is_no_text_is_not_shown(folder: Path, value: str) -> None:
    (folder / "f.toml").write_text(f"[settings]\nregistry_password = {value}\n")
    with pytest.raises(
        ConfigError, match=r"^f\.toml:2: registry_password: it is no text, but of type "
    ) as caught:
        load({}, ["--config=f.toml"])
    assert "1234" not in str(caught.value)


def test_what_is_no_file_is_neither_waited_for_nor_read(folder: Path) -> None:
    os.mkfifo(folder / FILE_NAME)
    with pytest.raises(ConfigError, match=r"pymicro\.toml is no file"):
        load({}, [])
    with pytest.raises(ConfigError, match="--config: there is no file nowhere"):
        load({}, ["--config=nowhere"])
    with pytest.raises(ConfigError, match=r"MICRO_CONFIG: \S+ is no file"):
        load({}, [], {"MICRO_CONFIG": str(folder)})
    (folder / FILE_NAME).unlink()
    (folder / FILE_NAME).symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"there is no file pymicro\.toml"):
        load({}, [])


def test_lines_are_known_whatever_stands_between(folder: Path) -> None:
    text = (
        'a."b c" = 1\n# [x]\n"d" = """\n[no]\ne = 2\n"""\r\n[[f]]\ng = [\n  1,\n]\n'
        "h = { i = 1 }\n[ j . k ]\nl = '#'\n"
    )
    path = write(folder, text.replace("a.", "settings.").replace('"d"', "services.d"), "f.toml")
    with pytest.raises(ConfigError, match=r"f\.toml:7: 'f' means nothing here"):
        read_file(path)
    lines = read_file(
        write(folder, text.split("[[f]]")[0].replace("a.", "settings.").replace('"d"', "services.d"))
    ).lines
    assert lines[("settings", "b c")] == 1
    assert lines[("services", "d")] == 3
    assert ("e",) not in lines


def test_after_a_value_of_many_lines_only_the_lines_are_unknown(folder: Path) -> None:
    many = ",\n".join(f'"{number}"' for number in range(5000))
    write(folder, f'[settings]\nzone = "a"\nready_after = [{many}]\nlog_level = "debug"\n')
    config = load({}, [])
    assert (len(config.ready_after), config.log_level) == (5000, "debug")
    assert config.source("zone") == "pymicro.toml:2"
    assert config.source("log_level") == "pymicro.toml"


def test_a_program_in_the_folder_says_which_file_it_read(folder: Path) -> None:
    write(folder, '[settings]\nlog_level = "debug"\n')
    program = (
        "import asyncio, pymicro\nfrom pymicro.runtime import logs\n"
        "async def main():\n"
        "    client = pymicro.Client(registry='memory')\n"
        "    logs.set_up(client.config)\n"
        "    async with client: pass\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"file with settings: {folder / FILE_NAME} (working folder)" in done.stderr
