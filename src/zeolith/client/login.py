"""Logging in on a connection that nobody else uses yet."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from ..errors import IllegalMessage, LoginDelayed, LoginRefused, ProtocolViolation
from ..protocol.hello import Introduction
from ..protocol.login import LoginReply, LoginStep
from ..protocol.peers import ClientPeer, Violated, Welcomed
from ..protocol.scram import NONCE_SIZE, PLAIN, PLUS, ClientExchange
from .principal import Principal

NO_LOGIN = (
    "this server does not ask its clients to log in, so it need not be the one that is meant: "
    "leave out username, or configure its authentication-database"
)


def refuse_login(introduction: Introduction) -> None:
    """Return if a client that does not log in may go on.

    :raises LoginRefused: the server wants clients to log in.
    """
    if introduction.login:
        raise LoginRefused(
            f"the server wants its clients to log in ({', '.join(introduction.login)}): give "
            "username and password, or show a certificate that it knows"
        )


class Conversation:
    """A peer and the socket under it, of which no other thread knows.

    :param receive: returns the next bytes; ``b""`` at the end.
    :param send: sends bytes.
    """

    def __init__(
        self, peer: ClientPeer, receive: Callable[[], bytes], send: Callable[[bytes], object]
    ) -> None:
        self._peer = peer
        self._receive = receive
        self._send = send

    def hear(self) -> object:
        """Return the next event, which must come alone.

        :raises OSError: the connection ended.
        :raises ProtocolViolation: the server broke the protocol.
        """
        while True:
            data = self._receive()
            if not data:
                raise ConnectionResetError("the server closed the connection before it let us in")
            events = self._peer.receive(data)
            if events:
                if isinstance(events[-1], Violated):
                    raise events[-1].error
                if len(events) > 1:
                    raise IllegalMessage("the server says too much before it has let us in")
                return events[0]

    def log_in(self, principal: Principal, binding: bytes | None) -> Welcomed:
        """Wait for the server's hello, which is to come, and log in; return the hello.

        :param binding: of the TLS connection; None without TLS.
        :raises OSError: the connection ended.
        :raises LoginRefused: the server does not let us in, or must not be trusted.
        :raises LoginDelayed: it may do so later.
        """
        try:
            return self._log_in(principal, binding)
        except (LoginRefused, LoginDelayed):
            raise
        except ProtocolViolation as error:
            # It would be the same the next time, and each time a failed log-in to the server.
            raise LoginRefused(f"the server does not log in as it should: {error}") from error

    def _log_in(self, principal: Principal, binding: bytes | None) -> Welcomed:
        welcomed = self.hear()
        if not isinstance(welcomed, Welcomed):
            raise IllegalMessage("the server does not answer our hello")
        offered = welcomed.introduction.mechanisms
        _check_offer(welcomed.introduction, principal)
        exchange = ClientExchange(
            principal.user,
            principal.salted,
            secrets.token_urlsafe(NONCE_SIZE),
            binding,
            PLUS in offered,
        )
        challenge = self._ask(LoginStep(exchange.first(), exchange.mechanism))
        if challenge.is_done:
            raise LoginRefused("the server lets us in without having seen the password")
        final = self._ask(LoginStep(exchange.answer(challenge.data or b"")))
        exchange.check(final.data or b"")
        if not final.is_done:
            raise IllegalMessage("log-in: it does not end")
        self._peer.logged_in()
        return welcomed

    def _ask(self, step: LoginStep) -> LoginReply:
        self._send(self._peer.login_step(step))
        reply = self.hear()
        assert isinstance(reply, LoginReply)  # nothing else is legal while logging in
        if reply.error:
            raise reply.to_error()
        return reply


def _check_offer(introduction: Introduction, principal: Principal) -> None:
    """Check that one can log in as it is wanted.

    :raises LoginRefused: one cannot.
    """
    offered = introduction.mechanisms
    if not offered:
        raise LoginRefused(NO_LOGIN)
    if not {PLAIN, PLUS}.intersection(offered):
        raise LoginRefused(
            f"the server wants its clients to log in by {', '.join(offered)}; this client knows "
            f"{PLUS} and {PLAIN}"
        )
    if principal.realm is not None and introduction.realm != principal.realm:
        raise LoginRefused(
            f"its users belong to the realm {introduction.realm!r}, not {principal.realm!r}: "
            "correct realm, or leave it out"
        )
