"""SCRAM-SHA-256: the RFC's example, another implementation in both roles, and hostile peers."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

import pytest
import scramp
from hypothesis import given
from hypothesis import strategies as st

from zeolith.errors import ConfigurationError, IllegalMessage, LoginRefused, WrongProof
from zeolith.protocol.saslprep import saslprep
from zeolith.protocol.scram import (
    MAX_ITERATIONS,
    MIN_ITERATIONS,
    PLAIN,
    PLUS,
    ClientExchange,
    Secret,
    ServerExchange,
    make_decoy,
    make_secret,
    salted_password,
)

SALT = b"0123456789abcdef"
BINDING = b"\x05" * 32


def client(
    password: str = "pencil",
    user: str = "user",
    nonce: str = "clientnonce",
    binding: bytes | None = None,
    offers_plus: bool = False,
) -> ClientExchange:
    prepared = saslprep(password, "password")

    def salted(salt: bytes, count: int) -> bytes:
        return salted_password(prepared, salt, count)

    return ClientExchange(user, salted, nonce, binding, offers_plus)


def secret(password: str = "pencil") -> Secret:
    return make_secret(password, SALT, MIN_ITERATIONS)


def run(one: ClientExchange, found: Secret, bindings: tuple[bytes, ...] = ()) -> ServerExchange:
    other = ServerExchange(one.mechanism, one.first(), bindings)
    one.check(other.finish(one.answer(other.challenge(found, "servernonce"))))
    return other


def test_the_example_of_the_rfc() -> None:
    """RFC 7677, section 3."""
    salt = b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81"
    found = make_secret("pencil", salt, 4096)
    one = client(nonce="rOprNGfwEbeRWgbNEkqO")
    assert one.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    other = ServerExchange(PLAIN, one.first())
    assert other.user == "user"
    challenge = other.challenge(found, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert challenge == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    proof = one.answer(challenge)
    assert proof == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    final = other.finish(proof)
    assert final == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    one.check(final)


names = st.text(min_size=1, max_size=20).filter(
    lambda text: not re.search(r"[\x00-\x1f]", text) and _is_usable(text)
)


def _is_usable(text: str) -> bool:
    try:
        saslprep(text, "x")
    except ConfigurationError:
        return False
    return True


@given(names, names)
def test_any_name_and_password(user: str, password: str) -> None:
    user = saslprep(user, "user")
    one = client(password, user)
    assert run(one, secret(password)).user == user


@pytest.mark.parametrize("user", ["a,b=c", "=2C", "=", ",", "Jürgen Müller"])
def test_names_with_what_the_protocol_needs(user: str) -> None:
    assert run(client(user=user), secret()).user == user


# -- the library scramp ------------------------------------------------------------------------


def mechanism(bound: bool) -> Any:
    return scramp.ScramMechanism(PLUS if bound else PLAIN)


@pytest.mark.parametrize("bound", [False, True])
def test_our_client_and_their_server(bound: bool) -> None:
    theirs = mechanism(bound)
    info = theirs.make_auth_info("pencil", iteration_count=4096, salt=SALT)
    channel = ("tls-server-end-point", BINDING) if bound else None
    other = theirs.make_server(lambda name: info, channel_binding=channel)
    one = client(binding=BINDING if bound else None, offers_plus=bound)
    other.set_client_first(one.first().decode())
    other.set_client_final(one.answer(other.get_server_first().encode()).decode())
    one.check(other.get_server_final().encode())


@pytest.mark.parametrize("bound", [False, True])
def test_their_client_and_our_server(bound: bool) -> None:
    channel = ("tls-server-end-point", BINDING) if bound else None
    name = PLUS if bound else PLAIN
    one = scramp.ScramClient([name], "us,er", "pen cil\u2168", channel_binding=channel)
    other = ServerExchange(name, one.get_client_first().encode(), (BINDING,) if bound else ())
    assert other.user == "us,er"
    one.set_server_first(other.challenge(secret("pen cil\u2168"), "more").decode())
    one.set_server_final(other.finish(one.get_client_final().encode()).decode())


def test_we_keep_what_they_keep() -> None:
    _, stored, server, _ = mechanism(False).make_auth_info("pencil", 4096, SALT)
    found = secret()
    assert (found.stored_key, found.server_key) == (stored, server)


# -- what must fail ----------------------------------------------------------------------------


def test_a_wrong_password() -> None:
    with pytest.raises(WrongProof):
        run(client("pencil"), secret("crayon"))


def test_a_user_that_does_not_exist() -> None:
    decoy = make_decoy(b"key", "user", 4096)
    with pytest.raises(WrongProof):
        run(client(), decoy)
    assert decoy == make_decoy(b"key", "user", 4096)
    assert decoy.salt != make_decoy(b"key", "other", 4096).salt
    assert decoy.salt != make_decoy(b"other key", "user", 4096).salt
    assert len(decoy.salt) == len(SALT)
    # Who knows the salt knows no key.
    assert decoy.stored_key != make_decoy(b"other key", "user", 4096).stored_key


def test_a_server_that_does_not_know_the_password() -> None:
    found = secret()
    impostor = Secret(found.salt, found.iterations, found.stored_key, bytes(32))
    with pytest.raises(LoginRefused, match="not the one"):
        run(client(), impostor)


def test_a_proof_does_not_serve_twice() -> None:
    one = client()
    first = one.first()
    other = ServerExchange(PLAIN, first)
    proof = one.answer(other.challenge(secret(), "one"))
    other.finish(proof)
    again = ServerExchange(PLAIN, first)
    again.challenge(secret(), "two")
    with pytest.raises(IllegalMessage, match="another log-in"):
        again.finish(proof)


def test_a_proof_for_the_nonce_of_another_login() -> None:
    """The nonce is changed in the message: then the proof does not fit."""
    one = client()
    other = ServerExchange(PLAIN, one.first())
    proof = one.answer(other.challenge(secret(), "one"))
    again = ServerExchange(PLAIN, one.first())
    again.challenge(secret(), "two")
    with pytest.raises(WrongProof):
        again.finish(proof.replace(b"nonceone", b"noncetwo"))


@pytest.mark.parametrize("count", [1, MIN_ITERATIONS - 1, MAX_ITERATIONS + 1, 999_999_999])
def test_a_client_hashes_neither_too_little_nor_too_much(count: int) -> None:
    one = client()
    one.first()
    with pytest.raises(LoginRefused, match="rounds"):
        one.answer(f"r=clientnonceX,s={b64encode(SALT).decode()},i={count}".encode())


@pytest.mark.parametrize(
    "challenge",
    [
        b"", b"\xff", b"r=other,s=YQ==,i=4096", b"r=clientnonce,s=YQ==,i=4096",
        b"r=clientnonceX,s=@,i=4096", b"r=clientnonceX,s=YQ==,i=-5", b"r=clientnonceX,s=YQ==,i=",
        b"r=clientnonceX,s=YQ==,i=4096x", b"r=clientnonce\0,s=YQ==,i=4096",
        b"r=clientnonce" + b"x" * 300 + b",s=YQ==,i=4096",
        b"r=clientnonceX,s=" + b"YWFh" * 300 + b",i=4096",
        b"m=x,r=clientnonceX,s=YQ==,i=4096", b"e=other-error",
    ],
)  # fmt: skip
def test_challenges_that_make_no_sense(challenge: bytes) -> None:
    one = client()
    one.first()
    with pytest.raises(IllegalMessage):
        one.answer(challenge)


@pytest.mark.parametrize("final", [b"", b"v=", b"v=@", b"e=invalid-proof", b"\xff"])
def test_last_messages_that_make_no_sense(final: bytes) -> None:
    one = client()
    one.answer(ServerExchange(PLAIN, one.first()).challenge(secret(), "x"))
    with pytest.raises(IllegalMessage):
        one.check(final)


def test_a_proof_before_the_challenge() -> None:
    with pytest.raises(LoginRefused):
        client().check(b"v=" + b64encode(bytes(32)))


@pytest.mark.parametrize(
    "first",
    [
        b"", b"n", b"n,,", b"n,,n=,r=x", b"n,,n=u,r=", b"n,a=boss,n=u,r=x", b"x,,n=u,r=x",
        b"n,,m=ext,n=u,r=x", b"n,,n=u=,r=x", b"n,,n=u=2c,r=x", b"n,,n=\x07,r=x", b"n,,n=u,r=\x07",
        b"p=tls-unique,,n=u,r=x", b"p=,,n=u,r=x", b"n,,n=u\xff,r=x", b"n,,n=u,r=" + b"x" * 300,
        b"n,,n=" + b"u" * 2000 + b",r=x",
    ],
)  # fmt: skip
def test_first_messages_that_make_no_sense(first: bytes) -> None:
    with pytest.raises(IllegalMessage):
        ServerExchange(PLAIN, first, (BINDING,))


@pytest.mark.parametrize("name", ["", "PLAIN", "scram-sha-256", PLUS])
def test_mechanisms_that_were_not_offered(name: str) -> None:
    with pytest.raises(IllegalMessage, match="not offered"):
        ServerExchange(name, client().first())


def finals() -> list[Any]:
    good = client()
    other = ServerExchange(PLAIN, good.first())
    proof = good.answer(other.challenge(secret(), "x"))
    cut = [proof[:size] for size in range(len(proof))]
    nonce = b"r=clientnoncex"
    return [
        *cut,
        proof + b"=",
        proof.replace(b"c=biws", b"c=eSws"),
        proof.replace(nonce, nonce + b"\0"),
        b"c=biws," + nonce + b",p=" + b64encode(b"x" * 31),
        b"c=biws," + nonce + b",p=" + b64encode(b"x" * 33),
        b"\xff" + proof,
    ]


@pytest.mark.parametrize("final", finals())
def test_proofs_that_are_damaged(final: bytes) -> None:
    """Whatever is cut off or changed: never accepted, always one of three errors."""
    other = ServerExchange(PLAIN, client().first())
    other.challenge(secret(), "x")
    with pytest.raises((IllegalMessage, WrongProof, LoginRefused)):
        other.finish(final)


# -- channel binding ---------------------------------------------------------------------------


def test_who_can_bind_does() -> None:
    one = client(binding=BINDING, offers_plus=True)
    assert one.mechanism == PLUS
    assert one.first().startswith(b"p=tls-server-end-point,,")
    run(one, secret(), (b"another one" * 3, BINDING))


def test_a_login_that_is_relayed() -> None:
    """Somebody shows the client another certificate, and relays what it says."""
    one = client(binding=b"\x06" * 32, offers_plus=True)
    with pytest.raises(LoginRefused, match="relays"):
        run(one, secret(), (BINDING,))


def test_an_offer_that_was_kept_back() -> None:
    """He keeps the offer of channel binding from the client instead."""
    one = client(binding=b"\x06" * 32, offers_plus=False)
    assert one.mechanism == PLAIN
    with pytest.raises(LoginRefused, match="kept the offer"):
        run(one, secret(), (BINDING,))


def test_the_flag_is_under_the_proof() -> None:
    """He changes the flag, too."""
    one = client(binding=b"\x06" * 32, offers_plus=False)
    other = ServerExchange(PLAIN, one.first().replace(b"y,,", b"n,,"), (BINDING,))
    with pytest.raises(LoginRefused):
        other.finish(one.answer(other.challenge(secret(), "x")))


def test_tls_that_ends_before_the_server() -> None:
    """The server has no TLS, because somebody in front of it has: nothing is to be bound."""
    run(client(binding=BINDING, offers_plus=False), secret())


# -- passwords ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, MIN_ITERATIONS - 1, MAX_ITERATIONS + 1])
def test_rounds_that_no_client_would_do(count: int) -> None:
    with pytest.raises(ConfigurationError, match="out of bounds"):
        make_secret("pencil", SALT, count)


def test_secrets_are_not_shown() -> None:
    found = secret()
    assert repr(found.stored_key) not in repr(found)
    assert "key" not in repr(found)
