"""A server of one's own in one call, for trying things out and for tests."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

from .config.address import LOOPBACK, Address, format_address
from .config.pidfile import PidFile
from .config.server import parse_server_config
from .errors import ConfigurationError

START_TIMEOUT: Final = 33
"""Seconds that the start of a server process may take, if nothing else is asked for."""

_PROTOCOLS: Final[Mapping[str, bool]] = {"Z5": False, "M5": True}
"""What ``protocol`` may be besides ``5``, and whether that means msgpack."""


class Stop(Protocol):
    """Stops a server; harmless if it has stopped already."""

    def __call__(self, stop_timeout: float = 99) -> None:
        """Return when the server has stopped.

        :param stop_timeout: seconds after which a server process is killed.
        """


def server(
    path: str | None = None,
    blob_dir: str | None = None,
    storage_conf: str | None = None,
    zeo_conf: object = None,
    port: int | Address = 0,
    threaded: bool = True,
    *,
    protocol: str | bytes | None = None,
    debug: bool = False,
    start_timeout: float = START_TIMEOUT,
    name: str | None = None,
    log: str | bool | None = None,
    show_config: bool = False,
) -> tuple[Address, Stop]:
    """Start a server; return its address and a function that stops it.

    Without any argument it serves an empty database in memory on a free port of the loopback
    interface.  It runs in a thread (the default) or in a process of its own, and ends with this
    process at the latest.

    :param path: FileStorage to serve.
    :param blob_dir: directory for blobs.
    :param storage_conf: storage sections in ZConfig's form, in place of *path*.
    :param zeo_conf: a ``<zeo>`` section as text, or a mapping of its keys with underscores in
        place of hyphens.
    :param port: a port of the loopback interface, or an address; a *zeo_conf* that is a text
        has its own.
    :param threaded: whether the server runs in a thread of this process.
    :param protocol: ``"5"``, ``"Z5"`` (pickle) or ``"M5"`` (msgpack).
    :param debug: whether the server logs debugging messages.
    :param start_timeout: seconds that the start of a server process may take; refused with
        *threaded*, because nothing can interrupt a thread that opens a storage.
    :param name: what to call the server's thread, or the process in messages.
    :param log: file for the server's log, True for ``server.log``; default: warnings go where
        this process sends them, or to standard error.
    :param show_config: whether to print the configuration.
    :raises ConfigurationError: the arguments cannot be used, or the server does not start.
    """
    _check_start_timeout(start_timeout, threaded)
    text = _compose(path, blob_dir, storage_conf, zeo_conf, port, protocol)
    if show_config:
        print(text)
    log_file = "server.log" if log is True else log or None
    if not threaded:
        from .child import start_child

        return start_child(text + _eventlog(log_file, debug), name, start_timeout)
    return _start_thread(text, name, log_file, debug)


def _check_start_timeout(start_timeout: float, threaded: bool) -> None:
    if threaded and start_timeout != START_TIMEOUT:
        raise ConfigurationError(
            "start_timeout",
            "has no effect on a server in a thread",
            "leave it out, or give threaded=False",
        )
    if isinstance(start_timeout, bool) or not isinstance(start_timeout, (int, float)):
        raise ConfigurationError("start_timeout", f"{start_timeout!r} is not a number of seconds")
    # A comparison with "not a number" is false.
    if not 0 < start_timeout <= threading.TIMEOUT_MAX:
        raise ConfigurationError("start_timeout", f"{start_timeout!r} s is not a time to wait")


def _compose(
    path: str | None,
    blob_dir: str | None,
    storage_conf: str | None,
    zeo_conf: object,
    port: int | Address,
    protocol: str | bytes | None,
) -> str:
    """Return the whole configuration as a text."""
    if storage_conf is None:
        storage_conf = (
            "<mappingstorage>\n</mappingstorage>"
            if path is None
            else f"<filestorage>\n  path {_escape(path)}\n</filestorage>"
        )
    elif path is not None:
        raise ConfigurationError("path", "has no effect with storage_conf", "give one of them")
    if blob_dir is not None:
        storage_conf = (
            f"<blobstorage>\nblob-dir {_escape(blob_dir)}\n{storage_conf}\n</blobstorage>"
        )
    return f"{_compose_zeo(zeo_conf, port, protocol)}\n\n{storage_conf}\n"


def _compose_zeo(zeo_conf: object, port: int | Address, protocol: str | bytes | None) -> str:
    msgpack = _parse_protocol(protocol)
    if zeo_conf is not None and not isinstance(zeo_conf, Mapping):
        for option, value in (("port", port), ("protocol", msgpack)):
            if value:
                raise ConfigurationError(
                    option, "has no effect when zeo_conf is a text", "write it there"
                )
        return str(zeo_conf)
    address = (LOOPBACK, port) if isinstance(port, int) else port
    values: dict[str, object] = {"address": format_address(address), **(zeo_conf or {})}
    if msgpack is not None:
        values["msgpack"] = msgpack
    lines = (
        f"  {key.replace('_', '-')} {_escape(str(value))}"
        for key, value in values.items()
        if value is not None
    )
    return "<zeo>\n" + "\n".join(lines) + "\n</zeo>"


def _parse_protocol(protocol: str | bytes | None) -> bool | None:
    """Return whether msgpack is wanted, or None if that is left open."""
    text = protocol.decode("ascii", "replace") if isinstance(protocol, bytes) else protocol
    if text is None or text == "5":
        return None
    if text not in _PROTOCOLS:
        raise ConfigurationError(
            "protocol", f"{text!r} is not spoken here", "use '5', 'Z5' or 'M5', or leave it out"
        )
    return _PROTOCOLS[text]


def _escape(value: str) -> str:
    if "\n" in value or "\r" in value or value != value.strip():
        raise ConfigurationError(
            repr(value), "has a line break in it, or blanks around it", "use another name"
        )
    return value.replace("$", "$$")  # ZConfig would look for a definition


def _eventlog(log_file: str | None, debug: bool) -> str:
    # Without a log file the line of every connection would get in the way of an interpreter.
    level = "debug" if debug else "info" if log_file else "warn"
    path = _escape(log_file) if log_file else "STDERR"
    return (
        f"\n<eventlog>\n  level {level}\n  <logfile>\n    path {path}\n"
        "    format %(asctime)s %(levelname)s %(name)s %(message)s\n"
        "  </logfile>\n</eventlog>\n"
    )


def _start_thread(
    text: str, name: str | None, log_file: str | None, debug: bool
) -> tuple[Address, Stop]:
    from .server import start_in_thread

    config = parse_server_config(text, "zeolith.server()")
    with ExitStack() as cleanup:
        if config.eventlog is not None:
            cleanup.enter_context(_restored(logging.getLogger()))
            config.eventlog()
        if log_file is not None or debug:
            cleanup.enter_context(_logging(log_file, debug))
        running = config.make_server()
        cleanup.callback(start_in_thread(running, name or "zeolith-server"))
        if config.pid_file is not None:
            pid_file = PidFile(config.pid_file)
            pid_file.write()
            cleanup.callback(pid_file.remove)
        close = cleanup.pop_all().close

    def stop(stop_timeout: float = 99) -> None:
        # A thread cannot be killed: the server's own grace period bounds this.
        atexit.unregister(stop)
        close()

    atexit.register(stop)
    return running.address, stop


@contextmanager
def _restored(logger: logging.Logger) -> Iterator[None]:
    """Take away afterwards what was done to *logger*."""
    level, handlers = logger.level, list(logger.handlers)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in [handler for handler in logger.handlers if handler not in handlers]:
            logger.removeHandler(handler)
            handler.close()


@contextmanager
def _logging(log_file: str | None, debug: bool) -> Iterator[None]:
    logger = logging.getLogger("zeolith")
    with _restored(logger):
        handler = logging.FileHandler(log_file) if log_file else logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        yield
