"""Who leads at a storage: a client that the others let go first, as one that creates a database.

Only Zeolith's own protocol has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from .messages import Flow, Form


class TakeLead(NamedTuple):
    """May I lead?  The answer is true or false, and comes at once."""


class GiveLead(NamedTuple):
    """I do not lead any more."""


LEAD_SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    "take_lead": Form("take_lead", TakeLead, Flow.CALL, (), 0),
    "give_lead": Form("give_lead", GiveLead, Flow.CALL, (), 0),
}
"""What a client may ask of a server, by name."""
