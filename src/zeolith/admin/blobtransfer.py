"""Blobs from a server into files, and back, for administrators.

No class of the application is imported: a blob is replaced beside its record, which stays as it is.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..errors import ConfigurationError, ZeolithError
from .asking import Target

if TYPE_CHECKING:
    from ..client.storage import ClientStorage

_T = TypeVar("_T")

Progress = Callable[[int, int | None], None]
"""Gets how many bytes have passed, and how many there are; None if that is not known."""

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at how far a transfer is."""


class BlobNotMoved(ZeolithError):
    """A blob could not be fetched or stored; the text says why, for an administrator."""


@dataclass(frozen=True)
class BlobRevision:
    """A revision of a blob.

    :ivar oid: the object.
    :ivar tid: the transaction that wrote it.
    :ivar size: bytes.
    """

    oid: bytes
    tid: bytes
    size: int

    def __str__(self) -> str:
        return f"blob 0x{self.oid.hex()} of transaction 0x{self.tid.hex()}, {self.size} bytes"


@contextmanager
def connected(target: Target, storage: str, directory: str) -> Iterator[ClientStorage]:
    """Connect to a storage of *target*.

    :param directory: where blobs are on their way; an empty one that nobody else uses.
    :raises ClientDisconnected: there is no server, or it does not let us in.
    """
    from ..client.storage import ClientStorage

    client = ClientStorage(
        target.address,
        storage,
        cache_size=1 << 20,
        blob_dir=directory,
        client_label="zeolith blob",
        wait_timeout=target.timeout,
        ssl=target.ssl,
        ssl_server_hostname=target.server_hostname,
        credentials=target.principal,
    )
    try:
        yield client
    finally:
        client.close()


def get_blob(
    client: ClientStorage, oid: bytes, tid: bytes | None, path: str, progress: Progress
) -> BlobRevision:
    """Bring a blob into a file, which is replaced when all of it is there.

    :param tid: the transaction that wrote the revision; None: the current one.
    :param path: the file; in the same file system as the client's directory.
    :raises BlobNotMoved: there is no such blob, or the file cannot be written.
    :raises ClientStorageError: the connection was lost, or the server failed.
    """
    from ZODB.POSException import POSKeyError

    found = _current(client, oid)[1] if tid is None else tid
    blobs = client._blob_directory()

    def look() -> tuple[int, int | None]:
        try:
            download = blobs.download(oid, found)
        except KeyError:
            return 0, None
        return download.received, download.size

    try:
        source = _watched(client, lambda: client.loadBlob(oid, found), look, progress)
    except POSKeyError:
        raise BlobNotMoved(
            f"object 0x{oid.hex()} has no revision 0x{found.hex()} with a blob"
        ) from None
    size = os.stat(source).st_size
    progress(size, size)
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(source, 0o666 & ~mask)
    os.replace(source, path)
    return BlobRevision(oid, found, size)


def replace_blob(
    client: ClientStorage, oid: bytes, path: str, note: str, progress: Progress
) -> BlobRevision:
    """Replace the contents of a blob, in a transaction of its own.

    :param path: a file with the new contents; it stays.
    :param note: what the transaction says of itself.
    :raises BlobNotMoved: there is no such object, it is no blob, or it changed meanwhile.
    :raises ClientStorageError: the connection was lost, or the server failed.
    """
    from ZODB.Connection import TransactionMetaData
    from ZODB.POSException import ConflictError

    data, tid = _current(client, oid)
    meta = TransactionMetaData("", note, {})

    def commit() -> bytes:
        copy = _copy(client, path)
        client.tpc_begin(meta)
        try:
            client.storeBlob(oid, tid, data, copy, "", meta)
            client.tpc_vote(meta)
            return client.tpc_finish(meta)
        except BaseException:
            client.tpc_abort(meta)
            raise

    size = os.stat(path).st_size
    try:
        new_tid = _watched(client, commit, lambda: _sent(client, size), progress)
    except ConflictError:
        raise BlobNotMoved(
            f"blob 0x{oid.hex()} was changed by somebody else meanwhile; nothing was stored"
        ) from None
    progress(size, size)
    return BlobRevision(oid, new_tid, size)


