"""The keywords of :class:`.ClientStorage`: what each becomes, or why it cannot be used.

No keyword is ignored: one that would have no effect is refused with an error that says what to do
instead.  The full table is in ``docs/client.md``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any, Final

from ..credentials import to_credentials
from ..errors import ConfigurationError
from ..protocol.liveness import MAX_SILENCE, MIN_SILENCE, is_silence
from .blobs import BlobDirectory
from .cacheplace import find_path
from .connector import Mode
from .economy import check_compression
from .link import LinkOptions
from .principal import make_principal
from .verification import WhenBehind
from .wire import Address

MIN_POLL = 0.05
"""Seconds before the second attempt to connect: a server that restarts is back within moments."""

MAX_POLL = 5.0
"""Longest pause between attempts in seconds."""

DEAD_SERVER_TIMEOUT: Final = 60.0
"""Seconds after which a server is given up that has not been heard of, if nothing else is asked
for: a server that is restarted, or a network that pauses, is back sooner; and users do not wait
for longer."""

CACHE_SIZE: Final = 20 * 1024 * 1024
"""Bytes of the client cache, if nothing else is asked for."""

CHECK_PERCENT: Final = 10
"""Percent of ``blob_cache_size`` after whose addition the size is looked at, likewise."""

_HOST_AND_PORT: Final = re.compile(r"(?:(?P<host>[^/]*):)?(?P<port>\d+)", re.ASCII)


def parse_addresses(addr: Any) -> list[Address]:
    """Return the addresses that *addr* names.

    :param addr: a port on this host; ``(host, port)``, where an empty host means this one; the
        path of a Unix socket; or a sequence of these.
    :raises ConfigurationError: it is none of these, or looks like a slip of the pen.
    """
    if isinstance(addr, (int, str)) or _is_pair(addr):
        return [_parse_address(addr)]
    if isinstance(addr, Sequence) and not isinstance(addr, bytes) and addr:
        if _is_pair(tuple(addr)) and addr[0] and "/" not in addr[0]:
            # It would be a socket in the working directory, and a server on this host.
            raise ConfigurationError(
                "addr",
                f"{addr!r} is a list, whose items are addresses of their own",
                f"for a host and its port write a tuple: {tuple(addr)!r}; "
                f"a socket of that name is {'./' + addr[0]!r}",
            )
        return [_parse_address(item) for item in addr]
    raise _bad_address(addr)


def _is_pair(addr: Any) -> bool:
    return (
        isinstance(addr, tuple)
        and len(addr) == 2
        and (addr[0] is None or isinstance(addr[0], str))
        and _is_integer(addr[1])
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parse_address(addr: Any) -> Address:
    if isinstance(addr, str) and addr:
        if found := _HOST_AND_PORT.fullmatch(addr):
            host, port = found["host"], int(found["port"])
            meant = port if host is None else (host.removeprefix("[").removesuffix("]"), port)
            raise ConfigurationError(
                "addr",
                f"the text {addr!r} would be the path of a Unix socket",
                f"for TCP write {meant!r}; a socket of that name is {'./' + addr!r}",
            )
        return addr
    if _is_integer(addr):
        addr = ("127.0.0.1", addr)
    if _is_pair(addr) and 0 < addr[1] < 65536:
        return (addr[0] or "127.0.0.1", addr[1])
    raise _bad_address(addr)


def _bad_address(addr: Any) -> ConfigurationError:
    return ConfigurationError(
        "addr",
        f"{addr!r} is not an address",
        "give a port, (host, port), the path of a Unix socket, or a list of these",
    )


def _seconds(option: str, value: Any) -> float:
    """Return *value* as a number of seconds.

    :raises ConfigurationError: it is not one, or longer than a thread can wait.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(option, f"{value!r} is not a number of seconds")
    # A comparison with "not a number" is false.
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ConfigurationError(
            option,
            f"{value!r} s is not a time to wait",
            f"it is 0 to {threading.TIMEOUT_MAX:.0f} s",
        )
    return float(value)


