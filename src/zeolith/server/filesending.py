"""Parts of files into a socket without passing through this process's memory.

The event loop owns the socket and writes what it is given in order.  So a file may go past it only
while it has nothing left to write; the caller sees to that.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final

_UNFIT: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What ``sendfile`` says of a file that cannot be sent in this way."""

_HAS_SENDFILE: Final = hasattr(os, "sendfile") and hasattr(socket, "MSG_MORE")


class FileSender:
    """Another descriptor of a connection's socket, so that a transport that closes its own, and
    gives its number to somebody else, changes nothing for us.  Belongs to the loop's thread.

    :param descriptor: of the connected socket, which does not block.
    :raises OSError: there are no more descriptors.
    """

    __slots__ = ("_socket",)

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))

    def send(self, head: bytes, descriptor: int, offset: int, size: int) -> int:
        """Send *head* and then *size* bytes of an open file; return how many bytes were taken, the
        head's included.

        :raises OSError: the connection is broken, or the file cannot be read.
        """
        try:
            sent = self._socket.send(head, socket.MSG_MORE)
        except (BlockingIOError, InterruptedError):
            return 0
        total = len(head) + size
        while len(head) <= sent < total:
            at = sent - len(head)
            try:
                count = os.sendfile(self._socket.fileno(), descriptor, offset + at, size - at)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno not in _UNFIT:
                    raise
                break  # not from this file system: whoever sends the rest reads it
            if not count:
                break  # the file ends here: whoever sends the rest finds out
            sent += count
        return sent

    def close(self) -> None:
        """Give the descriptor back; may be called again."""
        self._socket.close()


def make_sender(transport: Any) -> FileSender | None:
    """Return what sends files past *transport*; None if it encrypts, or that cannot be done here.

    :raises OSError: there are no more descriptors.
    """
    if not _HAS_SENDFILE or transport.get_extra_info("ssl_object") is not None:
        return None
    sock = transport.get_extra_info("socket")
    return None if sock is None or sock.fileno() < 0 else FileSender(sock.fileno())
