"""From the argument of `pymicro run` to the Service it names."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.base.suggest import did_you_mean
from pymicro.cli.report import InputError, note
from pymicro.cli.service_place import ServicePlace

if TYPE_CHECKING:
    from pymicro.service import Service

__all__ = ["UserCodeFailed", "load_service"]


class UserCodeFailed(Exception):
    """The user's module raised while it was imported; its traceback has been printed."""


def load_service(target: str, argv: Sequence[str]) -> Service:
    """Import the module of `target` as if it were the program, and find its Service.

    Args:
        target: `path.py`, `path.py:name`, `package.module` or `package.module:name`.
        argv: The arguments that the program sees after its own name in `sys.argv`.

    Raises:
        InputError: The file, module or name does not exist, or there is not exactly one Service.
        UserCodeFailed: The import failed inside the user's code.
    """
    found = ServicePlace.read(target)
    module = _import_file(found, argv) if found.is_file else _import_module(found, argv)
    return _named(module, found.name, found.place) if found.name else _only(module, found.place)


def _import_file(target: ServicePlace, argv: Sequence[str]) -> ModuleType:
    path, place = target.path(), target.place
    folder = str(path.resolve().parent)
    if not sys.flags.safe_path:  # as `python path.py` and `python -P path.py` do
        sys.path[0] = folder
    sys.argv = [place, *argv]
    spec = importlib.util.spec_from_file_location(_module_name(path.stem, folder), path.absolute())
    if spec is None or spec.loader is None:
        raise InputError(f"{place} is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    # Register it before it runs, so that dataclasses and pickle find it under its name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise _failed(exc, place, str(path.absolute())) from exc
    return module


def _module_name(stem: str, folder: str) -> str:
    """The file's stem, unless importing that name would give another module.

    Beside a package `greeter/` the name belongs to the package, and a module
    that is already loaded is in use by other code.
    """
    spec = importlib.machinery.PathFinder.find_spec(stem, [folder])
    if stem in sys.modules or (spec is not None and spec.submodule_search_locations is not None):
        return f"__{stem}__"
    return stem


def _import_module(target: ServicePlace, argv: Sequence[str]) -> ModuleType:
    target.parts()
    place = target.place
    if not sys.flags.safe_path:  # as `python -m package.module`; the console script has its own folder there
        sys.path[0] = os.getcwd()
    sys.argv = [place, *argv]
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as exc:
        # If the missing module is one that this module imports, the user's code failed. So it did if a
        # distribution is missing, which may well have the name of the package.
        missing = "" if isinstance(exc, PackageNotFoundError) else exc.name or ""
        if not missing or not (place == missing or place.startswith(f"{missing}.")):
            raise _failed(exc, place, None) from exc
        raise target.no_module(missing) from exc
    except Exception as exc:
        raise _failed(exc, place, None) from exc
    # sys.argv[0] is the path of the file, as with `python -m`.
    sys.argv[0] = module.__file__ or place
    return module


def _failed(exc: Exception, place: str, file: str | None) -> Exception:
    """Show what went wrong in the user's code, without the frames of ours that led there."""
    if isinstance(exc, ConfigError):
        return exc  # wrong handlers or settings: the message says where
    user_frames = _from_user_code(exc.__traceback__, file)
    lines = traceback.TracebackException(type(exc), exc, user_frames)
    note("".join(lines.format()).rstrip())
    advice = _advice(exc)
    return UserCodeFailed(f"{place} failed while it was imported{advice and f': {advice}'}")


def _advice(exc: Exception) -> str:
    """What to do if the code that is made of protos is missing, or does not fit what is installed."""
    again = "make it again with `pymicro gen`, or upgrade"
    frames = traceback.extract_tb(exc.__traceback__)
    if type(exc).__name__ == "VersionError" and type(exc).__module__.startswith("google.protobuf"):
        return f"the code of your protos was made for a newer protobuf than is installed: {again} protobuf"
    if isinstance(exc, RuntimeError) and frames and frames[-1].filename.endswith("_pb2_grpc.py"):
        return f"the code of your protos was made for a newer grpcio than is installed: {again} grpcio"
    if isinstance(exc, ImportError) and any("_pb2" in (frame.line or "") for frame in frames[-1:]):
        return (
            "the Python code of your protos is missing: `pymicro gen FOLDER` makes it of a folder of protos"
        )
    if isinstance(exc, PackageNotFoundError):
        # Python's own words for it.
        return f"{exc.name} is not installed in this environment: `pip install --editable .` in its folder"
    return ""


def _from_user_code(frames: TracebackType | None, file: str | None) -> TracebackType | None:
    """The frames from the user's first one on."""
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        if name == file if file else not (name == __file__ or "importlib" in name):
            return frames
        frames = frames.tb_next
    return None


def _services(module: ModuleType) -> dict[str, Service]:
    """The Services among a module's names, each under its first name."""
    from pymicro.service import Service

    found: dict[str, Service] = {}
    for name, value in vars(module).items():
        if isinstance(value, Service) and value not in found.values():
            found[name] = value
    return found


def _only(module: ModuleType, place: str) -> Service:
    found = _services(module)
    if not found:
        raise InputError(
            f"{place} has no Service: a name of the module must hold one, like service = Service('greeter')"
        )
    if len(found) > 1:
        listing = "".join(f"\n  {place}:{name}  ({service.name})" for name, service in found.items())
        raise InputError(f"{place} has {len(found)} Services, name the one to run:{listing}")
    return next(iter(found.values()))


def _named(module: ModuleType, name: str, place: str) -> Service:
    from pymicro.service import Service

    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = list(_services(module))
            hint = did_you_mean(name, names) or (f"; its Services: {', '.join(names)}" if names else "")
            raise InputError(f"{place} has no name {excerpt(name)}{hint}")
        value = getattr(value, part)
    if not isinstance(value, Service):
        raise InputError(f"{place}:{name} is no Service but of type {type(value).__name__}")
    return value
