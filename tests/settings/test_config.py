"""Settings: precedence, kinds, messages, the environment Kubernetes makes."""

from __future__ import annotations

import ast
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import pymicro
from pymicro import ConfigError
from pymicro.base.durations import format_duration, parse_duration
from pymicro.runtime.base_client import Settings
from pymicro.settings.access import AccessRule
from pymicro.settings.config import (
    Config,
    load,
    parse_flags,
    render,
    settings,
    unknown_environment,
    without_effect,
)


def test_flag_beats_environment_beats_code_beats_default() -> None:
    code = {"registry": "a", "selector": "b", "balancer": "c"}
    environ = {"MICRO_REGISTRY": "env", "MICRO_SELECTOR": "env", "MICRO_LOOP": ""}
    config = load(code, ["--registry", "flag"], environ)
    assert (config.registry, config.selector, config.balancer) == ("flag", "env", "c")
    assert config.source("registry") == "flag --registry"
    assert config.source("selector") == "environment MICRO_SELECTOR"
    assert config.source("balancer") == "code"
    assert config.source("loop") == "default"


@pytest.mark.parametrize("flag", ["--registry-address", "--registry_address", "-registry_address"])
def test_flags_take_dashes_and_underscores_and_an_equals_sign(flag: str) -> None:
    assert load({}, [flag, "a"], {}).registry_address == ("a",)
    assert load({}, [f"{flag}=a"], {}).registry_address == ("a",)


def test_lists_and_pairs_are_joined_when_repeated() -> None:
    config = load({}, ["--registry-address=a, b", "--registry-address=c", "--server-metadata", "x=1,y=2"], {})
    assert config.registry_address == ("a", "b", "c")
    assert config.server_metadata == {"x": "1", "y": "2"}
    assert load({"server_metadata": {"z": "3"}}, [], {}).server_metadata == {"z": "3"}
    assert load({"registry_address": ["a", "b"]}, [], {}).registry_address == ("a", "b")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("0", 0),
        ("2", 2),
        ("2.5", 2.5),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("1ns", 1e-9),
        (" 3s ", 3),
        (".5s", 0.5),
    ],
)
def test_go_durations_and_plain_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "-1s", "-1", "1s5", "nan", "inf", "1e400", "5 s s", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [0, 0.25, 1, 5, 59.5, 60, 90, 3600, 3661.5])
def test_a_duration_is_shown_as_it_can_be_read_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("size", "number"), [("4MiB", 4 << 20), ("64k", 1 << 16), ("1000", 1000), ("1GiB", 1 << 30), ("5B", 5)]
)
def test_sizes(size: str, number: int) -> None:
    config = load({}, ["--max-message-size", size], {})
    assert config.max_message_size == number
    (line,) = [line for line in render(config).splitlines() if line.startswith("max_message_size")]
    assert load({}, ["--max-message-size", line.split()[1]], {}).max_message_size == number


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--registy", "x"], ["--registy", "did you mean --registry"]),
        (["--registry"], ["--registry", "needs a value"]),
        (["--registry", "--selector"], ["--registry", "needs a value"]),
        (["word"], ["'word'"]),
        (["--stop-grace", "soon"], ["--stop-grace", "'soon'", "500ms"]),
        (["--register-ttl", "1.5"], ["--register-ttl", "whole number"]),
        (["--register-ttl", "-1"], ["--register-ttl", "less than 0"]),
        (["--log-level", "debgu"], ["--log-level", "did you mean 'debug'"]),
        (["--client", "mucp"], ["--client", "grpc"]),
        (["--server-metadata", "x"], ["--server-metadata", "key=value"]),
        (["--max-message-size", "0"], ["--max-message-size"]),
        (["--max-message-size", "3GiB"], ["--max-message-size", "2 GiB"]),
    ],
)
def test_bad_flags_are_named_with_what_would_do(argv: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, argv, {})
    for word in words:
        assert word in str(caught.value)


def test_a_bad_variable_and_a_bad_keyword_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^MICRO_STOP_GRACE: 'x' is no duration"):
        load({}, [], {"MICRO_STOP_GRACE": "x"})
    with pytest.raises(ConfigError, match=r"^stop_grace= in code: True is no number"):
        load({"stop_grace": True}, [], {})
    with pytest.raises(ConfigError, match="there is no setting 'stopgrace'; did you mean 'stop_grace'"):
        load({"stopgrace": 1}, [], {})


