"""The limits of the protocol: each has a name, a default and a reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side accepts from its peer.  Checked before memory is taken."""

    max_message_size: int = 256 * 1024 * 1024
    """Bytes of one frame.  ZODB records of some ten megabytes are seen in practice, and a
    transaction's invalidation list takes about 10 bytes per object; 256 MB leaves room for both."""

    max_greeting_size: int = 64
    """Bytes of the first frame.  Everything legal there is a short name."""

    max_depth: int = 32
    """Nesting of tuples, lists and dictionaries.  Real messages nest five deep; transaction
    extension data is the only free-form part."""

    max_items: int = 4_000_000
    """Values in one message, counted over all containers.  The largest real message is the list
    of objects that one transaction changed."""


DEFAULT_LIMITS = Limits()