def _dead_server_timeout(value: Any) -> float | None:
    """Return the seconds after which a silent server is given up; None: never.

    :raises ConfigurationError: *value* is none of these.
    """
    if value is None:
        return DEAD_SERVER_TIMEOUT
    seconds = _seconds("dead_server_timeout", value)
    if seconds and not is_silence(seconds):
        raise ConfigurationError(
            "dead_server_timeout",
            f"{value!r} s cannot be agreed upon with a server",
            f"give {MIN_SILENCE} to {MAX_SILENCE} s, or 0 to wait for ever",
        )
    return seconds or None


def _refuse_size(option: str, value: Any) -> None:
    if not _is_integer(value) or value < 0:
        raise ConfigurationError(option, f"{value!r} is not a number of bytes")


def refuse_no_text(option: str, value: Any) -> None:
    """Refuse *value* if it is neither a text nor None.

    :raises ConfigurationError: it names *option*.
    """
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(option, f"{value!r} is not a text")


def make_link_options(
    *,
    addr: Any,
    storage: str,
    wait_timeout: float | None,
    read_only: bool,
    read_only_fallback: bool,
    min_disconnect_poll: float | None,
    max_disconnect_poll: float | None,
    ssl: Any,
    ssl_server_hostname: str | None,
    drop_cache_rather_verify: bool,
    database_behind: str,
    dead_server_timeout: float | None = None,
    compression: bool | None = None,
    username: Any = None,
    password: Any = None,
    password_file: Any = None,
    realm: Any = None,
    credentials: Any = None,
) -> LinkOptions:
    """Return how to connect.

    :raises ConfigurationError: a keyword cannot be used.
    """
    if read_only and read_only_fallback:
        raise ConfigurationError(
            "read_only_fallback", "contradicts read_only", "give at most one of the two"
        )
    try:
        tls = to_credentials(ssl)
    except TypeError as error:
        raise ConfigurationError(
            "ssl", str(error), "make one with zeolith.tls() or ssl.create_default_context()"
        ) from error
    if ssl is None and ssl_server_hostname is not None:
        raise ConfigurationError("ssl_server_hostname", "has no effect without ssl")
    refuse_no_text("ssl_server_hostname", ssl_server_hostname)
    if not storage or not isinstance(storage, str):
        raise ConfigurationError("storage", f"{storage!r} is not the name of a storage")
    timeout = 30.0 if wait_timeout is None else _seconds("wait_timeout", wait_timeout)
    shortest, longest = MIN_POLL, MAX_POLL
    if min_disconnect_poll is not None:
        shortest = _seconds("min_disconnect_poll", min_disconnect_poll)
        longest = max(longest, shortest)
    if max_disconnect_poll is not None:
        longest = _seconds("max_disconnect_poll", max_disconnect_poll)
    if not 0 < shortest <= longest:
        raise ConfigurationError(
            "min_disconnect_poll",
            f"{shortest} s is not above 0 and at most max_disconnect_poll ({longest} s)",
        )
    try:
        when_behind = WhenBehind(database_behind)
    except ValueError:
        raise ConfigurationError(
            "database_behind",
            f"{database_behind!r} is unknown",
            "it is one of " + ", ".join(repr(choice.value) for choice in WhenBehind),
        ) from None
    if read_only:
        mode = Mode.READ_ONLY
    else:
        mode = Mode.FALLBACK if read_only_fallback else Mode.WRITABLE
    return LinkOptions(
        addresses=parse_addresses(addr),
        storage=storage,
        mode=mode,
        wait_timeout=timeout,
        min_poll=shortest,
        max_poll=longest,
        ssl=tls,
        ssl_server_hostname=ssl_server_hostname,
        when_behind=when_behind,
        drop_rather_than_verify=bool(drop_cache_rather_verify),
        dead_server_timeout=_dead_server_timeout(dead_server_timeout),
        compression=check_compression(compression),
        principal=make_principal(username, password, password_file, realm, credentials),
    )


