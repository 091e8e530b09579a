"""Where a server can be reached: sockets, bound here or handed over by whoever started it.

It is apart from the server because binding comes first: before privileges are given up, and
before the storages are opened, so that a server whose address is taken touches no data.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Final

from .listening import (
    OPTION,
    SocketPermissions,
    bind_sockets,
    bound_address,
    listen,
    remove_socket,
)
from .options import Address

MONITOR_OPTION: Final = "monitor-address"


class Endpoint:
    """Bound sockets.  Not for several threads at a time.

    :param sockets: at least one; they belong to the endpoint.
    :param address: where they can be reached.
    :param is_ours: whether the file of a Unix socket is to be removed at the end.
    :param option: what the setting of the address is called, for errors.
    :ivar sockets: the sockets.
    :ivar address: where clients find them, with the real port: the first if there are several.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        address: Address,
        is_ours: bool,
        option: str = OPTION,
    ) -> None:
        self.sockets = list(sockets)
        self.address = address
        self._option = option
        self._inode = os.stat(address).st_ino if is_ours and isinstance(address, str) else 0

    @classmethod
    def bind(
        cls,
        address: Address,
        permissions: SocketPermissions | None = None,
        option: str = OPTION,
    ) -> Endpoint:
        """Return an endpoint at *address*, which is taken from now on.

        :param permissions: of a Unix socket.
        :param option: what the setting is called, for errors.
        :raises ConfigurationError: the address is in use, unknown or not allowed.
        """
        sockets = bind_sockets(address, option, permissions or SocketPermissions())
        return cls(sockets, bound_address(address, sockets), is_ours=True, option=option)

    @classmethod
    def adopt(cls, sockets: Sequence[socket.socket]) -> Endpoint:
        """Return an endpoint of *sockets* that somebody else has bound and looks after."""
        name = sockets[0].getsockname()
        address: Address = os.fsdecode(name) if isinstance(name, (str, bytes)) else name[:2]
        return cls(sockets, address, is_ours=False)

    def listen(self) -> None:
        """Accept connections.

        :raises ConfigurationError: another server has come first.
        """
        listen(self.sockets, self._option)

    def close(self) -> None:
        """Give the address up.  May be called several times."""
        sockets, self.sockets = self.sockets, []
        for sock in sockets:
            sock.close()
        if self._inode and isinstance(self.address, str):
            remove_socket(self.address, self._inode)
            self._inode = 0
