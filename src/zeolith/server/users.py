"""Whom a server knows: the seam between the server and wherever users are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ..protocol.scram import Secret
from ..rights import Rights


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may do something here.

    :ivar name: prepared by ``saslprep``.
    :ivar rights: what he may do.
    :ivar secret: of his password; None if he cannot log in by one.
    """

    name: str
    rights: Rights = field(default_factory=Rights)
    secret: Secret | None = None


class Users(Protocol):
    """The users of a server.  Called on the event loop: answers from memory, or nearly so.

    :ivar realm: what the users belong to; told to clients.
    """

    @property
    def realm(self) -> str:
        """Name of the realm."""

    def find(self, name: str) -> User | None:
        """Return the user of that name."""

    def find_by_certificate(self, names: Iterable[str]) -> User | None:
        """Return the user whom a certificate with these names stands for; None for nobody, or
        for more than one."""

    def find_by_uid(self, uid: int) -> User | None:
        """Return the user that processes of that user id on this machine are."""

    def decoy(self, name: str) -> Secret:
        """Return what is shown for a user who does not exist or has no password."""
