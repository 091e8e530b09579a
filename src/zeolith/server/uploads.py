"""Blobs on their way from one client: streams into temporary files, several at once.

The first message of a number opens its stream, within the limits; credit is given as the disk takes
the data.  What has arrived waits for the request that ties it to a transaction; of a short one, in
memory (:mod:`.held`).  One that has an identity may have begun on another connection: see
:mod:`.parking`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from ZODB.POSException import ReadOnlyError, StorageError

from ..errors import IllegalMessage, StreamViolation
from ..protocol.limits import (
    BULK_WINDOW,
    FIRST_UPLOAD,
    MAX_STREAMS,
    STREAM_FRAME,
    STREAM_WINDOW,
)
from ..protocol.messages import MsgId
from ..protocol.streamrequests import StreamCancel, StreamCredit
from ..protocol.streams import Receiver, following
from ..protocol.windows import Window
from .held import HOLD_MARK, SHORT, Held
from .peerlog import peer_logger
from .siphon import PIECE, Siphon
from .upload import Upload
from .workers import JOB_MEMORY, Job

if TYPE_CHECKING:
    from .session import Session

logger = peer_logger(__name__)

INITIAL_CREDIT: Final = STREAM_WINDOW
"""Bytes that a client may send of an upload before it is given credit: part of version 1."""


class _Incoming:
    """One upload.

    :param file: takes it up.
    :ivar is_complete: the client has sent all of it.
    :ivar window: how far the client may be ahead, once a job writes it.
    """

    __slots__ = ("file", "is_complete", "receiver", "window")

    def __init__(self, number: int, file: Upload) -> None:
        self.receiver = Receiver(number, INITIAL_CREDIT)
        self.file = file
        self.window: Window
        self.is_complete = False


class Uploads:
    """All uploads of one client.  Belongs to the loop; files are written on worker threads.

    :param session: the client.
    :ivar held: bytes of memory that uploads take of which no file is begun.
    """

    __slots__ = ("_awaited", "_next", "_open", "_session", "_siphon", "held")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: dict[int, _Incoming] = {}
        # Numbers whose opening is not answered yet; whether the client has given them up.
        self._awaited: dict[int, bool] = {}
        self._next = FIRST_UPLOAD
        # What a thread takes from the socket, or is to look whether to.
        self._siphon: Siphon | None = None
        self.held = 0

    def __len__(self) -> int:
        return len(self._open) + len(self._awaited)

    @property
    def unattached(self) -> int:
        """How many have arrived and wait for the request that ties them to a transaction."""
        return sum(upload.is_complete for upload in self._open.values())

    # -- what the client says ----------------------------------------------------------------------

    def begin(self, number: int, identity: bytes) -> None:
        """A new upload has an identity.

        :raises StreamViolation, ReadOnlyError: as :meth:`received`.
        :raises IllegalMessage: it is not new.
        """
        self._claim(number)
        if self._session.service.parking.knows(self._session, identity):
            raise IllegalMessage("an upload that is not new has to be opened by a call")
        self._begin(number, identity)

    def open(self, msgid: MsgId, number: int, identity: bytes) -> None:
        """The next upload has an identity; answer the call with how much of it is here.

        :raises StreamViolation, ReadOnlyError: as :meth:`received`.
        :raises ValueError: it is open on this connection.
        """
        session = self._session
        self._claim(number)
        session.began()
        self._awaited[number] = False
        found = partial(self._found, msgid, number, identity)
        try:
            session.service.parking.take(session, identity, found)
        except ValueError:
            del self._awaited[number]
            session.ended()
            raise

    def _found(self, msgid: MsgId, number: int, identity: bytes, file: Upload | None) -> None:
        session = self._session
        offset = 0
        is_given_up = self._awaited.pop(number)
        if file is not None:
            file.go_on()
            offset = file.size
            upload = self._add(number, file)
            self._submit(upload, file.reopen, 0)
            session.stats.blobs.resumed += 1
            logger.info("(%s) goes on with an upload behind %d bytes", session.name, offset)
        else:
            upload = self._begin(number, identity)
        session.reply(msgid, {"offset": offset})
        session.ended()
        if is_given_up:
            self.failed(number, "given up before it was answered")

    def received(self, number: int, data: bytes | memoryview) -> None:
        """The next part of an upload has come.

        :raises StreamViolation: it has no place here.
        :raises ReadOnlyError: the client may not write.
        """
        upload = self._find(number)
        receiver, size = upload.receiver, len(data)
        receiver.received(size)
        if not receiver.is_open:
            return  # We have cancelled it; this was on its way.
        lobby = self._session.lobby
        if not upload.file.takes(size, lobby.options.max_blob_size, lobby.tally):
            self._let_go(upload.file)
            self._cancel(receiver)
        elif upload.file.held is None:
            self._submit(upload, partial(upload.file.write, data), size, JOB_MEMORY)
        else:
            self._hold(upload, upload.file.held, data)

    def siphon(
        self,
        number: int,
        left: int,
        longest: int,
        make_source: Callable[[], socket.socket | None],
        ended: Callable[[], None],
    ) -> Siphon | None:
        """Have a thread take what comes of an upload; return None, and do nothing, if it is not one
        whose bytes are wanted, or a thread is still to see that it was to do so before.

        :param left: bytes that are to come of its present message.
        :param longest: bytes of data that a message may have.
        :param make_source: returns what to take it from; None if that cannot be done.
        :param ended: called when nobody takes anything any more.
        :raises OSError: by *make_source*.
        """
        upload = self._open.get(number)
        if (
            self._siphon is not None
            or upload is None
            or not upload.receiver.is_open
            or upload.file.error is not None
            # Sooner here than a thread has begun.
            or (upload.file.held is not None and upload.file.size + left <= SHORT)
        ):
            return None
        session, receiver = self._session, upload.receiver
        most = session.lobby.options.max_blob_size - upload.file.size
        if left > min(receiver.credit, most):
            return None  # more than is legal, or than is taken: the loop says so
        source = make_source()
        if source is None:
            return None
        self._write_held(upload)
        counted = 0

        def count() -> None:
            nonlocal counted
            size, counted = siphon.taken - counted, siphon.taken
            if not size or session.is_lost:
                return
            session.connection.heard()
            receiver.received(size)
            upload.file.takes(size, session.lobby.options.max_blob_size, session.lobby.tally)
            self._took(upload, size)
            if not receiver.is_open:
                siphon.stop()

        def done(result: None, error: Exception | None) -> None:
            self._siphon = None
            siphon.stop()  # if the job was forgotten
            upload.file.error = upload.file.error or error
            count()
            session.check_uploads()
            ended()

        assert session.uploads is not None
        post = session.service.pools.inbox.post
        write, tell = upload.file.write, partial(post, count)
        siphon = Siphon(source, number, left, receiver.credit, most, longest, write, tell)
        self._siphon = siphon
        session.uploads.submit(siphon.run, done, 2 * PIECE)
        return siphon

    def ended(self, number: int) -> None:
        """All of an upload has come.

        :raises StreamViolation: as :meth:`received`.
        """
        upload = self._find(number)
        upload.receiver.end()
        upload.is_complete = True

    def failed(self, number: int, name: str) -> None:
        """The client gives an upload up.

        :param name: its reason.
        :raises StreamViolation: as :meth:`received`.
        """
        if number in self._awaited:
            self._awaited[number] = True
            return
        upload = self._find(number)
        upload.receiver.end()
        del self._open[number]
        logger.info("(%s) gives an upload up: %.80r", self._session.name, name)
        self._discard(upload)

    def forget(self, number: int) -> None:
        """The client gives an upload up, and may not know whether it has ended or even begun it.

        Nothing if there is none: a transaction has it, or it was given up before.

        :raises StreamViolation, ReadOnlyError: as :meth:`received`.
        """
        if number == self._next:
            self._claim(number)
        elif number in self._awaited:
            self._awaited[number] = True
        elif number in self._open:
            upload = self._open.pop(number)
            if not upload.is_complete:
                upload.receiver.end()
            self._discard(upload)

    def take(self, number: int) -> tuple[Upload, int]:
        """Return the file of a complete upload, which the caller owns from now on, and its size.

        The jobs that write it may still be on their way to a worker, or it is held and there are
        none.

        :raises IllegalMessage: there is no such upload, or it is not complete.
        """
        upload = self._open.get(number)
        if upload is None or not upload.is_complete:
            raise IllegalMessage(f"no complete upload has the number {number}")
        del self._open[number]
        if upload.file.held is not None:
            self.held -= upload.file.held.cost  # it waits for a thread from now on
        return upload.file, upload.file.size

    def forget_complete(self) -> None:
        """Remove what is complete and was not taken by the transaction that is over now."""
        for number, upload in list(self._open.items()):
            if upload.is_complete:
                del self._open[number]
                self._discard(upload)

    def release_kept(self) -> list[Upload]:
        """Return those that the client could go on with on another connection, which are not ours
        any more."""
        kept = []
        for number, upload in list(self._open.items()):
            if upload.file.ticket is not None:
                del self._open[number]
                kept.append(upload.file)
        return kept

    def close(self) -> None:
        """The client is gone."""
        for upload in self._open.values():
            self._discard(upload)
        self._open.clear()

    # ----------------------------------------------------------------------------------------------

    def _find(self, number: int) -> _Incoming:
        upload = self._open.get(number)
        if upload is None:
            if number in self._awaited:
                raise StreamViolation(number, "the answer to its opening is not awaited")
            self._claim(number)
            upload = self._begin(number, None)
        return upload

    def _claim(self, number: int) -> None:
        """Let a new upload have *number*."""
        if number != self._next:
            raise StreamViolation(number, "there is none, and it is not the next to be opened")
        if self._session.read_only:
            raise ReadOnlyError("the connection is read-only")
        if len(self) >= MAX_STREAMS:
            raise StreamViolation(number, f"a client may have {MAX_STREAMS} uploads, no more")
        self._next = following(number)

    def _begin(self, number: int, identity: bytes | None) -> _Incoming:
        session = self._session
        file = Upload(session.codec.checksum)
        if identity is not None:
            session.service.parking.enlist(session, identity, file)
        if identity is not None or not session.service.access.has_blobs:
            upload = self._add(number, file)
            self._submit(upload, partial(self._start, file), 0)
        else:
            file.held = Held()
            upload = self._open[number] = _Incoming(number, file)
        return upload

    def _start(self, file: Upload) -> None:
        """Runs on a worker thread."""
        file.start(self._session.service.access.temporary_directory())

    def _add(self, number: int, file: Upload) -> _Incoming:
        upload = self._open[number] = _Incoming(number, file)
        upload.window = Window(self._most_ahead, monotonic())
        return upload

    # -- in memory ---------------------------------------------------------------------------------

    def _hold(self, upload: _Incoming, held: Held, data: bytes | memoryview) -> None:
        """Have *data* wait for the end of a short upload."""
        before = held.cost
        held.add(data)
        self.held += held.cost - before
        if upload.file.size > SHORT or self.held > HOLD_MARK:
            self._write_held(upload)
        else:
            self._session.check_uploads()

    def _write_held(self, upload: _Incoming) -> None:
        """Begin the file of *upload* with what is held of it, if it is."""
        file = upload.file
        held = self._let_go(file)
        if held is None:
            return

        def write() -> None:
            self._start(file)
            for part in held.parts:
                file.write(part)

        upload.window = Window(self._most_ahead, monotonic())
        self._submit(upload, write, file.size, held.overhead)

    def _let_go(self, file: Upload) -> Held | None:
        """Return what is held of *file*, which is not counted here any more; None if it is not
        held."""
        held, file.held = file.held, None
        if held is not None:
            self.held -= held.cost
            self._session.check_uploads()
        return held

    # ----------------------------------------------------------------------------------------------

    @property
    def _most_ahead(self) -> int:
        """Bytes that the client may be ahead with one upload.  Many at once have less each: if all
        were far ahead nothing of the client would be read until the disk has taken them."""
        if self._session.codec.data_frame == STREAM_FRAME:
            return STREAM_WINDOW
        return max(BULK_WINDOW // max(len(self._open), 1), STREAM_WINDOW)

    def _submit(self, upload: _Incoming, job: Job, size: int, overhead: int = 0) -> None:
        session = self._session

        def done(result: None, error: Exception | None) -> None:
            if error is not None and upload.file.error is None:
                upload.file.error = error
            session.check_uploads()
            self._took(upload, size)

        assert session.uploads is not None
        session.uploads.submit(job, done, size + overhead)
        session.check_uploads()

    def _took(self, upload: _Incoming, size: int) -> None:
        """A thread is done with *size* bytes."""
        if self._session.is_lost or not upload.receiver.is_open:
            return
        if upload.file.error is not None:
            # The vote will say it; there is no use in sending more.
            self._cancel(upload.receiver)
        else:
            upload.receiver.consumed(size)
            upload.window.most = self._most_ahead
            upload.window.passed(size, monotonic())
            upload.receiver.window = upload.window.size
            self._grant(upload.receiver)

    def _cancel(self, receiver: Receiver) -> None:
        receiver.cancel()
        self._session.send(self._session.codec.notice(StreamCancel(receiver.number)))

    def _grant(self, receiver: Receiver) -> None:
        size = receiver.due
        if size:
            receiver.grant(size)
            if self._siphon is not None and self._siphon.number == receiver.number:
                self._siphon.limit += size  # before the client knows
            self._session.send(self._session.codec.notice(StreamCredit(receiver.number, size)))

    def _discard(self, upload: _Incoming) -> None:
        session = self._session
        if self._let_go(upload.file) is not None:
            return  # there is no file
        session.service.parking.forget(upload.file)
        assert session.uploads is not None

        def discarded(result: None, error: Exception | None) -> None:
            if error is not None:
                logger.error("(%s) an upload could not be removed: %s", session.name, error)

        session.uploads.submit(upload.file.discard, discarded)


def size_error(size: int, announced: int) -> Exception:
    """Return the error of an upload that is not as long as its client says."""
    error: Exception = StorageError(
        f"a blob of {announced} bytes was announced, {size} bytes have arrived"
    )
    return error
