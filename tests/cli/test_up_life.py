"""`pymicro up` from start to stop: crashes, signals, changes of files, and what must not be left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.processes import Processes, ended, nobody_left, seen, until
from tests.up_folder import APP, GREETER, SERVING, TWO, Folder, free, greet, lines, nodes, own


@pytest.fixture
def folder(tmp_path: Path, processes: Processes) -> Folder:
    path = tmp_path / "shop"
    path.mkdir()
    return Folder(path, processes)


# Crashes


async def test_one_that_crashes_is_started_again_and_the_others_notice_nothing(
    folder: Folder, registry_folder: str
) -> None:
    process = folder.up(TWO)
    for _ in range(2):
        await seen(process, SERVING)
    await nodes(registry_folder, 2)
    victim = (await greet(registry_folder)).pid
    os.kill(victim, signal.SIGKILL)
    name = (await seen(process, r"^up +\| (greeter\.\d): killed by SIGKILL; next try in 1s$"))[1]
    assert (await seen(process, SERVING))[0].startswith(name)
    await nodes(registry_folder, 2)
    process.signal(signal.SIGTERM)
    assert await ended(process) == 0
    await nobody_left(process)


async def test_code_that_cannot_be_imported_is_tried_again_and_bad_input_is_not(folder: Folder) -> None:
    folder.write("broken.py", "import os\nos.nothing\n")
    folder.write("misfit.py", APP.replace("say_hello", "say_hallo"))
    process = folder.up('[services.broken]\nrun = "broken.py"\n[services.misfit]\nrun = "misfit.py"\n')
    await seen(process, r"^up +\| broken: exit code 1; next try in 1s$")
    await seen(process, r"^up +\| broken: exit code 1; next try in 2s$")
    process.signal(signal.SIGINT)
    assert await ended(process) == 1
    assert "misfit: not serving (exit code 2, which is bad input): not tried again" in own(process)
    assert own(process)[-1] in ("all have stopped, but not cleanly: broken, misfit",)


async def test_when_all_have_ended_so_does_it_and_tells_how(folder: Folder) -> None:
    process = folder.up('[services.a]\ncommand = ["true"]\n[services.b]\ncommand = ["sh", "-c", "echo b"]\n')
    assert await ended(process) == 0
    assert sorted(own(process)[1:]) == ["a: has ended", "all have stopped", "b: has ended"]
    folder.write("misfit.py", APP.replace("say_hello", "say_hallo"))
    process = folder.up('[services.a]\ncommand = ["true"]\n[services.b]\nrun = "misfit.py"\n')
    assert await ended(process) == 1
    assert own(process)[-1] == "all have stopped, but not cleanly: b"


async def test_a_program_that_the_system_refuses_is_given_up(folder: Folder) -> None:
    folder.write("noise", "\0\1").chmod(0o755)
    process = folder.up('[services.a]\ncommand = ["./noise"]\n')
    assert await ended(process) == 1
    assert "a: cannot be started: Exec format error" in own(process)


# Stops


async def test_a_second_interrupt_skips_all_waiting_and_is_the_exit_code(folder: Folder) -> None:
    folder.write("server.py", APP.replace("stop_grace=0.2", "drain_delay=60"))
    lock = folder.path / "lock"
    process = folder.up(
        f'{GREETER}[services.a]\ncommand = ["PYTHON", "stubborn.py", "{lock}"]\ngrace = "60s"\n'
    )
    await seen(process, r"holding|greeter latest on")
    await seen(process, r"holding|greeter latest on")
    process.signal(signal.SIGINT)
    await seen(process, r"asked|SIGTERM received")
    await seen(process, r"asked|SIGTERM received")
    process.signal(signal.SIGINT)
    assert await ended(process) == 128 + signal.SIGINT
    assert free(lock)
    await nobody_left(process)
    assert lines(process, "greeter")[-1].endswith("SIGTERM received, stopping")


async def test_one_that_does_not_stop_is_killed_after_its_grace(folder: Folder) -> None:
    lock = folder.path / "lock"
    process = folder.up(
        f'{GREETER}[services.a]\ncommand = ["PYTHON", "stubborn.py", "{lock}"]\ngrace = "300ms"\n'
    )
    pid = int((await seen(process, r"holding (\d+)"))[1])
    process.signal(signal.SIGTERM)
    assert await ended(process) == 1
    assert own(process)[-4:] == [
        "stopping",
        f"a: process {pid} did not stop within 300ms: killed",
        "a: killed by SIGKILL as it stopped",
        "all have stopped, but not cleanly: a",
    ]
    assert free(lock)


@pytest.mark.parametrize("code", [0, 3])
async def test_what_a_program_leaves_behind_is_ended_before_it_starts_again(
    folder: Folder, code: int
) -> None:
    lock = folder.path / "lock"
    process = folder.up(f'[services.a]\ncommand = ["PYTHON", "parent.py", "{lock}", "leave", "{code}"]\n')
    await seen(process, r"^a +\| holding")
    if code == 0:
        assert await ended(process) == 0
        assert free(lock)
        return
    await seen(process, r"^up +\| a: exit code 3; next try in 1s$")
    assert free(lock)
    await seen(process, r"^a +\| holding")  # the lock could be had again
    process.signal(signal.SIGTERM)
    await ended(process)
    assert free(lock)


@pytest.mark.parametrize("times", [1, 2])
async def test_what_a_program_has_started_does_not_outlive_the_stop(folder: Folder, times: int) -> None:
    lock = folder.path / "lock"
    process = folder.up(f'[services.a]\ncommand = ["PYTHON", "parent.py", "{lock}", "stay"]\n')
    await seen(process, r"^a +\| holding")
    for _ in range(times):
        process.signal(signal.SIGINT)
    # Another signal may come too late to be the second one of a stop.
    assert await ended(process) in (0, 128 + signal.SIGINT)
    assert free(lock)
    await nobody_left(process)


async def test_nobody_lives_on_if_it_is_killed(folder: Folder, registry_folder: str) -> None:
    """Its services, a program that does not heed SIGTERM, and what a program has started."""
    locks = [folder.path / name for name in ("alone", "below")]
    process = folder.up(
        f'{TWO}[services.a]\ncommand = ["PYTHON", "stubborn.py", "{locks[0]}"]\ngrace = "200ms"\n'
        f'[services.b]\ncommand = ["PYTHON", "parent.py", "{locks[1]}", "stay"]\n'
    )
    for _ in range(4):
        await seen(process, r"holding|greeter latest on")
    await nodes(registry_folder, 2)
    process.kill()
    await nodes(registry_folder, 0)
    for lock in locks:
        await until(lambda lock=lock: free(lock))
    await nobody_left(process)


async def test_a_service_still_answers_its_calls_if_its_supervisor_is_killed(
    folder: Folder, registry_folder: str
) -> None:
    """The guard does not tell it to stop: a second SIGTERM would cut its calls."""
    slow = "        import asyncio; print('called', flush=True); await asyncio.sleep(1)\n        return"
    folder.write("server.py", APP.replace("        return", slow).replace("stop_grace=0.2", "stop_grace=20"))
    process = folder.up(GREETER)
    await seen(process, SERVING)
    calling = asyncio.create_task(greet(registry_folder))
    await seen(process, "called")
    process.kill()
    assert (await calling).message == "one"
    await nodes(registry_folder, 0)


# Reload


async def test_with_reload_a_change_concerns_the_services_of_its_folder(
    folder: Folder, registry_folder: str
) -> None:
    (folder.path / "other").mkdir()
    (folder.path / "data").mkdir()
    folder.write("other/server.py", APP.replace('"greeter", ', '"other", '))
    process = folder.up(
        f'{TWO}[services.other]\nrun = "server.py"\ncwd = "other"\nwatch = ["data"]\n'
        '[services.c]\ncommand = ["sh", "-c", "echo begun; exec sleep 600"]\nwatch = ["data"]\n',
        "--reload",
    )
    for _ in range(4):
        await seen(process, r" on 127|begun")
    folder.write("server.py", APP.replace('"one"', '"two"'))
    await seen(process, r"^up +\| reloading greeter: server\.py changed$")
    for _ in range(2):
        await seen(process, "greeter has stopped")
    assert (await greet(registry_folder)).message == "two"
    (folder.path / "data" / "words.yaml").write_text("x: 1")
    await seen(process, r"^up +\| reloading c: data/words\.yaml changed$")
    await seen(process, r"other has stopped|c +\| begun")
    await seen(process, r"other has stopped|c +\| begun")
    process.signal(signal.SIGINT)
    assert await ended(process) == 0
    await nobody_left(process)
    reloads = [line for line in own(process) if line.startswith("reloading")]
    # `other` lies in a folder of the greeter's: whose helper it is nobody knows.
    assert sum(line.startswith("reloading greeter") for line in reloads) == 2
    assert sum(line.startswith("reloading other") for line in reloads) == 1


async def test_with_reload_a_crash_is_mended_by_another_try_and_bad_code_by_a_change(
    folder: Folder, registry_folder: str
) -> None:
    process = folder.up(GREETER, "--reload")
    await seen(process, SERVING)
    os.kill((await greet(registry_folder)).pid, signal.SIGKILL)
    await seen(process, r"^up +\| greeter: killed by SIGKILL; next try in 1s$")
    await seen(process, SERVING)
    folder.write("server.py", "import os (\n")
    await seen(
        process, r"greeter: not reloaded \(exit code 1\): the process before serves on; waiting for a ch"
    )
    os.kill((await greet(registry_folder)).pid, signal.SIGKILL)
    await seen(process, r"^up +\| greeter: killed by SIGKILL; next try in")
    await seen(process, r"^up +\| greeter: not serving \(exit code 1\): waiting for a change$")
    folder.write("server.py", APP.replace('"one"', '"two"'))
    await seen(process, SERVING)
    assert (await greet(registry_folder)).message == "two"
    process.signal(signal.SIGINT)
    assert await ended(process) == 0


async def test_with_reload_settings_of_the_file_count_at_once_and_its_services_do_not(folder: Folder) -> None:
    folder.write("server.py", f"{APP}print('zone', service.config_for().zone, flush=True)\n")
    settings = '[settings]\nzone = "{}"\n'
    process = folder.up(settings.format("a") + GREETER, "--reload")
    await seen(process, r"^greeter \| zone a$")
    await seen(process, SERVING)
    folder.write("pymicro.toml", settings.format("b") + GREETER)
    await seen(process, r"^up +\| reloading greeter: pymicro\.toml changed$")
    await seen(process, r"^greeter \| zone b$")
    await seen(process, "greeter has stopped")
    folder.write("pymicro.toml", settings.format("c") + TWO)
    await seen(
        process, r"^up +\| the services of pymicro\.toml have changed: start pymicro up again to have them"
    )
    await seen(process, r"^greeter \| zone c$")
    await seen(process, "greeter has stopped")
    folder.write("pymicro.toml", "[settings\n")
    await seen(process, r"^up +\| greeter: not reloaded \(exit code 2\): the process before serves on")
    process.signal(signal.SIGINT)
    assert await ended(process) == 0
