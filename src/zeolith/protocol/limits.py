"""The limits of the protocol: each has a name, a default and a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_LOADS: Final = 4096
"""Objects that one message of Zeolith's own protocol asks for, or has in it.  What is asked takes
32 KB then, and one step of a server or client is over in milliseconds; who wants more sends more
messages."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side accepts from its peer.  Checked before memory is taken."""

    max_message_size: int = 256 * 1024 * 1024
    """Bytes of one frame.  ZODB records of some ten megabytes are seen in practice, and a
    transaction's invalidation list takes about 10 bytes per object; 256 MB leaves room for both."""

    max_greeting_size: int = 64
    """Bytes of a server's first frame.  Everything legal there is a short name."""

    max_inquiry_size: int = 4096
    """Bytes of a client's first frame, where it may be an inquiry: a question of a few words, with
    the names of a storage and of a client."""

    max_hello_size: int = 4096
    """Bytes of a hello of Zeolith's own protocol: names and numbers, with room for those of later
    versions."""

    max_register_size: int = 64 * 1024
    """Bytes of one frame that a client sends before it is admitted to a storage: it has nothing to
    say but the storage's name, and nothing is known about it."""

    max_depth: int = 32
    """Nesting of tuples, lists and dictionaries.  Real messages nest five deep; transaction
    extension data is the only free-form part."""

    max_items: int = 4_000_000
    """Values in one message, counted over all containers.  The largest real message is the list
    of objects that one transaction changed."""

    max_containers: int = 250_000
    """Tuples, lists, sets and dictionaries in one message.  A byte can make one that takes 220, so
    they are counted apart.  Real messages with many are lists of dictionaries: undo logs."""


DEFAULT_LIMITS = Limits()
