"""What is known of a client's cache file, as text for a terminal."""

from __future__ import annotations

from ..cache.checking import NO_INDEX
from .cacheinfo import CacheInfo
from .tables import align, duration, moment, printable, size


def render_info(info: CacheInfo) -> str:
    """Return the text for *info*."""
    files = info.files
    rows = [
        ("cache", printable(files.path)),
        ("size", size(files.size)),
        ("in use", _owner(info)),
    ]
    rows += _index(info)
    return "\n".join(align(rows))


def _owner(info: CacheInfo) -> str:
    owner = info.files.owner
    if owner is None:
        return "no"
    return "yes" if owner.pid is None else f"by process {owner.pid}"


def _index(info: CacheInfo) -> list[tuple[str, str]]:
    files, snapshot, contents, saved = info.files, info.files.snapshot, info.contents, info.saved
    if snapshot is None or contents is None or saved is None:
        if files.problem:
            return [("index", f"{files.problem}: it is not used, a client begins with nothing")]
        if files.is_new:
            return [("index", "there is none yet, and nothing in the file")]
        return [("index", NO_INDEX)]
    ago = duration(max(info.now - saved, 0.0))
    tid = snapshot.last_tid.hex()
    when = "none" if info.last_time is None else moment(info.last_time)
    database = snapshot.database
    rows = [
        ("index", f"saved {moment(saved)}, {ago} ago"),
        ("last transaction", f"{tid} ({when})"),
        (
            "database",
            "not known: its server did not say"
            if database is None
            else f"{printable(database.identity)}, epoch {database.epoch}",
        ),
        ("records", f"{contents.current} current, {contents.earlier} earlier"),
        ("bytes used", f"{size(contents.bytes_used)} of {size(snapshot.rings.capacity)}"),
    ]
    if contents.suspects:
        rows.append(("to be verified", f"{contents.suspects} of the current records"))
    if records := contents.current + contents.earlier:
        mean = contents.bytes_used / records
        rows.append(("record", f"{size(contents.biggest)} at most, {size(mean)} on average"))
    return rows
