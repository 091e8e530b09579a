"""Lines of JSON, and a log shared between two processes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zeolith.config.logs import JsonFormatter, log_files, logs_to_stdout, share_log
from zeolith.config.server import parse_server_config

CONF = "<zeo>\naddress 8100\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"


def eventlog(*handlers: str, level: str = "info") -> Any:
    """Return ZConfig's factory for an ``<eventlog>`` with these ``<logfile>`` sections."""
    sections = "".join(f"<logfile>\n{text}\n</logfile>\n" for text in handlers)
    text = f"{CONF}<eventlog>\nlevel {level}\n{sections}</eventlog>\n"
    return parse_server_config(text).eventlog


def format_line(*arguments: Any, **more: Any) -> str:
    message, *values = arguments
    record = logging.LogRecord("a.b", logging.INFO, "file.py", 1, message, tuple(values), None)
    vars(record).update(more)
    return JsonFormatter("ignored", "ignored").format(record)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("apart")  # noqa: LOG001 - nobody else's
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_a_line_is_an_object_with_time_level_logger_and_message() -> None:
    line = json.loads(format_line("%d of %d", 1, 2, created=1234567890.0625, process=7))
    assert line == {
        "time": "2009-02-13T23:31:30.062Z",
        "level": "INFO",
        "logger": "a.b",
        "message": "1 of 2",
        "process": 7,
    }


def test_a_client_has_a_key_of_its_own() -> None:
    line = json.loads(format_line("(%s) lost %r", "shop 127.0.0.1:99", "it"))
    assert line["client"] == "shop 127.0.0.1:99"
    assert line["message"] == "lost 'it'"
    assert "client" not in json.loads(format_line("(nobody) lost it"))
    assert "client" not in json.loads(format_line("%s", "(shop) it"))


def test_an_exception_stays_on_the_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        text = format_line("went\nwrong", exc_info=sys.exc_info(), stack_info="a\nstack")
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "went\nwrong"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: two\nlines")
    assert line["stack"] == "a\nstack"


def test_extra_values_are_keys_and_whatever_they_are_is_written() -> None:
    line = json.loads(format_line("x", tid=b"\x01", count=3, level="mine"))
    assert line["tid"] == "b'\\x01'"
    assert line["count"] == 3
    assert line["level"] == "INFO"  # ours are not overwritten


def test_names_that_are_no_text_do_not_break_the_file(tmp_path: Path) -> None:
    line = format_line("cannot open %s", b"\xff.fs".decode("utf-8", "surrogateescape"))
    assert line.isascii()
    assert json.loads(line)["message"] == "cannot open \udcff.fs"


def test_the_formatter_is_named_in_zeo_conf(tmp_path: Path) -> None:
    path = tmp_path / "log"
    factory = eventlog(f"path {path}\nformatter zeolith.config.logs.JsonFormatter")
    handler = factory.handler_factories[0]()
    try:
        handler.handle(logging.makeLogRecord({"msg": "hello", "levelname": "INFO"}))
    finally:
        handler.close()
    assert json.loads(path.read_text())["message"] == "hello"


def test_files_and_streams_are_told_apart(tmp_path: Path) -> None:
    both = eventlog(f"path {tmp_path}/a", "path STDOUT", f"path {tmp_path}/b")
    assert log_files(both) == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert logs_to_stdout(both)
    assert not logs_to_stdout(eventlog("path STDERR"))
    assert log_files(None) == []
    assert not logs_to_stdout(None)


def test_a_shared_log_is_neither_rotated_nor_lost(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "log"
    share_log(eventlog(f"path {path}\nmax-size 1KB\nold-files 2\nformat %(message)s"), logger)
    for number in range(100):
        logger.warning("line %d, which is not short", number)
    assert len(path.read_text().splitlines()) == 100
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]
    path.rename(tmp_path / "log.1")
    logger.warning("after")
    assert path.read_text() == "after\n"


def test_a_shared_log_keeps_levels_and_streams(
    tmp_path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    share_log(
        eventlog(f"path {path}\nlevel error", "path STDOUT\nformat %(message)s", level="warn"),
        logger,
    )
    logger.info("a")
    logger.warning("b")
    logger.error("c")
    assert capsys.readouterr().out == "b\nc\n"
    assert "b" not in path.read_text()


def test_a_shared_log_that_cannot_be_opened(tmp_path: Path, logger: logging.Logger) -> None:
    factory = eventlog(f"path {tmp_path}/gone/log")
    with pytest.raises(FileNotFoundError):
        share_log(factory, logger)
