"""What ZEO's client takes without using it.

Zeolith refuses what would have no effect.  Software and configurations that were written for ZEO
are to run as they are, so where they come in such settings are left out, and the log names each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .options import CACHE_SIZE, CHECK_PERCENT


def leave_out(keywords: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return *keywords* of a client storage without those that ZEO ignores, and why each is out.

    What is the default, and so asks for nothing, stays.
    """
    return _split(keywords, dict(_ineffective(keywords)))


def leave_out_blobs(keywords: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Do what :func:`leave_out` does, for the keywords of blobs alone."""
    return _split(keywords, dict(_ineffective_blobs(keywords)))


def _split(
    keywords: Mapping[str, Any], reasons: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    kept = {name: value for name, value in keywords.items() if name not in reasons}
    return kept, [f"{name} has no effect: {reason}" for name, reason in reasons.items()]


def _ineffective(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if given.get("debug"):
        yield "debug", "set the level of the logger 'zeolith.client' to DEBUG"
    if given.get("disconnect_poll") is not None:
        yield "disconnect_poll", "give min_disconnect_poll and max_disconnect_poll"
    if given.get("ssl") is None and given.get("ssl_server_hostname") is not None:
        yield "ssl_server_hostname", "there is no ssl"
    cache = given.get("cache")
    if cache is not None:
        for name in ("client", "var"):
            if given.get(name):
                yield name, "cache says which one is used"
        if not isinstance(cache, str) and given.get("cache_size", CACHE_SIZE) != CACHE_SIZE:
            yield "cache_size", "the cache is an object with a size of its own"
    yield from _ineffective_blobs(given)


def _ineffective_blobs(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    size, percent = given.get("blob_cache_size"), given.get("blob_cache_size_check")
    is_shared = bool(given.get("shared_blob_dir"))
    if given.get("blob_dir") is None:
        reason = "there is no blob_dir"
        if is_shared:
            yield "shared_blob_dir", reason
    elif is_shared:
        reason = "a shared blob directory is the server's"
    else:
        if size is None and percent not in (None, CHECK_PERCENT):
            yield "blob_cache_size_check", "there is no blob_cache_size"
        return
    if size is not None:
        yield "blob_cache_size", reason
    if percent not in (None, CHECK_PERCENT):
        yield "blob_cache_size_check", reason