def refuse_cache(
    cache: Any,
    cache_size: int,
    client: str | None,
    storage: str,
    var: str | None,
    is_shared: bool = False,
) -> None:
    """Refuse keywords of the cache that cannot be used; nothing is made.

    :raises ConfigurationError: it names the keyword.
    """
    for option, value in (("client", client), ("var", var)):
        refuse_no_text(option, value)
    path = find_path(cache, client, storage, var)
    if cache is not None and not isinstance(cache, str):
        for option, has_effect in (
            ("client", client),
            ("var", var is not None),
            ("cache_size", cache_size != CACHE_SIZE),
            ("shared_cache", is_shared),
        ):
            if has_effect:
                raise ConfigurationError(option, "has no effect with a cache of your own")
    elif is_shared and path is None:
        raise ConfigurationError(
            "shared_cache",
            "has no effect on a temporary cache, which no other process can find",
            "give it a name with client, or a file with cache",
        )
    _refuse_size("cache_size", cache_size)


def refuse_blobs(
    blob_dir: str | None,
    shared_blob_dir: bool,
    blob_cache_size: int | None,
    blob_cache_size_check: int | None = None,
) -> None:
    """Refuse keywords of the blob directory that cannot be used; nothing is made.

    A check after so many percent as are the default is none that was asked for: configurations
    may write out their defaults.

    :raises ConfigurationError: it names the keyword.
    """
    if blob_dir is None:
        for option, value in (
            ("shared_blob_dir", shared_blob_dir),
            ("blob_cache_size", blob_cache_size is not None),
            ("blob_cache_size_check", blob_cache_size_check not in (None, CHECK_PERCENT)),
        ):
            if value:
                raise ConfigurationError(option, "has no effect without blob_dir")
    elif shared_blob_dir and blob_cache_size is not None:
        raise ConfigurationError(
            "blob_cache_size",
            "has no effect on a shared blob directory, which is the server's",
            "leave one of the two out",
        )
    if blob_cache_size is not None:
        _refuse_size("blob_cache_size", blob_cache_size)
    if blob_cache_size_check not in (None, CHECK_PERCENT):
        if blob_cache_size is None:
            raise ConfigurationError(
                "blob_cache_size_check",
                "has no effect without blob_cache_size",
                "the server looks after a shared directory"
                if shared_blob_dir
                else "give a size, or leave it out",
            )
        if not _is_integer(blob_cache_size_check) or not 0 <= blob_cache_size_check < 100:
            raise ConfigurationError(
                "blob_cache_size_check",
                f"{blob_cache_size_check!r} is not a percentage below 100",
            )


def make_blobs(
    blob_dir: str | None,
    shared_blob_dir: bool,
    blob_cache_size: int | None,
    blob_cache_size_check: int | None,
) -> BlobDirectory | None:
    """Return the blob directory that the keywords describe, None for none.

    :raises ConfigurationError: a keyword cannot be used.
    """
    refuse_blobs(blob_dir, shared_blob_dir, blob_cache_size, blob_cache_size_check)
    if blob_dir is None:
        return None
    return BlobDirectory(
        blob_dir,
        shared=bool(shared_blob_dir),
        cache_size=blob_cache_size,
        check_percent=CHECK_PERCENT if blob_cache_size_check is None else blob_cache_size_check,
    )


def refuse_unusable(
    *,
    disconnect_poll: Any,
    debug: Any,
) -> None:
    """Refuse keywords of other generations that can have no effect here.

    :raises ConfigurationError: one of them has a value.
    """
    if disconnect_poll is not None:
        raise ConfigurationError(
            "disconnect_poll", "is not used", "give min_disconnect_poll and max_disconnect_poll"
        )
    if debug:
        raise ConfigurationError(
            "debug", "is not used", "set the level of the logger 'zeolith.client' to DEBUG"
        )
