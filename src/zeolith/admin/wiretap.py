"""A proxy for debugging: passes on what clients and a server say, and reports it decoded.

One task per direction reads, reports and passes on, and reads no further before the receiver has
taken it; so little is held of each connection.  What is passed on is what came, byte for byte.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from ..config.address import Address, format_address
from ..errors import ConfigurationError, ZeolithError
from ..protocol.descriptions import name_of
from ..protocol.transcript import Entry, Transcript

MAX_CONNECTIONS: Final = 100
"""Connections at a time.  Each may hold some MB, if long messages travel on it in pieces."""

_PIECE: Final = 64 * 1024
"""Bytes that are read, and so passed on, at once."""


class CannotListen(ZeolithError):
    """Nobody can be listened to: the address of our own cannot be had."""


class Overheard(NamedTuple):
    """A message on a connection.

    :ivar connection: its number, from 1.
    """

    connection: int
    entry: Entry


class Remark(NamedTuple):
    """The beginning or end of a connection, or why there is none.

    :ivar connection: its number, from 1.
    """

    connection: int
    text: str


Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

Report: TypeAlias = Callable[[Overheard | Remark], None]


class Tally:
    """How many messages of which method there were, and how long.

    :ivar messages: number in all.
    """

    def __init__(self) -> None:
        self.messages = 0
        self._counts: Counter[tuple[str, bool]] = Counter()
        self._sizes: Counter[tuple[str, bool]] = Counter()

    def add(self, entry: Entry) -> None:
        key = name_of(entry), entry.is_from_client
        self.messages += 1
        self._counts[key] += 1
        self._sizes[key] += entry.size

    def as_rows(self) -> list[tuple[str, int, int, int, int]]:
        """Return for each method its name, then messages and bytes from clients, then from the
        server; those with the most bytes first."""
        rows = [
            (
                name,
                self._counts[name, True],
                self._sizes[name, True],
                self._counts[name, False],
                self._sizes[name, False],
            )
            for name in {name for name, _ in self._counts}
        ]
        return sorted(rows, key=lambda row: (-row[2] - row[4], row[0]))


class Wiretap:
    """Stands between clients and a server.  Used in one event loop.

    :param target: where the server listens.
    :param report: gets what happens, in the order in which it is passed on.

    :ivar tally: what has been reported.
    """

    def __init__(self, target: Address, report: Report) -> None:
        self._target = target
        self._report = report
        self.tally = Tally()
        self._connections: set[asyncio.Task[None]] = set()
        self._count = 0
        self._is_closing = False
        self._listener: asyncio.Server | None = None
        self._path: str | None = None

    async def listen(self, address: Address) -> Address:
        """Begin to accept clients; return where.

        :param address: port 0 lets the system choose.
        :raises CannotListen: the address cannot be had.
        :raises ConfigurationError: a file is in the way of the socket.
        """
        try:
            if isinstance(address, str):
                if os.path.lexists(address):
                    raise ConfigurationError(
                        "--listen", f"{address} exists", "name a path where nothing is"
                    )
                self._listener = await asyncio.start_unix_server(self._accept, address)
                self._path = address
                return address
            host, port = address
            self._listener = await asyncio.start_server(self._accept, host or None, port)
        except OSError as error:
            raise CannotListen(f"cannot listen at {format_address(address)}: {error}") from error
        found = self._listener.sockets[0].getsockname()
        return found[0], found[1]

    async def close(self) -> None:
        """End all connections, whatever is still on its way on them, and listen no more."""
        self._is_closing = True
        if self._listener is not None:
            self._listener.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        # A task of our own: the listener's would complain that close() cancels it.
        task = asyncio.create_task(self._serve(self._count, (reader, writer)))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, number: int, client: Streams) -> None:
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                self._report(Remark(number, f"refused: {MAX_CONNECTIONS} connections are open"))
                return
            try:
                server = await _connect(self._target)
            except (OSError, UnicodeError) as error:
                where = format_address(self._target)
                self._report(Remark(number, f"refused: cannot connect to {where}: {error}"))
                return
            try:
                self._report(Remark(number, "connected"))
                await self._join(number, client, server)
            finally:
                await self._end(server[1])
        finally:
            await self._end(client[1])

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        """Close *writer*; at the end of all without waiting for a peer that does not read."""
        if self._is_closing:
            writer.transport.abort()
        else:
            writer.close()
        try:
            with suppress(OSError):  # it was closed by the peer
                await writer.wait_closed()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise

    async def _join(self, number: int, client: Streams, server: Streams) -> None:
        transcript = Transcript()
        how = "closed"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(number, transcript, True, client[0], server[1]))
                group.create_task(self._pass_on(number, transcript, False, server[0], client[1]))
        except* OSError as errors:
            how = f"broken: {errors.exceptions[0]}"
        lost = [
            f"{count} bytes of the {who} not decoded"
            for who, count in (
                ("client", transcript.undecoded(True)),
                ("server", transcript.undecoded(False)),
            )
            if count
        ]
        self._report(Remark(number, "; ".join([how, *lost])))

    async def _pass_on(
        self,
        number: int,
        transcript: Transcript,
        is_from_client: bool,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(_PIECE):
            for entry in transcript.feed(is_from_client, data):
                self.tally.add(entry)
                self._report(Overheard(number, entry))
            writer.write(data)
            await writer.drain()
        # The other direction may have something to say yet.
        if writer.can_write_eof():
            writer.write_eof()


async def _connect(address: Address) -> Streams:
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)
