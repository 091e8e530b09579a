"""Logs: lines of JSON, and which files an ``<eventlog>`` writes.

A line about one client begins with that client's name in parentheses, its label and its address;
:class:`JsonFormatter` relies on it.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

_STREAMS: Final = frozenset({"STDOUT", "STDERR"})
_CLIENT: Final = "(%s) "


class JsonFormatter(logging.Formatter):
    """One JSON object on one line for each record.

    Named in ``zeo.conf`` by ``formatter zeolith.config.logs.JsonFormatter``.  The keys are
    ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``process``; where there is one,
    ``client`` (the name of the client concerned), ``exception`` and ``stack``; and whatever was
    given to the logger as ``extra``.  The keys ``format`` and ``dateformat`` have no effect.

    May be used by any thread.
    """

    _STANDARD: Final = frozenset(
        {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
    )
    """Attributes of every record: what is not among them came as ``extra``."""

    def __init__(self, fmt: str | None = None, datefmt: str | None = None) -> None:
        # ZConfig passes the keys format and dateformat, or their defaults: they have no say here.
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            "process": record.process,
        }
        client = _client_of(record)
        if client is not None:
            line["client"] = client
            line["message"] = message.removeprefix(f"({client}) ")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        for name, value in vars(record).items():
            if name not in self._STANDARD and name not in line:
                line[name] = value
        # Whatever a value is, the line must be written: repr() where JSON has no form for it.
        # Not ASCII only would let lone surrogates of file names break the encoding of the file.
        return json.dumps(line, default=repr, ensure_ascii=True)


def _client_of(record: logging.LogRecord) -> str | None:
    if isinstance(record.msg, str) and record.msg.startswith(_CLIENT):
        arguments = record.args
        if isinstance(arguments, tuple) and arguments:
            return str(arguments[0])
    return None


def _file_sections(eventlog: Any) -> Iterator[Any]:
    if eventlog is not None:
        for factory in eventlog.handler_factories:
            if getattr(factory.section, "path", None) is not None:
                yield factory.section


def log_files(eventlog: Any) -> list[str]:
    """Return the paths of the files that *eventlog* writes, in the order of the configuration.

    :param eventlog: ZConfig's factory, or None.
    """
    return [section.path for section in _file_sections(eventlog) if section.path not in _STREAMS]


def logs_to_stdout(eventlog: Any) -> bool:
    """Return whether *eventlog* writes to standard output."""
    return any(section.path == "STDOUT" for section in _file_sections(eventlog))


def share_log(eventlog: Any, logger: logging.Logger) -> None:
    """Have *logger* write what *eventlog* describes, beside the process that owns the files.

    The files are never rotated from here, and opened again when somebody else has renamed them:
    two processes that both rotate one file by its size would lose lines.

    :param eventlog: ZConfig's factory.
    :raises OSError: a file cannot be opened.
    """
    logger.setLevel(eventlog.level)
    for factory in eventlog.handler_factories:
        section = factory.section
        path = getattr(section, "path", None)
        if path is None or path in _STREAMS:
            handler = factory()
        else:
            handler = logging.handlers.WatchedFileHandler(path, encoding=section.encoding)
            handler.setFormatter(factory.create_formatter())
            handler.setLevel(section.level)
        logger.addHandler(handler)
