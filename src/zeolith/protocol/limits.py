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

# -- streams of version 1, the same for both sides -------------------------------------------------

STREAM_FRAME: Final = 32 * 1024
"""Bytes of data in one message of a stream, at most.  Answers to calls go out between two of them,
so this is what a small answer waits for on a slow line; smaller ones cost more to handle."""

STREAM_WINDOW: Final = 256 * 1024
"""Bytes that the sender of a stream may be ahead of its receiver.  Enough for 20 MB a second over a
line of 12 ms; it is memory that the receiver may need, for each stream.  An upload begins with
that much credit."""

BULK_FRAME: Final = 512 * 1024
"""The same between peers that have the capability ``blobs``: the kernel moves the data, so what
costs is the number of messages.  Only a line that takes them within milliseconds gets such long
ones."""

BULK_WINDOW: Final = 2 * 1024 * 1024
"""Bytes that the sender of a blob may be ahead between such peers, if they pass within
:data:`WINDOW_TIME`.  They wait in the system's buffers, or are on their way to a disk."""

WINDOW_TIME: Final = 0.01
"""Seconds in which what the sender of a blob is ahead should have passed: an answer to a call may
have to wait for it."""

MAX_STREAM_CREDIT: Final = 16 * 1024 * 1024
"""Bytes of credit that a receiver may have given and the sender not used: a gigabit line with an
eighth of a second there and back needs no more, and what is far beyond it is no flow control."""

MAX_STREAMS: Final = 64
"""Blobs on their way on one connection in one direction, uploads that no transaction has taken
included.  Each takes a file descriptor at the server."""

MAX_TRANSACTIONS: Final = 32
"""Transactions that one client may have in progress at once.  More than the threads of a process
that commit at the same time, and few enough that each may keep something in the server's memory."""

IDENTITY_SIZE: Final = 16
"""Bytes by which an upload is known on other connections.  Who knows them may go on with it, so
nobody must be able to guess them."""

FIRST_UPLOAD: Final = 1 << 31
"""Numbers of streams from the client begin here, those of streams from the server end here."""

MAX_STREAM_NUMBER: Final = (1 << 32) - 1