def create_blob(
    client: ClientStorage, key: str, path: str, note: str, progress: Progress
) -> BlobRevision:
    """Store a new blob, under a key of the root object.

    :param key: must not be in use.
    :raises BlobNotMoved: the key is in use, or the root was changed meanwhile.

    Otherwise as :func:`replace_blob`.
    """
    import transaction
    from ZODB import DB
    from ZODB.blob import Blob
    from ZODB.POSException import ConflictError

    def commit() -> tuple[bytes, bytes]:
        manager = transaction.TransactionManager()
        database = DB(client)
        connection = database.open(manager)
        try:
            with manager as current:
                root = connection.root()
                if key in root:
                    raise BlobNotMoved(
                        f"the root object has a key {key!r} already; a blob there can be replaced "
                        "by its object id"
                    )
                current.note(note)
                blob = Blob()
                blob.consumeFile(_copy(client, path))
                root[key] = blob
            oid: bytes = blob._p_oid
            return oid, client.load(oid)[1]
        finally:
            connection.close()

    size = os.stat(path).st_size
    try:
        oid, tid = _watched(client, commit, lambda: _sent(client, size), progress)
    except ConflictError:
        raise BlobNotMoved("the root object was changed by somebody else meanwhile") from None
    progress(size, size)
    return BlobRevision(oid, tid, size)


def parse_oid(text: str) -> bytes:
    """Return the object id that *text* means: hexadecimal, with or without ``0x``.

    :raises ConfigurationError: it means none.
    """
    digits = text.lower().removeprefix("0x")
    try:
        number = int(digits, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64 or not digits.isalnum():
        raise ConfigurationError(
            "OID", f"{text!r} is no object id", "give up to 16 hexadecimal digits, as in 0x1f"
        )
    return number.to_bytes(8, "big")


# ------------------------------------------------------------------------------------------------


def _current(client: ClientStorage, oid: bytes) -> tuple[bytes, bytes]:
    """Return the record of a Blob object, and the transaction that wrote it."""
    from ZODB.blob import is_blob_record
    from ZODB.POSException import POSKeyError

    try:
        data, tid = client.load(oid)
    except POSKeyError:
        raise BlobNotMoved(f"there is no object 0x{oid.hex()} here") from None
    if not is_blob_record(data):
        raise BlobNotMoved(f"object 0x{oid.hex()} is no blob")
    return data, tid


def _copy(client: ClientStorage, path: str) -> str:
    """Return a copy of the file *path*: what is stored as a blob is taken away."""
    target = os.path.join(client.temporaryDirectory(), "upload")
    shutil.copyfile(path, target)
    return target


def _sent(client: ClientStorage, size: int) -> tuple[int, int | None]:
    return min(client._blob_directory().bytes_read, size), size


def _watched(
    client: ClientStorage,
    job: Callable[[], _T],
    look: Callable[[], tuple[int, int | None]],
    progress: Progress,
) -> _T:
    """Return what *job* returns, or raise what it raises; tell how far it is meanwhile.

    Ctrl-C comes here, where it can end a transfer by closing the client.
    """
    results: list[Any] = []
    errors: list[BaseException] = []
    is_over = threading.Event()

    def run() -> None:
        try:
            results.append(job())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            errors.append(error)
        finally:
            is_over.set()

    thread = threading.Thread(target=run, name="zeolith-blob", daemon=True)
    thread.start()
    try:
        while not is_over.wait(LOOK_EVERY):
            progress(*look())
    except BaseException:
        client.close()
        raise
    finally:
        thread.join()
    if errors:
        raise errors[0]
    result: _T = results[0]
    return result
