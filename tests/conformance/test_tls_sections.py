"""``<ssl>`` sections of ZEO 6.2, read by ZEO and by Zeolith, in both roles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
import ZODB.config
from tests.conformance.clients import FORGIVEN
from tests.support.certificates import Certificates
from tests.support.processes import child_environment, free_port, is_listening
from tests.support.waiting import wait_until

Product: TypeAlias = Literal["zeo", "zeolith"]

PASSWORD = b"correct horse"


def password() -> bytes:
    return PASSWORD


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Serve: TypeAlias = Callable[[Product, str], tuple[str, int]]


@pytest.fixture
def serve(stack: ExitStack, tmp_path: Path) -> Serve:
    """Start a server of either product with an ``<ssl>`` section; return its address."""

    def start(product: Product, section: str) -> tuple[str, int]:
        port = free_port()
        (tmp_path / "zeo.conf").write_text(
            f"<zeo>\naddress 127.0.0.1:{port}\n{section}\n</zeo>\n"
            "<mappingstorage 1>\n</mappingstorage>\n"
        )
        program = ["ZEO.runzeo"] if product == "zeo" else ["zeolith", "serve"]
        with (tmp_path / "log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", *program, "-C", "zeo.conf"],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                env=child_environment(),
            )
        stack.callback(child.wait)
        stack.callback(child.kill)
        wait_until(lambda: child.poll() is not None or is_listening(("127.0.0.1", port)))
        assert child.poll() is None, (tmp_path / "log").read_text()
        return "127.0.0.1", port

    return start


def open_client(product: Product, address: tuple[str, int], section: str) -> Any:
    """Open the storage of a ``<clientstorage>`` section."""
    package = "ZEO" if product == "zeo" else "zeolith"
    return ZODB.config.storageFromString(
        f"%import {package}\n<clientstorage>\nserver {address[0]}:{address[1]}\n"
        f"wait-timeout 20\n{section}\n</clientstorage>\n"
    )


PAIRINGS = [("zeolith", "zeolith"), ("zeo", "zeolith"), ("zeolith", "zeo")]


@pytest.fixture(
    params=[
        pytest.param(pair, id="-to-".join(pair), marks=FORGIVEN[pair[0]])  # type: ignore[index]
        for pair in PAIRINGS
    ]
)
def pair(request: Any) -> tuple[Product, Product]:
    """Client and server."""
    found: tuple[Product, Product] = request.param
    return found


def section(*lines: str) -> str:
    return "\n".join(["<ssl>", *lines, "</ssl>"])


def test_sections_as_zeo_has_them(
    ours: Certificates, serve: Serve, pair: tuple[Product, Product], stack: ExitStack
) -> None:
    """With keys of their own, passwords, a name, and revocation lists among the trusted."""
    client, server = pair
    trusted = Path(ours.root).with_name("trusted.pem")
    trusted.write_bytes(Path(ours.root).read_bytes() + Path(ours.revoke([])).read_bytes())
    function = f"password-function {__name__}.password"
    address = serve(
        server,
        section(
            f"certificate {ours.encrypt(ours.issue('server', 'db.example'), PASSWORD)}",
            function,
            f"authenticate {trusted}",
        ),
    )
    storage = open_client(
        client,
        address,
        section(
            f"certificate {ours.encrypt(ours.issue('client'), PASSWORD)}",
            function,
            f"authenticate {trusted}",
            "server-hostname db.example",
            "check-hostname true",
        ),
    )
    stack.callback(storage.close)
    assert storage.is_connected()
    assert storage.lastTransaction() == b"\0" * 8


def test_a_certificate_that_is_listed_itself(
    ours: Certificates, serve: Serve, pair: tuple[Product, Product], stack: ExitStack
) -> None:
    """How ZEO's documentation does without an authority: each lists the other's certificate."""
    client, server = pair
    certificates = {}
    for name in ("one", "two"):
        certificates[name] = make_self_signed(Path(ours.root).with_name(f"{name}-self.pem"))
    address = serve(
        server,
        section(f"certificate {certificates['one']}", f"authenticate {certificates['two']}"),
    )
    storage = open_client(
        client,
        address,
        section(
            f"certificate {certificates['two']}",
            f"authenticate {certificates['one']}",
            "check-hostname false",
        ),
    )
    stack.callback(storage.close)
    assert storage.is_connected()


def make_self_signed(path: Path) -> str:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
            *("-subj", f"/CN={path.stem}", "-keyout", str(path), "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return str(path)


@pytest.mark.parametrize("product", ["zeo", "zeolith"])
def test_a_server_that_asks_nobody(
    ours: Certificates, serve: Serve, product: Product, stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """ZEO's client wants a certificate in its section: nobody asks for it."""
    address = serve(
        "zeolith",
        section(f"certificate {ours.issue('server', '127.0.0.1')}", "client-certificates none"),
    )
    lines = [f"authenticate {ours.root}"]
    if product == "zeo":
        lines.append(f"certificate {Certificates(Path(ours.root).parent, 'other').issue('x')}")
    storage = open_client(product, address, section(*lines))
    stack.callback(storage.close)
    assert storage.is_connected()
    if product == "zeolith":
        # Nothing but an empty section, where the system trusts the authority.
        monkeypatch.setenv("SSL_CERT_FILE", ours.root)
        for lines in ([], ["authenticate SIGNED"], ["authenticate -"]):
            other = open_client(product, address, section(*lines))
            stack.callback(other.close)
            assert other.is_connected()
