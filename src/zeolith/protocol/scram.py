"""SCRAM-SHA-256 (RFC 5802, RFC 7677): both sides of an exchange, without a network.

::

    client  n,,n=user,r=NONCE                     ClientExchange.first
    server  r=NONCE+MORE,s=SALT,i=COUNT           ServerExchange.challenge
    client  c=BINDING,r=NONCE+MORE,p=PROOF        ClientExchange.answer
    server  v=SIGNATURE                           ServerExchange.finish

The server keeps what proves that a client knows the password, not the password; what travels helps
nobody who listens.  The last message proves to the client that the server is the one that keeps it.

Written here rather than taken from a library, because of what surrounds the arithmetic: names that
do not exist must look like others, a client must not be made to count for ever, and a hostile
message must end in one kind of error.  The tests run it against the library scramp, both ways.

Nothing here is thread-safe; an exchange belongs to one connection.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from ..errors import ConfigurationError, IllegalMessage, LoginRefused, WrongProof
from .binding import BINDING
from .saslprep import saslprep

PLAIN: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"
"""The same, tied to the TLS connection."""

ITERATIONS: Final = 600_000
"""Rounds of hashing that a guess at a password costs who has stolen the user file, and each client
process once: about 130 ms.  It is what OWASP recommends for this hash (2023)."""

MIN_ITERATIONS: Final = 4096
"""What RFC 7677 demands at least.  A client refuses less: somebody in the server's place would ask
for it to make guessing cheap."""

MAX_ITERATIONS: Final = 5_000_000
"""What a client does at most, in about a second, for a server that it does not know yet."""

SALT_SIZE: Final = 16
NONCE_SIZE: Final = 18
"""Random bytes in a nonce; 24 characters on the wire."""

_MAX_NONCE: Final = 128
_MAX_SALT: Final = 256

_PRINTABLE: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_FIRST: Final = re.compile(
    r"(?P<header>(?P<flag>[ny]|p=(?P<name>[A-Za-z0-9.-]+)),(?P<authzid>[^,]*),)"
    r"(?P<bare>n=(?P<user>[^,]+),r=(?P<nonce>[^,]+)(?P<more>,.*)?)"
)
_SERVER_FIRST: Final = re.compile(
    r"r=(?P<nonce>[^,]+),s=(?P<salt>[^,]+),i=(?P<count>[0-9]{1,9})(,.*)?"
)
_FINAL: Final = re.compile(
    r"(?P<bare>c=(?P<binding>[^,]+),r=(?P<nonce>[^,]+)(,[^p].*)?),p=(?P<proof>[^,]+)"
)
_SERVER_FINAL: Final = re.compile(r"v=(?P<signature>[^,]+)(,.*)?")


@dataclass(frozen=True, slots=True)
class Secret:
    """What a server keeps of a password.

    :ivar salt: random bytes.
    :ivar iterations: rounds of hashing.
    :ivar stored_key: verifies a client's proof (32 bytes).
    :ivar server_key: makes the server's own (32 bytes); who has it can play the server.
    """

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """Return the password as it is hashed.  Takes time, and no lock of the interpreter.

    :param password: prepared by :func:`.saslprep`.
    """
    return hashlib.pbkdf2_hmac("sha256", password.encode("utf-8"), salt, iterations)


def make_secret(password: str, salt: bytes, iterations: int = ITERATIONS) -> Secret:
    """Return what a server is to keep of *password*.

    :param salt: random, :data:`SALT_SIZE` bytes.
    :raises ConfigurationError: the password cannot be used, or *iterations* is out of bounds.
    """
    check_iterations(iterations)
    salted = salted_password(saslprep(password, "password"), salt, iterations)
    return Secret(salt, iterations, _stored_key(salted), _digest(salted, b"Server Key"))


def make_decoy(key: bytes, name: str, iterations: int) -> Secret:
    """Return what stands for a user that does not exist, or has no password.

    The same for the same name, as a salt that changes would tell one from a user.

    :param key: secret, of this user file.
    """
    salt = _digest(key, b"salt " + name.encode("utf-8", "surrogatepass"))[:SALT_SIZE]
    # No client can prove that it knows what is hashed to this.
    return Secret(salt, iterations, _digest(key, b"stored" + salt), _digest(key, b"server" + salt))


def check_iterations(iterations: int) -> None:
    """Check that clients will do so many.

    :raises ConfigurationError: they will not.
    """
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ConfigurationError(
            "iterations",
            f"{iterations} is out of bounds",
            f"give {MIN_ITERATIONS} to {MAX_ITERATIONS}",
        )


def _digest(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _stored_key(salted: bytes) -> bytes:
    return hashlib.sha256(_digest(salted, b"Client Key")).digest()


def _xor(one: bytes, two: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, two, strict=True))


def _text(data: bytes, pattern: re.Pattern[str], what: str) -> re.Match[str]:
    try:
        found = pattern.fullmatch(data.decode("utf-8"))
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise IllegalMessage(f"log-in: {what} is malformed")
    return found


def _decode(text: str, what: str, most: int) -> bytes:
    if len(text) > most * 2:
        raise IllegalMessage(f"log-in: {what} is too long")
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise IllegalMessage(f"log-in: {what} is malformed") from None


def _encode(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _nonce(text: str) -> str:
    if len(text) > _MAX_NONCE * 2 or not _PRINTABLE.fullmatch(text):
        raise IllegalMessage("log-in: the nonce is malformed")
    return text


class ClientExchange:
    """The client's side.

    :param user: name, prepared by :func:`.saslprep`.
    :param salted: returns the salted password, given salt and iterations.
    :param nonce: random, printable and without a comma.
    :param binding: hash of the server's certificate; None without TLS.
    :param offers_plus: whether the server says that it can tie the log-in to the connection.
    :ivar mechanism: what the server is to be told.
    """

    def __init__(
        self,
        user: str,
        salted: Callable[[bytes, int], bytes],
        nonce: str,
        binding: bytes | None = None,
        offers_plus: bool = False,
    ) -> None:
        is_bound = binding is not None and offers_plus
        self.mechanism = PLUS if is_bound else PLAIN
        # With "y" the server learns that somebody has kept its offer from us.
        flag = f"p={BINDING}" if is_bound else "n" if binding is None else "y"
        self._header = f"{flag},,"
        self._binding = binding if is_bound and binding is not None else b""
        self._salted = salted
        self._nonce = nonce
        name = user.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={self._nonce}"
        self._signature = b""

    def first(self) -> bytes:
        """Return the first message."""
        return (self._header + self._bare).encode("utf-8")

    def answer(self, challenge: bytes) -> bytes:
        """Return the answer to the server's first message.

        :raises IllegalMessage: that makes no sense.
        :raises LoginRefused: it asks for what a client should not do.
        """
        found = _text(challenge, _SERVER_FIRST, "the challenge")
        nonce, count = _nonce(found["nonce"]), int(found["count"])
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise IllegalMessage("log-in: the challenge belongs to another log-in")
        if not MIN_ITERATIONS <= count <= MAX_ITERATIONS:
            raise LoginRefused(
                f"the server asks for {count} rounds of hashing; this client does "
                f"{MIN_ITERATIONS} to {MAX_ITERATIONS}"
            )
        salt = _decode(found["salt"], "the salt", _MAX_SALT)
        salted = self._salted(salt, count)
        header = _encode(self._header.encode("ascii") + self._binding)
        bare = f"c={header},r={nonce}"
        signed = f"{self._bare},{challenge.decode('utf-8')},{bare}".encode()
        self._signature = _digest(_digest(salted, b"Server Key"), signed)
        key = _digest(salted, b"Client Key")
        proof = _xor(key, _digest(_stored_key(salted), signed))
        return f"{bare},p={_encode(proof)}".encode("ascii")

    def check(self, final: bytes) -> None:
        """Take the server's last message.

        :raises IllegalMessage: it makes no sense.
        :raises LoginRefused: the server does not know the password's hash: it is another one.
        """
        found = _text(final, _SERVER_FINAL, "the server's proof")
        signature = _decode(found["signature"], "the server's proof", 32)
        if not self._signature or not hmac.compare_digest(signature, self._signature):
            raise LoginRefused(
                "the server cannot prove that it knows this user's password: it is not the one "
                "that it should be"
            )


class ServerExchange:
    """The server's side.

    :param mechanism: as the client names it.
    :param message: the client's first one.
    :param bindings: hashes of the certificates that the server may have shown on this connection;
        none without TLS.
    :ivar user: the name that the client gives, prepared.
    :raises IllegalMessage: the message makes no sense.
    :raises LoginRefused: the log-in is tied to another connection, or was kept from being tied.
    """

    def __init__(self, mechanism: str, message: bytes, bindings: Iterable[bytes] = ()) -> None:
        self._bindings = tuple(bindings)
        if mechanism != PLAIN and (mechanism != PLUS or not self._bindings):
            raise IllegalMessage(f"log-in: mechanism {mechanism[:40]!r} was not offered")
        found = _text(message, _FIRST, "the first message")
        if found["authzid"]:
            raise IllegalMessage("log-in: nobody acts for others here")
        if (mechanism == PLUS) is not (found["name"] is not None):
            raise IllegalMessage("log-in: mechanism and channel binding do not fit")
        if found["name"] not in (None, BINDING):
            raise IllegalMessage(f"log-in: {found['name'][:40]} is not known; {BINDING} is")
        if found["flag"] == "y" and self._bindings:
            raise LoginRefused(
                "somebody between client and server has kept the offer of channel binding from "
                "the client"
            )
        self._header = found["header"]
        self._bare = found["bare"]
        self._nonce = _nonce(found["nonce"])
        self.user = _read_name(found["user"])
        self._secret: Secret | None = None
        self._challenge = ""

    def challenge(self, secret: Secret, nonce: str) -> bytes:
        """Return the answer to the first message.

        :param secret: of the user; or a decoy.
        :param nonce: random, printable and without a comma.
        """
        self._secret = secret
        self._nonce += nonce
        salt = _encode(secret.salt)
        self._challenge = f"r={self._nonce},s={salt},i={secret.iterations}"
        return self._challenge.encode("ascii")

    def finish(self, message: bytes) -> bytes:
        """Take the client's last message; return the proof that this is the right server.

        :raises IllegalMessage: the message makes no sense, or belongs to another log-in.
        :raises WrongProof: the client does not know the password.
        :raises LoginRefused: the log-in is tied to another connection.
        """
        secret = self._secret
        assert secret is not None  # challenge() comes first
        found = _text(message, _FINAL, "the proof")
        if not hmac.compare_digest(found["nonce"].encode(), self._nonce.encode()):
            raise IllegalMessage("log-in: the proof belongs to another log-in")
        bound = _decode(found["binding"], "the channel binding", _MAX_SALT)
        header = self._header.encode("utf-8")
        expected = [header]
        if self._header.startswith("p"):
            expected = [header + binding for binding in self._bindings]
        if bound not in expected:
            raise LoginRefused(
                "the log-in was made for a connection to another server: somebody relays it, or "
                "the server's certificate was changed this moment"
            )
        proof = _decode(found["proof"], "the proof", 32)
        signed = f"{self._bare},{self._challenge},{found['bare']}".encode()
        if len(proof) != hashlib.sha256().digest_size:
            raise IllegalMessage("log-in: the proof is malformed")
        key = _xor(proof, _digest(secret.stored_key, signed))
        if not hmac.compare_digest(hashlib.sha256(key).digest(), secret.stored_key):
            raise WrongProof("log-in: wrong name or password")
        return f"v={_encode(_digest(secret.server_key, signed))}".encode("ascii")


def _read_name(text: str) -> str:
    name = text.replace("=2C", ",").replace("=3D", "=") if _is_escaped(text) else ""
    try:
        return saslprep(name, "user")
    except ConfigurationError:
        raise IllegalMessage("log-in: the user's name is malformed") from None


def _is_escaped(text: str) -> bool:
    return re.fullmatch(r"([^=]|=2C|=3D)*", text) is not None
