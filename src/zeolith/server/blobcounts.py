"""What there is to say about the blobs of one storage: how many went, what is under way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .parking import Parking
    from .session import Session


class BlobCounts:
    """How many blobs have come and gone since the server started.

    Only the loop's thread writes; any thread may read.

    :ivar received: blobs that clients have sent and made part of a transaction.
    :ivar received_bytes: their bytes.
    :ivar resumed: how often an upload that had been cut off was gone on with.
    :ivar sent: blobs that clients have been sent to their end.
    :ivar sent_bytes: bytes sent, those of transfers that were broken off too.
    """

    __slots__ = ("received", "received_bytes", "resumed", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.received = 0
        self.received_bytes = 0
        self.resumed = 0
        self.sent = 0
        self.sent_bytes = 0

    def has_received(self, size: int) -> None:
        """A blob of *size* bytes has become part of a transaction."""
        self.received += 1
        self.received_bytes += size

    def has_sent(self, size: int, *, is_complete: bool) -> None:
        """A transfer to a client is over, after *size* bytes."""
        self.sent += is_complete
        self.sent_bytes += size


def describe_blobs(
    counts: BlobCounts, sessions: Iterable[Session], parking: Parking
) -> dict[str, Any]:
    """Return the counters as plain values, and what is under way.

    Belongs to the loop's thread.

    :param sessions: the clients of the storage.
    :param parking: uploads that were cut off and are kept.
    :returns: the names of :class:`BlobCounts`; ``arriving`` and ``leaving``: transfers under way;
        ``unattached``: blobs that have arrived and belong to no transaction yet; ``parked`` and
        ``parked_bytes``.
    """
    arriving = leaving = unattached = 0
    for session in sessions:
        transfers = session.transfers
        arriving += transfers.arriving
        leaving += transfers.leaving
        unattached += transfers.unattached
    return {
        "received": counts.received,
        "received_bytes": counts.received_bytes,
        "resumed": counts.resumed,
        "sent": counts.sent,
        "sent_bytes": counts.sent_bytes,
        "arriving": arriving,
        "leaving": leaving,
        "unattached": unattached,
        "parked": len(parking),
        "parked_bytes": parking.size,
    }