def test_unknown_variables_are_listed_and_those_kubernetes_made_are_not() -> None:
    kubernetes = dict.fromkeys(
        (
            "MICRO_SERVICE_HOST",
            "MICRO_SERVICE_PORT",
            "MICRO_SERVICE_PORT_GRPC",
            "MICRO_PORT",
            "MICRO_PORT_8080_TCP",
            "MICRO_PORT_8080_TCP_PROTO",
            "MICRO_PORT_8080_TCP_PORT",
            "MICRO_PORT_8080_TCP_ADDR",
            "MICRO_REGISTRY_SERVICE_HOST",
            "MICRO_REGISTRY_PORT_2379_TCP_ADDR",
        ),
        "x",
    )
    assert unknown_environment({**kubernetes, "MICRO_REGISTRY": "x", "OTHER": "x"}) == []
    assert unknown_environment({"MICRO_REGISTY": "x"}) == [
        "MICRO_REGISTY is no setting; did you mean 'MICRO_REGISTRY'?"
    ]


def test_what_go_micro_manifests_set_is_accepted_and_what_changes_nothing_is_told() -> None:
    # Every flag of go-micro 1.18 (config/cmd/cmd.go), as environment and as flag.
    flags = {
        "client": "grpc",
        "client_request_timeout": "500ms",
        "client_retries": "1",
        "client_pool_size": "100",
        "client_pool_ttl": "1m",
        "register_ttl": "60",
        "register_interval": "30",
        "server": "grpc",
        "server_name": "go.micro.srv.greeter",
        "server_version": "latest",
        "server_id": "1",
        "server_address": ":8080",
        "server_advertise": "10.0.0.1:8080",
        "server_metadata": "a=b,c=d",
        "broker": "nats",
        "broker_address": "nats:4222",
        "profile": "pprof",
        "registry": "kubernetes",
        "registry_address": "10.0.0.1",
        "runtime": "kubernetes",
        "selector": "cache",
        "transport": "http",
        "transport_address": ":9090",
    }
    variables = {f"MICRO_{name.upper()}": text for name, text in flags.items() if name != "profile"}
    others = {
        "MICRO_DEBUG_PROFILE": "pprof",
        "MICRO_PROXY": "go.micro.proxy",
        "MICRO_PLUGIN": "/plugins/kubernetes.so",
        "MICRO_LOG_LEVEL": "trace",
    }
    environ = {**variables, **others}
    config = load({}, [], environ)
    assert unknown_environment(environ) == []
    assert without_effect(config, environ) == [
        f"environment MICRO_{name}"
        for name in (
            "CLIENT_POOL_SIZE",
            "CLIENT_POOL_TTL",
            "BROKER",
            "BROKER_ADDRESS",
            "TRANSPORT_ADDRESS",
            "RUNTIME",
            "DEBUG_PROFILE",
            "PLUGIN",
            "PROXY",
        )
    ]
    assert (config.selector, config.log_level) == ("registry", "debug")
    assert config.server_metadata == {"a": "b", "c": "d"}
    given = load({}, [word for name, text in flags.items() for word in (f"--{name}", text)], {})
    assert given == dataclasses.replace(config, profile="pprof", log_level="info")


@pytest.mark.parametrize(
    ("setting", "theirs", "ours"),
    [
        ("selector", "default", "registry"),
        ("selector", "cache", "registry"),
        ("transport", "http", "grpc"),
        ("transport", "nats", "grpc"),
        ("log_level", "warn", "warning"),
        ("log_level", "trace", "debug"),
        ("log_level", "fatal", "error"),
    ],
)
def test_go_micros_words_for_ours_are_understood(setting: str, theirs: str, ours: str) -> None:
    config = load({}, [], {f"MICRO_{setting.upper()}": theirs})
    assert getattr(config, setting) == ours


def test_every_setting_is_a_keyword_and_every_keyword_a_setting() -> None:
    assert set(get_type_hints(Settings, localns=_plugin_types())) == set(settings())


def _plugin_types() -> dict[str, Any]:
    from pymicro.discovery.registry import Registry
    from pymicro.discovery.selector import Selector

    return {"Registry": Registry, "Selector": Selector}


def test_every_setting_has_a_help_text_and_its_default_is_shown_and_read_again() -> None:
    for name, setting in settings().items():
        assert setting.help, name
        assert getattr(Config(), name) == setting.default
        shown = setting.kind.show(setting.default)
        if shown:
            flags = parse_flags([setting.flag, shown])
            assert load({}, [setting.flag, flags[name]], {}) == Config(), name


