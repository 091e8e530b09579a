"""A line that changes bytes on their way."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

from .raw import Address, connect
from .waiting import DEADLINE


class FlippingLine:
    """Stands between clients and a server, and changes one byte of each of the next connections.

    :param target: the server.
    :ivar address: for clients.
    :ivar upwards: in what clients send: the bytes to change, counted from the connection's first,
        one for each connection from now on.
    :ivar downwards: the same of what the server sends.
    :ivar flipped: how many have been changed.
    """

    def __init__(self, target: Address) -> None:
        self.upwards: list[int] = []
        self.downwards: list[int] = []
        self.flipped = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listener.getsockname()[:2]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = connect(self._target)
            server.settimeout(None)
            self._sockets += [client, server]
            for source, sink, wanted in (
                (client, server, self.upwards),
                (server, client, self.downwards),
            ):
                thread = threading.Thread(
                    target=self._pump, args=(source, sink, wanted), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, wanted: list[int]) -> None:
        passed = 0
        try:
            while data := bytearray(source.recv(1 << 16)):
                if wanted and passed <= wanted[0] < passed + len(data):
                    data[wanted.pop(0) - passed] ^= 1
                    self.flipped += 1
                passed += len(data)
                sink.sendall(data)
        except OSError:
            pass  # one of the two has gone
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already

    def __enter__(self) -> FlippingLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing alone would not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        for thread in self._threads:
            thread.join(DEADLINE)
        for sock in self._sockets:
            sock.close()
