"""Whether a server answers, asked with nothing but its own configuration at hand."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple

from ..config.address import Address, local_address
from ..config.tls import TlsSettings
from ..errors import ConfigurationError
from ..protocol.inquiry import StatusInquiry
from .asking import NotAnswering, Refused, Target, ask


class Alive(NamedTuple):
    """A server answered.

    :ivar note: what should be known of the way it answered; usually empty.
    """

    note: str = ""


def check_alive(address: Address, tls: TlsSettings | None = None, timeout: float = 5.0) -> Alive:
    """Ask the server at *address* how it is.  Blocks.

    :param tls: what the server's own configuration says of TLS.  Its certificate serves as ours;
        if that is not admitted, the refusal is an answer too.
    :param timeout: seconds for everything together.
    :raises NotAnswering: nobody listens, or does not answer in time.
    """
    context = None if tls is None else _context(tls)
    try:
        ask(Target(local_address(address), context, timeout=timeout), StatusInquiry(connections=0))
    except Refused:
        return Alive("it knows its users, and this command is none of them")
    except NotAnswering as error:
        if context is None or not context.has_met or isinstance(error.__cause__, TimeoutError):
            raise
        return Alive("over TLS; its own certificate is not admitted as a client's")
    return Alive()


class _Context(ssl.SSLContext):
    """Notes that a server has completed a handshake, whatever comes of the connection then.

    With TLS 1.3 that is before the server looks at the client's certificate.
    """

    has_met = False

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        sock = super().wrap_socket(*args, **options)
        self.has_met = True
        return sock


def _context(tls: TlsSettings) -> _Context:
    # A renewed certificate may lie in the file already while the server still shows the old one.
    # Nothing secret is sent, so whom we are talking to need not be proved.
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # The password may be known to the server's user only: its refusal must do, then.  A function
    # may be in a program that is not this one.
    if tls.certificate is not None and tls.password.function is None:
        try:
            context.load_cert_chain(tls.certificate, tls.key, tls.password.asker())
        except (OSError, ConfigurationError):
            # Files that only the server's user may read: likewise.
            pass
    return context
