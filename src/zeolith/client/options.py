"""The keywords of :class:`.ClientStorage`: what each becomes, or why it cannot be used.

No keyword is ignored: one that would have no effect is refused with an error that says what to do
instead.  The full table is in ``docs/client.md``.
"""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Sequence
from typing import Any

from ..cache import ForeignCache, RingCache
from ..cache.interface import ClientCache
from ..errors import ConfigurationError
from .blobs import BlobDirectory
from .connector import Mode
from .link import LinkOptions
from .verification import WhenBehind
from .wire import Address

MIN_POLL = 0.05
"""Seconds before the second attempt to connect: a server that restarts is back within moments."""

MAX_POLL = 5.0
"""Longest pause between attempts in seconds."""


def parse_addresses(addr: Any) -> list[Address]:
    """Return the addresses that *addr* names.

    :param addr: a port on this host; ``(host, port)``, where an empty host means this one; the
        path of a Unix socket; or a sequence of these.
    :raises ConfigurationError: it is none of these.
    """
    if isinstance(addr, (int, str)) or _is_pair(addr):
        return [_parse_address(addr)]
    if isinstance(addr, Sequence) and not isinstance(addr, bytes) and addr:
        return [_parse_address(item) for item in addr]
    raise _bad_address(addr)


def _is_pair(addr: Any) -> bool:
    return (
        isinstance(addr, tuple)
        and len(addr) == 2
        and (addr[0] is None or isinstance(addr[0], str))
        and isinstance(addr[1], int)
    )


def _parse_address(addr: Any) -> Address:
    if isinstance(addr, str) and addr:
        return addr
    if isinstance(addr, int):
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
) -> LinkOptions:
    """Return how to connect.

    :raises ConfigurationError: a keyword cannot be used.
    """
    if read_only and read_only_fallback:
        raise ConfigurationError(
            "read_only_fallback", "contradicts read_only", "give at most one of the two"
        )
    if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
        raise ConfigurationError(
            "ssl",
            f"{type(ssl).__name__} is no SSL context",
            "make one with ssl.create_default_context()",
        )
    if ssl is None and ssl_server_hostname is not None:
        raise ConfigurationError("ssl_server_hostname", "has no effect without ssl")
    if not storage or not isinstance(storage, str):
        raise ConfigurationError("storage", f"{storage!r} is not the name of a storage")
    timeout = 30.0 if wait_timeout is None else float(wait_timeout)
    if timeout < 0:
        raise ConfigurationError("wait_timeout", "is negative")
    shortest = MIN_POLL if min_disconnect_poll is None else float(min_disconnect_poll)
    longest = max(MAX_POLL, shortest) if max_disconnect_poll is None else float(max_disconnect_poll)
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
        ssl=ssl,
        ssl_server_hostname=ssl_server_hostname,
        when_behind=when_behind,
        drop_rather_than_verify=bool(drop_cache_rather_verify),
    )


def refuse_cache(cache: Any, cache_size: int, client: str | None, var: str | None) -> None:
    """Refuse keywords of the cache that cannot be used; nothing is made.

    :raises ConfigurationError: it names the keyword.
    """
    if isinstance(cache, str):
        raise ConfigurationError(
            "cache",
            "caches in a file of your choice are not available yet",
            "leave it out: the cache lives in a temporary file",
        )
    if client:
        raise ConfigurationError(
            "client",
            "persistent caches are not available yet",
            "leave it out: the cache lives in a temporary file (in the directory 'var', if given)",
        )
    if cache is not None:
        if var is not None:
            raise ConfigurationError("var", "has no effect with a cache of your own")
    elif not isinstance(cache_size, int) or cache_size < 0:
        raise ConfigurationError("cache_size", f"{cache_size!r} is not a number of bytes")


def make_cache(cache: Any, cache_size: int, client: str | None, var: str | None) -> ClientCache:
    """Return the cache that the keywords describe.

    :raises ConfigurationError: a keyword cannot be used.
    """
    refuse_cache(cache, cache_size, client, var)
    return RingCache(cache_size, directory=var) if cache is None else ForeignCache(cache)


def refuse_blobs(blob_dir: str | None, shared_blob_dir: bool, blob_cache_size: int | None) -> None:
    """Refuse keywords of the blob directory that cannot be used together; nothing is made.

    :raises ConfigurationError: it names the keyword.
    """
    if blob_dir is None:
        for option, value in (
            ("shared_blob_dir", shared_blob_dir),
            ("blob_cache_size", blob_cache_size is not None),
        ):
            if value:
                raise ConfigurationError(option, "has no effect without blob_dir")
    elif shared_blob_dir and blob_cache_size is not None:
        raise ConfigurationError(
            "blob_cache_size",
            "has no effect on a shared blob directory, which is the server's",
            "leave one of the two out",
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
    refuse_blobs(blob_dir, shared_blob_dir, blob_cache_size)
    if blob_dir is None:
        return None
    return BlobDirectory(
        blob_dir,
        shared=bool(shared_blob_dir),
        cache_size=blob_cache_size,
        check_percent=10 if blob_cache_size_check is None else blob_cache_size_check,
    )


def refuse_unusable(
    *,
    disconnect_poll: Any,
    credentials: Any,
    username: Any,
    password: Any,
    realm: Any,
    debug: Any,
) -> None:
    """Refuse keywords of other generations that can have no effect here.

    :raises ConfigurationError: one of them has a value.
    """
    if disconnect_poll is not None:
        raise ConfigurationError(
            "disconnect_poll", "is not used", "give min_disconnect_poll and max_disconnect_poll"
        )
    for option, value in (
        ("credentials", credentials),
        ("username", username),
        ("password", password),
        ("realm", realm),
    ):
        if value is not None:
            raise ConfigurationError(
                option,
                "there is no log-in by password yet",
                "authenticate with a client certificate: ssl=…",
            )
    if debug:
        raise ConfigurationError(
            "debug", "is not used", "set the level of the logger 'zeolith.client' to DEBUG"
        )
