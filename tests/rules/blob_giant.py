"""A client process that commits one large blob, or reads it.

Run as a script: ``commit|read PORT DIRECTORY SIZE [OID TID]``.  Prints the ids of object and
transaction, and by how many bytes the most memory it had grew.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from ZODB.Connection import TransactionMetaData

from zeolith import ClientStorage

_MARK = 64 * 1024 * 1024
_PART = 1 << 20


def peak(pid: int | str = "self") -> int:
    """Return the most bytes of memory that a process had so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def generate(path: Path, size: int) -> None:
    """Make a file of *size* bytes: holes, and a mark here and there that says where it is."""
    with open(path, "wb") as file:
        for at in range(0, size, _MARK):
            file.seek(at)
            file.write(b"here: %d" % at)
        file.truncate(size)


def checksum(path: Path | str) -> str:
    """Return the checksum of a file, read in parts."""
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(_PART):
            found.update(part)
    return found.hexdigest()


def main() -> int:
    what, port, directory, size, *rest = sys.argv[1:]
    base = Path(directory)
    storage = ClientStorage(
        ("127.0.0.1", int(port)), blob_dir=str(base / f"cache-{what}"), wait_timeout=60
    )
    storage.ping()
    if what == "commit":
        source = base / "cache-commit" / "tmp" / "source"
        generate(source, int(size))
        (base / "checksum").write_text(checksum(source))
    before = peak()
    if what == "commit":
        meta = TransactionMetaData()
        oid = storage.new_oid()
        storage.tpc_begin(meta)
        storage.storeBlob(oid, bytes(8), b"record", str(source), "", meta)
        storage.tpc_vote(meta)
        tid = storage.tpc_finish(meta)
    else:
        oid, tid = map(bytes.fromhex, rest)
        path = storage.loadBlob(oid, tid)
    print(oid.hex(), tid.hex(), peak() - before)
    if what == "read":
        assert os.path.getsize(path) == int(size)
        assert checksum(path) == (base / "checksum").read_text()
    storage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
