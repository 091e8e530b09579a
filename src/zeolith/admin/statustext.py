"""A status as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ..config.address import format_address
from .status import Status
from .tables import align, duration, moment, printable, size

_COUNTERS: Final = ("loads", "stores", "commits", "aborts", "conflicts", "conflicts_resolved")

_HEADINGS: Final = (
    "number", "label", "address", "user", "storage", "mode", "age", "idle", "transaction",
    "hits", "cache", "unsent",
)  # fmt: skip
_RIGHT: Final = frozenset({0, 6, 7, 9, 10, 11})

MISSING: Final = (
    "This is a ZEO server: it tells its counters only, not its version, sizes, packs, connections "
    "and who holds the commit lock."
)


def render_status(status: Status, *, connections: bool) -> str:
    """Return the text for *status*.

    :param connections: whether to list them.
    """
    lines = _render_server(status)
    for name, storage in sorted(status.storages.items()):
        lines += ["", *_render_storage(name, storage)]
    if connections and status.connections is not None:
        lines += ["", *render_connections(status.connections, status.left_out)]
    if not status.is_zeolith:
        lines += ["", MISSING]
    return "\n".join(lines)


def render_connections(connections: list[dict[str, Any]], left_out: int = 0) -> list[str]:
    """Return a table of connections, as lines.

    :param left_out: how many more there are.
    """
    if not connections:
        return ["no connections"]
    lines = align([_HEADINGS, *map(_row, connections)], _RIGHT)
    if left_out:
        lines.append(f"and {left_out} more")
    return lines


def _row(connection: dict[str, Any]) -> tuple[str, ...]:
    transaction = connection["transaction"]
    storage = connection["storage"]
    if storage is None:
        mode = "connecting"
    else:
        mode = "read-only" if connection["read_only"] else "writable"
    return (
        str(connection["number"]),
        printable(connection["label"]) or "-",
        printable(connection["address"]),
        printable(connection["user"]) or "-",
        "-" if storage is None else printable(storage),
        mode,
        duration(connection["age"]),
        duration(connection["idle"]),
        "-" if transaction is None else _transaction(transaction, connection),
        *_cache(connection.get("cache")),
        size(connection["unsent"]),
    )


def _transaction(first: dict[str, Any], connection: dict[str, Any]) -> str:
    text = f"{printable(first['stage'])} for {duration(first['age'])}"
    # A server of an earlier version has one of each client.
    count = connection.get("transactions", 1)
    return text if count == 1 else f"{text}, {count} in all"


def _cache(cache: dict[str, int] | None) -> tuple[str, str]:
    """Return hit rate and size."""
    if cache is None:
        return "-", "-"
    loads = cache["hits"] + cache["misses"]
    return f"{cache['hits'] / loads:.1%}" if loads else "-", size(cache["used"])


def _render_server(status: Status) -> list[str]:
    server = status.server
    if server is None:
        return ["server    ZEO"]
    traits = [server["loop"]]
    traits += [name for key, name in (("tls", "TLS"), ("read_only", "read-only")) if server[key]]
    if server["is_closing"]:
        traits.append("stopping")
    rows = [
        ("server", f"Zeolith {printable(server['version'])}, {', '.join(map(printable, traits))}"),
        ("process", str(server["pid"])),
        ("address", _address(server["address"])),
    ]
    certificate = server.get("certificate")
    if certificate is not None:
        left = certificate["expires"] - server["now"]
        when = f"in {duration(left)}" if left > 0 else "EXPIRED"
        rows.append(("certificate", f"until {moment(certificate['expires'])}, {when}"))
        if certificate["trouble"]:
            rows.append(("CERTIFICATE", f"not renewed: {printable(certificate['trouble'])}"))
    if server["monitor_address"] is not None:
        rows.append(("monitor", _address(server["monitor_address"])))
    up = duration(server["now"] - server["started"])
    rows += [
        ("started", f"{moment(server['started'])}, {up} ago"),
        ("connections", f"{server['connections']} now, {server['accepted']} since the start"),
    ]
    reached = [(name, count) for name, count in server.get("limits", {}).items() if count]
    if reached:
        rows.append(("limits reached", _counted(reached)))
    return align(rows)


def _address(address: Any) -> str:
    return printable(format_address(address if isinstance(address, str) else tuple(address)))


def _render_storage(name: str, storage: dict[str, Any]) -> list[str]:
    counters = storage["counters"]
    rows = [("storage", printable(name))]
    if storage.get("outage"):
        rows.append(("OUTAGE", printable(storage["outage"])))
    if storage.get("read_only"):
        rows.append(("mode", "read-only"))
    if storage.get("objects") is not None:
        rows.append(("objects", str(storage["objects"])))
        rows.append(("size", size(storage["size"])))
    rows.append(("last transaction", _last_transaction(storage)))
    rows.append(("counting since", printable(str(counters["start"]))))
    rows.append(("clients", _clients(storage)))
    rows.append(("counted", _counted((key, counters[key]) for key in _COUNTERS)))
    if storage.get("extras"):
        rows.append(("also", _counted(storage["extras"].items())))
    rows += _blobs(storage.get("blobs"))
    rows += _tier(storage.get("tier"))
    rows += _packing(storage)
    rows += _commits(storage)
    return align(rows)


def _counted(items: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{value} {printable(key).replace('_', ' ')}" for key, value in items)


def _last_transaction(storage: dict[str, Any]) -> str:
    found = storage.get("last_transaction")
    if found is None:
        return printable(str(storage["counters"]["last-transaction"]))
    when = "none" if found["time"] is None else moment(found["time"])
    return f"{printable(found['tid'])} ({when})"


def _clients(storage: dict[str, Any]) -> str:
    counters = storage["counters"]
    text = f"{counters['connections']}, {counters['active_txns']} in a transaction"
    verifying = storage.get("verifying")
    return f"{text}, {verifying} verifying their caches" if verifying else text


def _blobs(blobs: dict[str, Any] | None) -> list[tuple[str, str]]:
    if blobs is None:
        return []
    text = (
        f"{blobs['received']} received ({size(blobs['received_bytes'])}), "
        f"{blobs['sent']} sent ({size(blobs['sent_bytes'])})"
    )
    # A server of an earlier version does not know all of them.
    names = ("arriving", "leaving", "unattached", "parked", "resumed")
    under_way = [(name, blobs.get(name, 0)) for name in names]
    return [("blobs", ", ".join(filter(None, (text, _counted((n, c) for n, c in under_way if c)))))]


def _tier(tier: dict[str, Any] | None) -> list[tuple[str, str]]:
    if tier is None:
        return []
    rows = []
    if tier["trouble"]:
        rows.append(("OBJECT STORE", printable(tier["trouble"])))
    if tier["files"] is None:
        here = "counting what is here"
    else:
        here = f"{tier['files']} blobs here ({size(tier['bytes'])} of {size(tier['limit'])})"
        here += f", {tier['cold']} there only"
        if tier["pending"]:
            here += f", {tier['pending']} to be uploaded ({size(tier['pending_bytes'])})"
    loads = tier["hits"] + tier["misses"]
    text = (
        f"{here}; {tier['uploads']} uploaded ({size(tier['uploaded_bytes'])}), "
        f"{tier['misses']} of {loads} loads had to wait ({size(tier['fetched_bytes'])}), "
        f"{tier['evicted']} evicted, {tier['swept']} swept, {tier['failures']} failures"
    )
    rows.append(("object store", text))
    return rows


def _packing(storage: dict[str, Any]) -> list[tuple[str, str]]:
    state = storage.get("packing")
    if not state:
        return []
    if state["is_running"]:
        what = state.get("what", "pack")
        phase = state.get("phase") or "starting"
        share = f", {state['fraction']:.0%} done" if "fraction" in state else ""
        since = f", for {duration(state['seconds'])}" if "seconds" in state else ""
        return [("packing", f"{printable(what)}: {printable(phase)}{share}{since}")]
    last = state.get("last")
    if last is None:
        return [("packing", "no, and none since the start")]
    text = f"{printable(last['what'])} ended {moment(last['ended'])} after "
    text += duration(last["seconds"])
    if last["error"] is not None:
        text += f", FAILED: {printable(last['error'])}"
    elif last.get("before") is not None and last.get("after") is not None:
        text += f": {size(last['before'])} before, {size(last['after'])} after"
    return [("packing", f"no; {text}")]


def _commits(storage: dict[str, Any]) -> list[tuple[str, str]]:
    waiting = storage["counters"]["waiting"]
    commits = storage.get("commits")
    if commits is None:
        since = storage["counters"].get("lock_time")
        held = "free" if since is None else f"held since {moment(since)}"
        return [("commit lock", f"{held}, {waiting} waiting")]
    rows = []
    for turn in commits["holders"]:
        rows.append(("commit lock", f"{_turn(turn)}, {waiting} waiting"))
    if not rows:
        rows.append(("commit lock", "free"))
    rows += [("  waits for it", _turn(turn)) for turn in commits["waiting"]]
    return rows


def _turn(turn: dict[str, Any]) -> str:
    who = printable(f"{turn['label']} {turn['address']}".strip()) or "a client"
    return f"{who} (number {turn['number']}), {printable(turn['phase'])} for " + duration(
        turn["seconds"]
    )
