"""One blob on its way from the server into a partial file."""

from __future__ import annotations

from functools import partial

from ..aside import Aside, is_worthwhile
from ..protocol.checksums import Hasher, make_hasher
from .bloblayout import remove
from .blobpartials import PartialFile


class Download:
    """One blob that a load of this process waits for.  Not thread-safe.

    No method raises OSError: the caller is the connection's reader, and a full disk is the
    trouble of the thread that loads this blob, not of everybody who uses the connection.

    :param path: the partial file; nobody else may use it meanwhile.

    :ivar file: there while its stream runs.
    :ivar done: there when the whole stream has been written to it.
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
        "done",
        "error",
        "file",
        "is_resumable",
        "path",
        "received",
        "size",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: PartialFile | None = None
        self.done: PartialFile | None = None
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
            try:
                self.file = PartialFile(self.path)
            except OSError as error:
                self._fail(error)

    def resume(self, algorithm: str | None = None) -> int:
        """Begin, or go on after what has been received before; return how many bytes that is.

        To make a file takes as long as a server's answer: it is opened by :meth:`open`, when the
        server has been asked, or by the first :meth:`write`.

        :param algorithm: by which the checksum of all of it is wanted; if it is not that of what
            has been received before, that is of no use.
        """
        # The last may differ where the thread that wrote it, another one's, was interrupted.
        if self.file is None or algorithm != self._algorithm or self.file.position != self.received:
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
        if self._is_due:
            self.open()
        file = self.file
        if file is None:
            return
        hasher = self._hasher
        if hasher is None and self._algorithm is not None:
            hasher = self._hasher = make_hasher(self._algorithm)
        if hasher is None:
            pass
        elif self._aside is None:
            hasher.update(chunk)
        else:
            self._aside.do(partial(hasher.update, chunk))
        try:
            _write_all(file, chunk)
        except OSError as error:
            self._fail(error)
        self.received += len(chunk)

    @property
    def digest(self) -> bytes | None:
        """The checksum of what has been received; None if it is not wanted."""
        if self._aside is not None:
            self._aside.wait()
        if self._hasher is None:
            return None if self._algorithm is None else make_hasher(self._algorithm).digest()
        return self._hasher.digest()

    def end(self) -> None:
        """The stream is complete, unless it has failed."""
        self._close_aside()
        self.open()  # there may have been nothing to write
        self.done, self.file = self.file, None

    @property
    def is_complete(self) -> bool:
        """The whole stream has been written to the file, which may be installed."""
        return self.done is not None

    def install(self, path: str, mode: int) -> PartialFile:
        """Put the file, which is complete, into its place, and return it; the caller closes it.

        :param mode: its permissions.
        :raises OSError: it could not be done.
        """
        file = self.done
        assert file is not None
        file.seal(self.received, mode)
        file.rename(path)
        self.done = None
        return file

    def drop(self) -> None:
        """Forget what has been received."""
        self._close_aside()
        self._is_due = False
        self.received = 0
        self._hasher = None
        file, self.file, self.done = self.file or self.done, None, None
        if file is not None:
            file.close()
            try:
                remove(file.path)
            except OSError as error:
                self.error = self.error or error

    def abandon(self) -> None:
        """Forget it in a child of a fork: the file is the parent's business."""
        file, self.file, self.done = self.file or self.done, None, None
        if file is not None:
            file.close()

    def _close_aside(self) -> None:
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.close()

    def _fail(self, error: OSError) -> None:
        self.error = error
        self.drop()


def _write_all(file: PartialFile, data: bytes | memoryview) -> None:
    written = file.write(data)
    while written < len(data):
        # A disk that is nearly full takes a part, and refuses the rest the next time.
        written += file.write(memoryview(data)[written:])
