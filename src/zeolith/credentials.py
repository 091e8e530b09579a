"""What one side of a TLS connection shows and whom it trusts, as long as a process runs.

Certificates are renewed while servers and clients run, so these hold a TLS context's maker rather
than a context: each new connection asks for the present one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl


class Credentials(ABC):
    """The seam for whatever yields TLS contexts."""

    @property
    @abstractmethod
    def context(self) -> ssl.SSLContext:
        """The context for the next connection.  Any thread; does not block."""

    @abstractmethod
    def refresh(self) -> None:
        """Look whether there is something new.  Raises nothing: the present context stays in use
        and the log says why.  Any thread; may block for as long as files and passwords take."""

    @property
    @abstractmethod
    def expires(self) -> float | None:
        """When our own certificate expires, in seconds since the epoch; None if unknown."""

    @property
    @abstractmethod
    def trouble(self) -> str:
        """Why the last :meth:`refresh` kept the old context; empty if it did not."""


class FixedCredentials(Credentials):
    """A context that somebody else has made, and answers for.

    :param context: never replaced.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    def refresh(self) -> None:
        """Nothing changes."""

    @property
    def expires(self) -> float | None:
        return None

    @property
    def trouble(self) -> str:
        return ""


def to_credentials(given: Any) -> Credentials | None:
    """Return what *given*, an SSL context, credentials or None, comes to.

    :raises TypeError: it is something else.
    """
    if given is None or isinstance(given, Credentials):
        return given
    import ssl

    if not isinstance(given, ssl.SSLContext):
        raise TypeError(f"{type(given).__name__} is no SSL context")
    return FixedCredentials(given)