def test_a_config_can_be_handed_to_another_process() -> None:
    config = load({"server_metadata": {"a": "b"}}, ["--registry", "x"], {})
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.sources == config.sources
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.registry = "y"  # type: ignore[misc]


def test_a_password_is_shown_nowhere() -> None:
    config = load(environ={"MICRO_REGISTRY_PASSWORD": " open sesame "})
    assert config.registry_password == " open sesame "
    assert "sesame" not in repr(config)
    assert "sesame" not in render(config)
    assert "(set)" in render(config)


def test_help_does_not_print_the_environment() -> None:
    program = """
import pydoc, pymicro, pymicro.discovery.selector, pymicro.settings.config
from pymicro.discovery.selectors import dns, static
things = pymicro.Client, pymicro.Service, pymicro.settings.config, static, dns
print(*(pydoc.render_doc(thing) for thing in things))
"""
    made = subprocess.run(
        [sys.executable, "-c", program],
        env={"DATABASE_URL": "postgres://u:hunter2@db", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "environ: " in made.stdout
    assert "hunter2" not in made.stdout


def test_no_default_holds_the_environment() -> None:
    """It would be shown wherever the signature is: by `help`, in an editor, in generated documentation."""
    root = Path(pymicro.__file__).parent
    found = [
        f"{path.relative_to(root)}:{default.lineno}"
        for path in root.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for default in (*function.args.defaults, *function.args.kw_defaults)
        if default is not None and "environ" in ast.unparse(default)
    ]
    assert found == []


def test_the_environment_is_read_when_the_settings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_REGISTRY", "set-later")
    monkeypatch.setenv("MICRO_UNKNOWN_THING", "1")
    assert load().registry == "set-later"
    assert load(environ={}).registry == "local"
    assert [line.split()[0] for line in unknown_environment()] == ["MICRO_UNKNOWN_THING"]
    assert unknown_environment({}) == []


@pytest.mark.parametrize(
    ("text", "shown", "share", "slow"),
    [
        ("off", "off", 0.0, None),
        (" ALL ", "all", 1.0, None),
        ("sample:0.01", "sample:0.01", 0.01, None),
        ("sample:1", "all", 1.0, None),
        ("sample:1e-6", "sample:0.000001", 1e-6, None),
        ("slow:500ms", "slow:500ms", 0.0, 0.5),
        ("slow:1m30s, sample:0.5", "sample:0.5,slow:1m30s", 0.5, 90.0),
    ],
)
def test_an_access_log_is_of_all_calls_a_share_or_slow_ones(
    text: str, shown: str, share: float, slow: float | None
) -> None:
    config = load({}, ["--access-log", text], {})
    assert config.access_log == shown
    assert AccessRule.of(shown) == AccessRule(share, slow)
    assert load({"access_log": shown}, [], {}).access_log == shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("some", "'some' is none of off, all, sample:0.01"),
        ("all,slow:1s", "'all,slow:1s' is none of off, all"),
        ("sample", "'sample' is none of off, all"),
        ("slow:1s,slow:2s", "'slow:1s,slow:2s' is none of"),
        ("sample:1%", "'1%' is no share of the calls: sample:0.01 is one in a hundred"),
        ("sample:0", "'0' is no share of the calls"),
        ("sample:2", "'2' is no share of the calls"),
        ("sample:nan", "'nan' is no share of the calls"),
        ("slow:often", "'often' is no duration (like 500ms, 5s, 1m30s)"),
        ("sample:" + "1" * 5000, "is no share of the calls"),
    ],
)
def test_an_access_log_that_cannot_be_is_one_clear_message(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, [], {"MICRO_ACCESS_LOG": text})
    assert str(caught.value).startswith("MICRO_ACCESS_LOG: ")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(ConfigError, match="access_log= in code: 1 is none of off, all"):
        load({"access_log": 1}, [], {})


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://me:hunter2@etcd:2379", "http://…@etcd:2379"),
        ("me:hunter2@etcd:2379", "…@etcd:2379"),
        ("http://hunter2@a@etcd:2379,b:1", "http://…@etcd:2379,b:1"),
        ("http://etcd:2379", "http://etcd:2379"),
    ],
)
def test_a_password_in_an_address_is_not_shown(given: str, shown: str) -> None:
    config = load({}, [f"--registry-address={given}"], {})
    (line,) = [line for line in render(config).splitlines() if line.startswith("registry_address ")]
    assert line.split() == ["registry_address", shown, "flag", "--registry-address"]
    assert config.registry_address == tuple(given.split(","))
