"""The operations of one transaction, kept until its vote."""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Final

from ..protocol.messages import CheckCurrentSerial, DeleteObject, Restore, Store, Undo

Operation = Store | Restore | DeleteObject | CheckCurrentSerial | Undo
"""What a transaction log can hold: the requests as they came."""

_CLASSES: Final[tuple[type[Any], ...]] = (Store, Restore, DeleteObject, CheckCurrentSerial, Undo)
_CODES: Final = {cls: code for code, cls in enumerate(_CLASSES)}

# What an operation takes beside its data: the tuple, ids, and their share of the list.
_OVERHEAD: Final = 300


class CommitLog:
    """A sequence of operations, in memory up to a mark and in a temporary file beyond.

    The event loop appends; :meth:`spill` and iteration may run on a worker thread, one at a time
    and never both.  Blocks waiting for :meth:`spill` are still in memory: whoever appends must
    see to it that they do not pile up.

    :param memory: bytes kept in memory.
    :ivar count: operations so far.
    :ivar size: bytes they take, or would in memory.
    :ivar has_only_stores: whether all of them store an object.
    :ivar has_file: whether there is a temporary file, or will be.
    """

    __slots__ = (
        "_blocks",
        "_file",
        "_memory",
        "_recent",
        "_recent_size",
        "_spilled",
        "count",
        "has_file",
        "has_only_stores",
        "size",
    )

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._recent: list[Operation] = []
        self._recent_size = 0
        self._blocks: list[list[Operation]] = []  # full, to be spilled
        self._spilled = 0  # blocks in the file
        self._file: IO[bytes] | None = None
        self.count = 0
        self.size = 0
        self.has_file = False
        self.has_only_stores = True

    def append(self, operation: Operation) -> int:
        """Add *operation*; return the bytes that :meth:`spill` should now move out, mostly 0."""
        if operation.__class__ is Store:
            size = _OVERHEAD + len(operation[2])
        else:
            self.has_only_stores = False
            data = getattr(operation, "data", None)
            size = _OVERHEAD + (len(data) if data else 0)
        self._recent.append(operation)
        self._recent_size += size
        self.count += 1
        self.size += size
        if self._recent_size <= self._memory:
            return 0
        full, self._recent_size = self._recent_size, 0
        self._blocks.append(self._recent)
        self._recent = []
        self.has_file = True
        return full

    def spill(self) -> None:
        """Move the oldest full block to the file.

        :raises OSError: the disk is full, or the like.
        """
        blocks = self._blocks
        if not blocks:
            return  # forgotten
        block = blocks.pop(0)
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="zeolith-commit-")  # noqa: SIM115
        # marshal writes plain tuples only, and reading it back runs no code.
        payload = marshal.dumps([(_CODES[type(op)], *op) for op in block])
        self._file.write(len(payload).to_bytes(8, "big"))
        self._file.write(payload)
        self._spilled += 1

    def forget(self) -> None:
        """Let go of what waits to be spilled: the transaction will not be voted on.

        Belongs to the loop, also while :meth:`spill` runs.
        """
        self._blocks = []

    def __iter__(self) -> Iterator[Operation]:
        """Return the operations in the order in which they were added.

        :raises OSError: the temporary file cannot be read.
        """
        file = self._file
        if file is not None:
            file.seek(0)
            for _ in range(self._spilled):
                size = int.from_bytes(file.read(8), "big")
                for code, *fields in marshal.loads(file.read(size)):
                    yield _CLASSES[code](*fields)
            # Another vote of the same transaction may add to it.
            file.seek(0, 2)
        for block in self._blocks:
            yield from block
        yield from self._recent

    def close(self) -> None:
        """Forget everything."""
        self.has_file = False
        self._recent = []
        self._blocks = []
        if self._file is not None:
            self._file.close()
            self._file = None
