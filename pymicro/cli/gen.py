"""`pymicro gen`: Python code from protos."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pymicro.base.printable import listed
from pymicro.cli.flags import debug_option
from pymicro.cli.gen_mend import Layout, check_code, mend
from pymicro.cli.gen_output import Output, check_names, in_package, with_packages
from pymicro.cli.gen_protoc import Compiled, compile_protos
from pymicro.cli.gen_sources import Sources, gather, module_of, shown
from pymicro.cli.report import EXIT_FAILED, InputError, note, say

__all__ = ["gen"]

_PROTOS = Path("protos")


@click.command("gen")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Write the packages here.  [the current folder]",
)
@click.option(
    "-I",
    "--include",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Where names in imports begin; may be repeated.  [each PATH, or the folder above its package]",
)
@click.option(
    "--check", is_flag=True, help="Write nothing; exit 1 if the code differs from what the protos give."
)
@debug_option
def gen(paths: tuple[Path, ...], out: Path, include: tuple[Path, ...], check: bool) -> int:
    """Make Python code of the protos at PATH, files or folders.  [protos]

    greeter/v1/greeter.proto becomes greeter/v1/greeter_pb2.py and, if it has
    services, greeter/v1/greeter_pb2_grpc.py, each with its types (.pyi). They import
    each other relatively, so they may lie in any package.

    Protos can import Google's (google/protobuf, google/api, google/rpc, google/type)
    without any set-up. The command needs the extra tools.
    """
    if not paths and not _PROTOS.is_dir():
        raise InputError(
            f"there is no folder {_PROTOS} here: name the protos, or the folder that they are in"
        )
    sources = gather(paths or [_PROTOS], include)
    if not include:
        note(f"names begin at {', '.join(map(shown, sources.roots))} (-I)")
    if sources.left_out:
        one = len(sources.left_out) == 1
        note(
            f"left out, because {'its' if one else 'their'} code is installed: {listed(sources.left_out, 3)}"
        )
    compiled = compile_protos(sources)
    if compiled.warnings:
        note(compiled.warnings)
    out = Path(os.path.abspath(out))
    texts = _mended(compiled, sources, out)
    files = with_packages(texts, out)
    check_names(files, out)
    output = Output.plan(files, sources, out)
    return _checked(output) if check else _written(output)


def _mended(compiled: Compiled, sources: Sources, out: Path) -> dict[str, str]:
    """The code to write, by path; nothing of grpc's for a proto without services."""
    from pymicro.cli.gen_names import TypeNames
    from pymicro.cli.gen_stubs import types_of_services
    from pymicro.cli.gen_types import types_of_messages

    types = TypeNames(compiled.described)
    layout = Layout(_local(compiled, sources, out), in_package(out))
    texts: dict[str, str] = {}
    for file in compiled.described.file:
        if file.name not in sources.files:
            continue
        module = module_of(file.name)
        stem = module.replace(".", "/")
        texts[f"{stem}.py"] = mend(compiled.texts[f"{stem}.py"], module, layout)
        texts[f"{stem}.pyi"] = messages = types_of_messages(file, types, layout)
        check_code(messages, module, layout)
        if file.service:
            texts[f"{stem}_grpc.pyi"] = services = types_of_services(file, types, layout)
            check_code(services, f"{module}_grpc", layout)
            texts[f"{stem}_grpc.py"] = mend(compiled.texts[f"{stem}_grpc.py"], f"{module}_grpc", layout)
    return texts


def _local(compiled: Compiled, sources: Sources, out: Path) -> frozenset[str]:
    """The modules in the output folder, both new and existing ones.

    Raises:
        InputError: An imported proto would have no code.
    """
    local = set(map(module_of, sources.files))
    for file in compiled.described.file:  # all imports, direct and indirect
        own = sources.find(file.name)
        if own is None or file.name in sources.files or file.name in sources.left_out:
            continue
        module = module_of(file.name)
        if (out / f"{module.replace('.', '/')}.py").is_file():
            local.add(module)
        elif not sources.has_installed(file.name):
            importer = next(other for other in compiled.described.file if file.name in other.dependency)
            raise InputError(
                f"{importer.name} imports {file.name}, of which there is no Python code in {shown(out)}: "
                f"name {shown(own)} too"
            )
    return frozenset(local)


def _written(output: Output) -> int:
    output.write()
    for path in output.changed:
        say(f"wrote {shown(path)}")
    same = len(output.files) - len(output.changed)
    if same:
        say(f"unchanged: {_files(same)}")
    for path in output.stale:
        note(f"stale: {shown(path)} (nothing stands for it in the protos: delete it)")
    return 0


def _checked(output: Output) -> int:
    for path in output.changed:
        say(f"{'differs' if path.exists() else 'missing'}  {shown(path)}")
    for path in output.stale:
        say(f"stale    {shown(path)}")
    wrong = len(output.changed) + len(output.stale)
    if not wrong:
        say(f"up to date: {_files(len(output.files))}")
        return 0
    if versions := output.other_versions():
        note("made by version {} of the tools, and here is {}".format(*versions))
    note(f"{_files(wrong)} to mend: run this without --check")
    return EXIT_FAILED


def _files(number: int) -> str:
    return f"{number} file{'s' if number > 1 else ''}"
