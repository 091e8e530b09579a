"""One blob on its way from the server into a partial file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import FileIO

from ..aside import Aside, is_worthwhile
from ..protocol.checksums import Hasher, make_hasher
from .bloblayout import remove


class Download:
    """One blob that a load of this process waits for.  Not thread-safe.

    No method raises OSError: the caller is the connection's reader, and a full disk is the
    trouble of the thread that loads this blob, not of everybody who uses the connection.

    :param path: the partial file; nobody else may use it meanwhile.

    :ivar file: open while its stream runs.
    :ivar is_complete: the whole stream has been written to the partial file.
    :ivar error: why it could not be written.
    :ivar received: bytes of the stream so far.
    :ivar size: bytes of the whole stream; None while that is not known.
    :ivar is_resumable: the end of the connection is not the end of it.
    """

    __slots__ = (
        "_algorithm",
        "_aside",
        "_hasher",
        "_is_due",
        "error",
        "file",
        "is_complete",
        "is_resumable",
        "path",
        "received",
        "size",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: FileIO | None = None
        self.is_complete = False
        self.error: OSError | None = None
        self.received = 0
        self.size: int | None = None
        self.is_resumable = False
        self._algorithm: str | None = None
        self._hasher: Hasher | None = None
        self._aside: Aside | None = None
        self._is_due = False  # the file is to be opened

    def start(self) -> None:
        """Begin anew, whatever has been received before."""
        self._begin()
        self.open()

    def _begin(self) -> None:
        self.error = None
        self.drop()
        self._is_due = True

    def open(self) -> None:
        """Open the file, if that is due."""
        if self._is_due:
            self._is_due = False
            self._attempt(self._open)

    def resume(self, algorithm: str | None = None) -> int:
        """Begin, or go on after what has been received before; return how many bytes that is.

        To make a file takes as long as a server's answer: it is opened by :meth:`open`, when the
        server has been asked, or by the first :meth:`write`.

        :param algorithm: by which the checksum of all of it is wanted; if it is not that of what
            has been received before, that is of no use.
        """
        # The last may differ where the thread that wrote it, another one's, was interrupted.
        if self.file is None or algorithm != self._algorithm or self.file.tell() != self.received:
            self._algorithm = algorithm
            self._begin()
        return self.received

    def expect(self, size: int) -> None:
        """The whole stream has *size* bytes."""
        self.size = size
        if self._aside is None and is_worthwhile(self._algorithm, size - self.received):
            self._aside = Aside()

    def write(self, chunk: bytes | memoryview) -> None:
        """Add the next part, unless the stream has failed.  It has to stay as it is until the next
        call of any method returns."""
        self.open()
        file = self.file
        if file is None:
            return
        if self._hasher is None:
            pass
        elif self._aside is None:
            self._hasher.update(chunk)
        else:
            self._aside.do(partial(self._hasher.update, chunk))
        self._attempt(lambda: _write_all(file, chunk))
        self.received += len(chunk)

    @property
    def digest(self) -> bytes | None:
        """The checksum of what has been received; None if it is not wanted."""
        if self._aside is not None:
            self._aside.wait()
        return None if self._hasher is None else self._hasher.digest()

    def end(self) -> None:
        """The stream is complete, unless it has failed."""
        self._close_aside()
        if self.file is not None:
            self._attempt(self.file.close)
            self.file = None
            self.is_complete = self.error is None

    def drop(self) -> None:
        """Forget what has been received."""
        self._close_aside()
        self.is_complete = self._is_due = False
        self.received = 0
        self._hasher = None if self._algorithm is None else make_hasher(self._algorithm)
        file, self.file = self.file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            # Network file systems report a full disk here.  The file goes anyway.
            self.error = self.error or error
        try:
            remove(self.path)
        except OSError as error:
            self.error = self.error or error

    def _close_aside(self) -> None:
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.close()

    def _open(self) -> None:
        # A partial file of a process that died may be there; the bucket's lock is ours.
        # Unbuffered: chunks are large, and nothing is left to write if the process forks.
        self.file = FileIO(self.path, "wb")

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.error = error
            self.drop()


def _write_all(file: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        # A disk that is nearly full takes a part, and refuses the rest the next time.
        view = view[file.write(view) :]
