"""Packing a storage of a running server, from outside.

The pack is the call of ZEO's protocol, so it works with any server.  What a Zeolith server says of
itself besides is used for all else: its disk, an estimate, progress.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ZODB.POSException import POSError

from ..client.principal import Principal
from ..config.address import format_address
from ..credentials import Credentials
from ..errors import ClientStorageError, ZeolithError
from ..protocol.inquiry import EstimateInquiry
from .asking import NotAnswering, NotZeolith, Refused, Target, ask_zeolith
from .packtarget import PackTarget
from .status import Status, fetch_status

_LOOK_EVERY: Final = 0.5
_RETRY_EVERY: Final = 0.5
_CONNECT_TIMEOUT: Final = 30.0


class PackFailed(ZeolithError):
    """A storage was not packed; the text says why, and what can be done."""


class Interrupted(ZeolithError):
    """The administrator does not want to wait any longer; the server goes on."""


class Display(Protocol):
    """Where is shown what happens."""

    def say(self, text: str) -> None:
        """Show a line."""

    def progress(self, fraction: float, phase: str) -> None:
        """So much is done: 0 to 1."""


@dataclass(frozen=True)
class Packer:
    """How to pack.

    :ivar when: the time to pack to, in seconds since the epoch.
    :ivar display: where to show what happens.
    :ivar interrupted: set when the administrator does not want to wait any longer.
    :ivar ssl: TLS of a client, or None.
    :ivar server_hostname: the name that the server's certificate must bear; None: the host's own.
    :ivar wait: seconds to wait for a server that does not answer.
    :ivar force: whether to pack although the disk may be too small.
    :ivar principal: who is packing; None: we do not say.
    """

    when: float
    display: Display
    interrupted: threading.Event
    ssl: Credentials | None = None
    server_hostname: str | None = None
    wait: float = 60.0
    force: bool = False
    principal: Principal | None = None

    # -- what can be done ------------------------------------------------------------------------

    def pack(self, target: PackTarget) -> None:
        """Pack; return when it is done.

        :raises PackFailed: it was not packed.
        :raises Interrupted: *interrupted* was set.
        """
        status = self._wait_for(target)
        state = _packing_state(status, target)
        if state is None:
            self.display.say(
                f"{target}: a ZEO server: neither its disk nor its progress can be seen"
            )
        else:
            self._check_idle(target, state)
            self._check_disk(target, state)
        started = time.monotonic()
        before, after = self._watch(target, self._start(target), state is not None)
        seconds = time.monotonic() - started
        self.display.say(f"{target}: packed in {seconds:.1f} s: {_change(before, after)}")

    def estimate(self, target: PackTarget) -> None:
        """Show what a pack would bring, and change nothing.

        :raises PackFailed: it cannot be found out.
        :raises Interrupted: *interrupted* was set; the server goes on to find out.
        """
        state = _packing_state(self._wait_for(target), target)
        if state is None:
            raise PackFailed(f"{target}: a ZEO server cannot tell what a pack would bring")
        self._check_idle(target, state)
        started = time.time()
        try:
            ask_zeolith(self._target(target), EstimateInquiry(target.storage, self.when))
        except (NotAnswering, NotZeolith, Refused) as error:
            raise PackFailed(f"{target}: {_problem(error)}") from error
        while True:
            state = self._look(target) or state
            if not state["is_running"]:
                break
            self.display.progress(state.get("fraction", 0.0), state.get("phase", ""))
            self._pause(_LOOK_EVERY)
        last = state["last"]
        if last is None or last["what"] != "estimate" or last["ended"] < started - 1:
            raise PackFailed(f"{target}: the server was restarted meanwhile")
        if last["error"] is not None:
            raise PackFailed(f"{target}: {last['error']}")
        text = f"{target}: a pack would bring {_change(last['before'], last['after'])}"
        if last["blobs"]:
            text += f"; {last['blobs']} blob files, {last['blob_bytes']:,} bytes, would go"
        disk = state.get("disk")
        if disk:
            text += f"; meanwhile it needs {last['after']:,} bytes, {disk['free']:,} are free"
        self.display.say(text)

    # -- before ----------------------------------------------------------------------------------

    def _target(self, target: PackTarget) -> Target:
        return Target(target.address, self.ssl, self.server_hostname, principal=self.principal)

    def _wait_for(self, target: PackTarget) -> Status:
        deadline = time.monotonic() + self.wait
        is_told = False
        while True:
            try:
                return fetch_status(self._target(target), target.storage, 0)
            except Refused as error:
                raise PackFailed(f"{target}: {_problem(error)}") from error
            except NotAnswering as error:
                # A server that is starting refuses connections; one that accepts them and then
                # says nothing sensible will not change.
                left = deadline - time.monotonic()
                if error.has_connected or left <= 0:
                    waited = f" (waited {self.wait:g} s)" if is_told else ""
                    raise PackFailed(f"{target}: {error.problem}{waited}") from error
                if not is_told:
                    where = format_address(target.address)
                    self.display.say(f"waiting up to {self.wait:g} s for the server at {where}")
                    is_told = True
                self._pause(min(_RETRY_EVERY, left))

    def _check_idle(self, target: PackTarget, state: dict[str, Any]) -> None:
        if state["is_running"]:
            what = "an estimate" if state.get("what") == "estimate" else "a pack"
            raise PackFailed(
                f"{target}: {what} is already running, for {state.get('seconds', 0):.0f} s; "
                "try again when it is done"
            )

    def _check_disk(self, target: PackTarget, state: dict[str, Any]) -> None:
        disk = state.get("disk")
        if not disk or disk["needed"] <= disk["free"]:
            return
        text = (
            f"{target}: the disk may be too small: a pack writes up to {disk['needed']:,} bytes, "
            f"{disk['free']:,} are free"
        )
        if not self.force:
            raise PackFailed(
                f"{text}; --dry-run tells how much it would be, --force packs nevertheless"
            )
        self.display.say(f"{text}; going on because of --force")

    # -- meanwhile -------------------------------------------------------------------------------

    def _start(self, target: PackTarget) -> _Call:
        self.display.say(f"{target}: packing to {_moment(self.when)}")
        return _Call(self, target)

    def _watch(
        self, target: PackTarget, call: _Call, can_look: bool
    ) -> tuple[int | None, int | None]:
        try:
            while not call.ended.wait(_LOOK_EVERY):
                if self.interrupted.is_set():
                    raise Interrupted(
                        f"{target}: not waiting any longer; the server goes on packing"
                    )
                state = self._look(target) if can_look else None
                if state is not None and state["is_running"]:
                    self.display.progress(state.get("fraction", 0.0), state.get("phase", ""))
            if call.error is not None:
                raise PackFailed(f"{target}: {call.error}")
        finally:
            call.close()
        return call.sizes

    def _look(self, target: PackTarget) -> dict[str, Any] | None:
        """Return how the pack is; None if the server does not say so at the moment."""
        try:
            return _packing_state(fetch_status(self._target(target), target.storage, 0), target)
        except (NotAnswering, Refused):
            return None

    def _pause(self, seconds: float) -> None:
        if self.interrupted.wait(seconds):
            raise Interrupted("interrupted")


class _Call:
    """A connection on which a thread of its own waits for a pack.

    :ivar ended: set when it is over.
    :ivar error: why it failed; None if it did not.
    :ivar sizes: bytes of the database before and after, as far as known.
    """

    def __init__(self, packer: Packer, target: PackTarget) -> None:
        self.ended = threading.Event()
        self.error: str | None = None
        self.sizes: tuple[int | None, int | None] = (None, None)
        self._packer = packer
        self._target = target
        self._storage: Any = None
        self._lock = threading.Lock()  # guards the two below
        self._is_closed = False
        threading.Thread(target=self._run, name="zeolith-pack", daemon=True).start()

    def _run(self) -> None:
        from ..client.storage import ClientStorage

        is_packing = False
        try:
            storage = ClientStorage(
                self._target.address,
                self._target.storage,
                wait_timeout=_CONNECT_TIMEOUT,
                # A server that is read-only can be packed all the same.
                read_only=True,
                client_label="zeolith pack",
                ssl=self._packer.ssl,
                ssl_server_hostname=self._packer.server_hostname,
                credentials=self._packer.principal,
            )
            with self._lock:
                self._storage = storage
                if self._is_closed:
                    storage.close()
                    return
            before = storage.getSize()
            is_packing = True
            storage.pack(self._packer.when, wait=True)
            self.sizes = before, storage.getSize()
        except ClientStorageError as error:
            hint = "; the server may go on packing: zeolith status shows it" if is_packing else ""
            self.error = f"{error}{hint}"
        except (POSError, OSError, ValueError) as error:
            self.error = str(error) or type(error).__name__
        finally:
            self.ended.set()

    def close(self) -> None:
        """Give up the connection.  The server goes on with what it does."""
        with self._lock:
            self._is_closed = True
            storage, self._storage = self._storage, None
        if storage is not None:
            storage.close()


def _packing_state(status: Status, target: PackTarget) -> dict[str, Any] | None:
    storage = status.storages.get(target.storage, {})
    state: dict[str, Any] | None = storage.get("packing")
    return state


def _problem(error: ZeolithError) -> str:
    return error.problem if isinstance(error, NotAnswering) else str(error)


def _change(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "its size is not known"
    saved = before - after
    share = f" ({saved / before:.0%})" if before > 0 else ""
    return f"{before:,} bytes before, {after:,} after, {saved:,} less{share}"


def _moment(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
