"""Log lines for people, or as JSON objects."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any, TextIO

from pymicro.base.printable import escaped_json, printable
from pymicro.base.tracebacks import format_traceback, show_all_frames
from pymicro.settings.config import Config
from pymicro.telemetry.tracing import current_ids

__all__ = ["set_up"]

# Of the level's name; plain codes, because a service imports nothing to draw with.
_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"

# Attributes of every LogRecord; any other came in by `extra=`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _moment(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class _Human(logging.Formatter):
    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        local = time.strftime("%H:%M:%S", time.localtime(record.created))
        moment, level = f"{local}.{int(record.msecs):03d}", f"{record.levelname.lower():<7}"
        if self._colour:
            moment, level = (
                f"{_DIM}{moment}{_RESET}",
                f"{_COLOURS.get(record.levelno, '')}{printable(level)}{_RESET}",
            )
        name = "" if record.name in ("pymicro", "root") else record.name.removeprefix("pymicro.") + ": "
        ids = current_ids()
        trace = f" (trace {ids[0]}, span {ids[1]})" if ids is not None else ""
        lines = [f"{name}{record.getMessage()}{trace}"]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        if record.stack_info:
            lines.append(self.formatStack(record.stack_info))
        # Peers, pods and neighbours have a word in many lines.
        text = printable("\n".join(lines))
        return f"{moment} {level} {text}"

    def formatException(self, ei: Any) -> str:
        return format_traceback(*ei)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        ids = current_ids()
        if ids is not None:
            entry["trace_id"], entry["span_id"] = ids
        entry.update({key: value for key, value in vars(record).items() if key not in _PLAIN})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return escaped_json(json.dumps(entry, default=str, ensure_ascii=False))


def set_up(config: Config, stream: TextIO | None = None) -> None:
    """Send log records to `stream` (stderr), unless the program has set up logging itself.

    `log_level` is the level of the logger `pymicro`, and of the root logger if
    it had no handler: then the program's own records appear too.
    """
    level = config.log_level.upper()
    root = logging.getLogger()
    logging.getLogger("pymicro").setLevel(level)
    if root.handlers:
        return
    stream = stream if stream is not None else sys.stderr
    if level == "DEBUG":
        show_all_frames()
    handler = logging.StreamHandler(stream)
    if config.log_format == "json":
        handler.setFormatter(_Json())
    else:
        # https://force-color.org: `pymicro up` sets it for those whose lines it shows in a terminal.
        wanted = stream.isatty() or os.environ.get("FORCE_COLOR")
        handler.setFormatter(_Human(bool(wanted) and not os.environ.get("NO_COLOR")))
    root.addHandler(handler)
    root.setLevel(level)
