"""The door of a server that knows its users: who gets in, and what is said of those who do not.

A peer is known by its certificate or its user id, or it logs in.  Everything here belongs to the
loop's thread and takes no time: what is slow about a password is the client's part.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

from ..errors import IllegalMessage, ProtocolViolation, WrongProof
from ..protocol.login import LoginReply, LoginStep, mechanisms
from ..protocol.scram import NONCE_SIZE, ServerExchange
from .bindings import bindings_of
from .guessing import Guessing
from .identifying import ExtraInfo, identify
from .limitedlog import LimitedLog
from .origins import origin
from .tally import Limit, Tally
from .users import User, Users

logger = logging.getLogger(__name__)

_WRONG: Final = "wrong user name or password"
"""What every client is told that fails: not which of the two, nor that the user has to set a new
password."""


class Door:
    """What the connections of a server share in letting users in.

    :param loop: knows the time.
    :param tally: counts log-ins that have to wait.
    :param attempts: see :class:`.Guessing`.
    :ivar users: who is known.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, users: Users, tally: Tally, attempts: int
    ) -> None:
        self.users = users
        self._loop = loop
        self._tally = tally
        self._guessing = Guessing(attempts)
        self._log = LimitedLog(loop, logger, "peers were not let in")

    def meet(self, extra_info: ExtraInfo, address: str) -> Login:
        """Return what a new connection needs to let its peer in."""
        return Login(self, extra_info, address)

    def warn(self, text: str, *args: object) -> None:
        """Log that somebody was not let in, or refused something; not more than can be read."""
        self._log.warn(text, *args)

    def close(self) -> None:
        """The server ends."""
        self._log.close()

    def take(self, origin: str, name: str) -> float:
        """See :meth:`.Guessing.take`."""
        wait = self._guessing.take(origin, name, self._loop.time())
        if wait:
            self._tally.hit(Limit.LOGINS)
        return wait

    def succeeded(self, origin: str, name: str) -> None:
        """See :meth:`.Guessing.succeeded`."""
        self._guessing.succeeded(origin, name, self._loop.time())


class Login:
    """The way in of one connection.

    :ivar user: who the peer is; None as long as nobody knows.
    :ivar mechanisms: by which it may log in.
    """

    def __init__(self, door: Door, extra_info: ExtraInfo, address: str) -> None:
        self.user: User | None = identify(door.users, extra_info)
        self._door = door
        self._address = address
        self._origin = origin(extra_info("peername"))
        self._bindings = bindings_of(extra_info("ssl_object"))
        self.mechanisms = mechanisms(bool(self._bindings))
        self._exchange: ServerExchange | None = None
        self._found: User | None = None
        self._is_over = False

    def take(self, step: LoginStep) -> LoginReply:
        """Take what the client says; return the answer.

        After an answer with an error the connection is to end.
        """
        try:
            if self._is_over:
                raise IllegalMessage("log-in: it is over")
            if self._exchange is None:
                return self._begin(step)
            return self._end(self._exchange, step)
        except WrongProof:
            self._warn(self._reason())
            return LoginReply(error=_WRONG)
        except ProtocolViolation as error:
            self._warn(str(error))
            return LoginReply(error=str(error))

    def _begin(self, step: LoginStep) -> LoginReply:
        exchange = self._exchange = ServerExchange(step.mechanism or "", step.data, self._bindings)
        wait = self._door.take(self._origin, exchange.user)
        if wait:
            self._warn("too many log-ins from there or in this name have failed")
            self._is_over = True
            return LoginReply(error="too many log-ins have failed", wait=wait)
        self._found = self._door.users.find(exchange.user)
        # Made for everybody: how long it takes must not tell who exists.
        decoy = self._door.users.decoy(exchange.user)
        secret = None if self._found is None else self._found.secret
        return LoginReply(exchange.challenge(secret or decoy, secrets.token_urlsafe(NONCE_SIZE)))

    def _end(self, exchange: ServerExchange, step: LoginStep) -> LoginReply:
        self._is_over = True
        final = exchange.finish(step.data)
        if self._found is None or self._found.secret is None:
            raise WrongProof(_WRONG)
        self.user = self._found
        self._door.succeeded(self._origin, exchange.user)
        logger.debug("(%s) has logged in as %r", self._address, exchange.user)
        return LoginReply(final, is_done=True)

    def _reason(self) -> str:
        if self._found is None:
            return "there is no such user"
        if self._found.secret is None:
            return "this user has no password, or an old one: zeolith user passwd sets one"
        return "the password is wrong"

    def _warn(self, reason: str) -> None:
        name = "" if self._exchange is None else f" as {self._exchange.user[:80]!r}"
        self._door.warn("(%s) log-in%s refused: %s", self._address, name, reason)
