"""Classes whose objects come into conflict, and what becomes of a process that resolves it.

A server's worker process imports this module, so it imports little itself.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

State = dict[str, Any]


class _Plain:
    """The state of an object is a dictionary."""

    def _p_resolveConflict(self, old: State, committed: State, new: State) -> State:  # noqa: N802
        return self.resolve(old, committed, new)

    def resolve(self, old: State, committed: State, new: State) -> State:
        """Return what becomes of the object."""
        raise NotImplementedError


class Counter(_Plain):
    """Adds up."""

    def resolve(self, old: State, committed: State, new: State) -> State:
        value = committed["value"] + new["value"] - old["value"]
        return {**new, "value": value, "pid": os.getpid()}


class Note:
    """Has no idea of conflicts."""


class Stuck(_Plain):
    """Writes its process's id to the file ``path``, and then never ends."""

    def resolve(self, old: State, committed: State, new: State) -> State:
        _tell(new["path"], os.getpid())
        while True:
            pass


class Parent(_Plain):
    """Starts a process that never ends, writes its id to the file ``path``, and never ends."""

    def resolve(self, old: State, committed: State, new: State) -> State:
        child = subprocess.Popen(
            [sys.executable, "-c", "import signal; signal.pause()"], stdin=subprocess.DEVNULL
        )
        _tell(new["path"], child.pid)
        while True:
            pass


class Exiting(_Plain):
    """Ends the process."""

    def resolve(self, old: State, committed: State, new: State) -> NoReturn:
        os._exit(5)


class Crashing(_Plain):
    """Ends the process, as a fault in a library of C does."""

    def resolve(self, old: State, committed: State, new: State) -> NoReturn:
        os.kill(os.getpid(), signal.SIGSEGV)
        signal.pause()
        raise AssertionError


class Quitting(_Plain):
    """Wants to end the process, in the orderly way."""

    def resolve(self, old: State, committed: State, new: State) -> NoReturn:
        sys.exit(6)


class Hungry(_Plain):
    """Takes 500 MB."""

    def resolve(self, old: State, committed: State, new: State) -> State:
        return {**new, "value": len(bytearray(500_000_000))}


class Deep(_Plain):
    """Has a state that is too deep."""

    def resolve(self, old: State, committed: State, new: State) -> State:
        found: State = {}
        for _ in range(1_000_000):
            found = {"inner": found}
        return found


class Raising(_Plain):
    """Has a fault."""

    def resolve(self, old: State, committed: State, new: State) -> NoReturn:
        raise KeyError("a fault of the application")


class Babbling(_Plain):
    """Writes to all that is open."""

    def resolve(self, old: State, committed: State, new: State) -> NoReturn:
        for descriptor in range(1, 64):
            try:
                os.write(descriptor, b"\xff" * 100)
            except OSError:
                continue
        os._exit(0)


class Large(_Plain):
    """Becomes larger than ``size`` bytes."""

    def resolve(self, old: State, committed: State, new: State) -> State:
        return {"value": bytes(new["size"])}


class Payload:
    """Where it is unpickled, the process writes its id to a file.

    :param path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (_tell, (str(self._path), None))


def _tell(path: str, pid: int | None) -> None:
    part = f"{path}.part"
    with open(part, "w", encoding="ascii") as file:
        file.write(str(os.getpid() if pid is None else pid))
    os.rename(part, path)


def record_of(cls: type, state: object) -> bytes:
    """Return the record of an object of that class."""
    return pickle.dumps(cls, 3) + pickle.dumps(state, 3)


def nameless_record(path: Path) -> bytes:
    """Return a record whose class is not plain: to find out runs code; see :class:`Payload`."""
    return pickle.dumps([Payload(path)], 3) + pickle.dumps({}, 3)


def missing_record(state: object) -> bytes:
    """Return the record of an object whose class nobody has."""
    return b"\x80\x03cno_such_module\nNoSuchClass\nq\x00." + pickle.dumps(state, 3)


def state_of(record: bytes) -> Any:
    """Return the state in a record."""
    stop = record.index(b".") + 1
    for end in range(stop, len(record)):
        if record[end - 1 : end] == b"." and record[end : end + 1] == b"\x80":
            return pickle.loads(record[end:])
    raise AssertionError(record)
