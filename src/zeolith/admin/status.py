"""What a server says of itself, as one shape for both kinds of servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config.address import format_address
from ..protocol.inquiry import ASKED_CONNECTIONS, StatusInquiry
from .asking import NotAnswering, Refused, Target, ask


@dataclass(frozen=True)
class Status:
    """A server as it was a moment ago.

    :ivar server: what concerns it as a whole; None if it is one of ZEO, which does not say.
    :ivar storages: by name; of a ZEO server each has just ``counters``.
    :ivar connections: its connections, as many as were asked for; None if it does not say.
    :ivar left_out: how many more there are.
    """

    server: dict[str, Any] | None
    storages: dict[str, dict[str, Any]]
    connections: list[dict[str, Any]] | None
    left_out: int = 0

    @property
    def is_zeolith(self) -> bool:
        """Whether the server is one of Zeolith, which says all there is."""
        return self.server is not None

    @property
    def outages(self) -> list[str]:
        """Why storages are out of service, for those that are."""
        return [storage["outage"] for storage in self.storages.values() if storage.get("outage")]

    def as_json(self) -> dict[str, Any]:
        """Return all of this as it can be written as JSON."""
        return {
            "server": self.server,
            "storages": self.storages,
            "connections": self.connections,
            "left_out": self.left_out,
        }


def fetch_status(
    target: Target, storage: str | None = None, connections: int = ASKED_CONNECTIONS
) -> Status:
    """Ask a server for its status.

    :param storage: the storage to be told of; None: all.
    :param connections: how many connections are to be described at most.
    :raises NotAnswering: it cannot be reached, or does not answer.
    :raises Refused: it does not serve that storage.
    """
    is_zeolith, content = ask(target, StatusInquiry(storage, connections))
    try:
        if is_zeolith:
            return Status(
                content["server"], content["storages"], content["connections"], content["left_out"]
            )
        for counters in content.values():
            counters["last-transaction"]
    except (KeyError, TypeError) as error:
        problem = f"its answer lacks {error}: it may be newer than this command"
        raise NotAnswering(format_address(target.address), problem, True) from error
    if storage is not None:
        if storage not in content:
            served = ", ".join(sorted(content))
            raise Refused(f"there is no storage {storage!r} here; there are: {served}")
        content = {storage: content[storage]}
    return Status(None, {name: {"counters": found} for name, found in content.items()}, None)
