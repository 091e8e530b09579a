"""What is said to log in, between the hellos and the registration.

::

    client  {mechanism, data}
    server  {data}              or {error}, and the end
    client  {data}
    server  {data, done: true}  or {error}, and the end

Each is the bytes ``zlogin`` and a msgpack map; what ``data`` holds is the mechanism's, see
:mod:`.scram`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..errors import IllegalMessage, LoginDelayed, LoginRefused, ProtocolViolation
from . import msgpacks
from .limits import Limits
from .scram import PLAIN, PLUS

MAGIC: Final = b"zlogin"

_MAX_TEXT: Final = 500
"""Characters of a server's refusal that a client shows."""


class LoginStep(NamedTuple):
    """A client's message.

    :ivar mechanism: with the first one; None with the second.
    :ivar data: for the mechanism.
    """

    data: bytes
    mechanism: str | None = None


class LoginReply(NamedTuple):
    """A server's message.

    :ivar data: for the mechanism; None with a refusal.
    :ivar is_done: whether the client is logged in.
    :ivar error: why it is not.
    :ivar wait: seconds after which it may try again; None: another try is of no use.
    """

    data: bytes | None = None
    is_done: bool = False
    error: str = ""
    wait: float | None = None

    def to_error(self) -> ProtocolViolation:
        """Return what a refusal means for the client."""
        if self.wait is not None:
            return LoginDelayed(self.wait)
        return LoginRefused(self.error)


def mechanisms(is_bound: bool) -> tuple[str, ...]:
    """Return what a server offers.

    :param is_bound: whether a log-in can be tied to the connection.
    """
    return (PLUS, PLAIN) if is_bound else (PLAIN,)


def serialize_step(step: LoginStep) -> bytes:
    """Return the payload of a client's message."""
    said: dict[str, Any] = {"data": step.data}
    if step.mechanism is not None:
        said["mechanism"] = step.mechanism
    return MAGIC + msgpacks.dumps(said)


def parse_step(payload: bytes, limits: Limits) -> LoginStep:
    """Return what a client's payload that begins with :data:`MAGIC` says.

    :raises UndecodableMessage: what follows is no msgpack.
    :raises IllegalMessage: it is no such message.
    """
    said = _parse(payload, limits)
    data, mechanism = said.get("data"), said.get("mechanism")
    if type(data) is not bytes or type(mechanism) not in (str, type(None)):
        raise IllegalMessage("log-in: a message without data")
    return LoginStep(data, mechanism)


def serialize_reply(reply: LoginReply) -> bytes:
    """Return the payload of a server's message."""
    said: dict[str, Any] = {}
    if reply.data is not None:
        said["data"] = reply.data
    if reply.is_done:
        said["done"] = True
    if reply.error:
        said["error"] = reply.error
    if reply.wait is not None:
        said["wait"] = reply.wait
    return MAGIC + msgpacks.dumps(said)


def parse_reply(payload: bytes, limits: Limits) -> LoginReply:
    """Return what a server's payload says.

    :raises UndecodableMessage: what follows the magic is no msgpack.
    :raises IllegalMessage: it is no such message.
    """
    if not payload.startswith(MAGIC):
        raise IllegalMessage("log-in: the server sends something else")
    said = _parse(payload, limits)
    data, error, wait = said.get("data"), said.get("error", ""), said.get("wait")
    if (
        type(error) is not str
        or (type(data) is not bytes and not error)
        or not (wait is None or (type(wait) in (int, float) and 0 <= wait < float("inf")))
    ):
        raise IllegalMessage("log-in: a reply that says nothing")
    if error:
        text = "".join(c if c.isprintable() else "?" for c in error[:_MAX_TEXT])
        return LoginReply(error=text, wait=wait)
    return LoginReply(data, said.get("done") is True)


def _parse(payload: bytes, limits: Limits) -> dict[Any, Any]:
    said = msgpacks.loads(payload[len(MAGIC) :], limits)
    if type(said) is not dict:
        raise IllegalMessage("log-in: not a map")
    return said
