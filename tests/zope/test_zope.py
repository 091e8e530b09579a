"""Real Zope 6 processes at a Zeolith server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.support import users
from tests.support.certificates import Certificates
from tests.support.processes import ServerProcess, is_listening
from tests.support.waiting import wait_until
from tests.support.zopes import ROOT, ZopeProcess, zeolith_section
from tests.zope.conftest import MakeZope


def work_together(first: ZopeProcess, second: ZopeProcess) -> None:
    """Change through one, see it through the other, and undo it there."""
    first.add_folder("folder")
    assert second.has("folder")
    assert not second.has("other")
    second.undo_first("manage_addFolder")
    assert not second.has("folder")
    assert not first.has("folder")
    second.add_folder("folder")
    assert first.has("folder")


def test_what_is_added_through_one_is_seen_through_the_other_and_undone(
    server: ServerProcess, make_zope: MakeZope
) -> None:
    database = zeolith_section(server, "server-sync true")
    with make_zope("one", database) as first, make_zope("two", database) as second:
        work_together(first, second)


@pytest.mark.long
def test_by_a_unix_socket(tmp_path: Path, stack: ExitStack, make_zope: MakeZope) -> None:
    path = str(tmp_path / "zeo.sock")
    stack.enter_context(ServerProcess(tmp_path / "server", socket_path=path))
    database = zeolith_section(path, "server-sync true", "cache-path $INSTANCE/var/main.zec")
    with make_zope("one", database) as first, make_zope("two", database) as second:
        work_together(first, second)
        assert (first.directory / "var" / "main.zec").is_file()


@pytest.mark.long
def test_two_processes_of_one_instance_with_caches_of_their_own(
    server: ServerProcess, make_zope: MakeZope
) -> None:
    """As the first document has it, with ZEO_CLIENT for what it still is for."""
    database = zeolith_section(
        server, "server-sync true", "client $(ZEO_CLIENT)", "var $INSTANCE/var"
    )
    first, second = (
        make_zope("instance", database, environment={"ZEO_CLIENT": name})
        for name in ("8700", "8800")
    )
    with first, second:
        work_together(first, second)
        caches = {path.name for path in (first.directory / "var").glob("*.zec")}
        assert caches == {"8700-1.zec", "8800-1.zec"}
    unnamed = make_zope("instance")
    unnamed.launch()
    assert unnamed.wait() != 0
    assert "ZEO_CLIENT" in unnamed.log()


@pytest.mark.long
def test_the_server_goes_and_comes_back_under_load(
    server: ServerProcess, make_zope: MakeZope
) -> None:
    database = zeolith_section(server, "server-sync true", "wait-timeout 5")
    with make_zope("one", database) as first, make_zope("two", database) as second:
        acknowledged: dict[ZopeProcess, list[str]] = {first: [], second: []}
        is_over = threading.Event()

        def write(zope: ZopeProcess, prefix: str) -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                with suppress(AssertionError, OSError):
                    zope.add_folder(f"{prefix}{number}")
                    acknowledged[zope].append(f"{prefix}{number}")

        writers = [
            threading.Thread(target=write, args=(zope, f"writer{n}x"))
            for n, zope in enumerate((first, second))
        ]
        for writer in writers:
            writer.start()
        try:
            for stop in (server.stop, server.kill, server.stop):
                done = [len(names) for names in acknowledged.values()]
                wait_until(
                    lambda done=done: all(  # type: ignore[misc]
                        len(names) >= before + 5
                        for names, before in zip(acknowledged.values(), done)
                    ),
                    "both write",
                    60,
                )
                stop()
                assert not is_listening(server.address)
                server.start()
        finally:
            is_over.set()
            for writer in writers:
                writer.join(90)
        for zope, other in ((first, second), (second, first)):
            assert [name for name in acknowledged[zope] if not other.has(name)] == []


@pytest.mark.long
def test_it_starts_from_its_cache_while_the_server_is_down(
    server: ServerProcess, make_zope: MakeZope
) -> None:
    database = zeolith_section(server, "client z1", "var $INSTANCE/var", "wait off")
    head = "%import zeolith\n%import zeolith.zope"
    with make_zope("instance", database, head=head) as zope:
        zope.add_folder("folder")
        assert zope.has("folder")
        assert zope.get("/")[0] == 200
        zope.signal(signal.SIGINT)  # on which Zope closes its databases
        assert zope.wait() == 0
    server.stop()
    with make_zope("instance") as zope:
        assert zope.get("/")[0] == 200
        assert zope.has("folder")
        server.start()

        def adds() -> bool:
            with suppress(AssertionError):
                zope.add_folder("later")
                return True
            return False

        wait_until(adds, "it has found the server", 60)
        assert zope.has("later")


@pytest.mark.long
def test_with_tls_and_a_password(tmp_path: Path, stack: ExitStack, make_zope: MakeZope) -> None:
    certificates = Certificates(tmp_path)
    shown = certificates.issue("server", "localhost", "127.0.0.1")
    table = tmp_path / "users"
    users.write(table, users.entry("zope"), users.entry("guest", "read"))
    config = (
        f"authentication-database {table}\n"
        f"<ssl>\ncertificate {shown}\nclient-certificates none\n</ssl>"
    )
    server = stack.enter_context(ServerProcess(tmp_path / "server", config=config))
    password = tmp_path / "password"
    password.write_text(users.PASSWORD + "\n")
    password.chmod(0o600)
    tls = ("<ssl>", f"authenticate {certificates.root}", "</ssl>")
    login = ("username zope", f"password-file {password}", "server-sync true")
    database = zeolith_section(server, *tls, *login)
    with make_zope("one", database) as first, make_zope("two", database) as second:
        work_together(first, second)
    for name, lines, complaint in (
        ("plain", login, "TLS"),
        ("anonymous", tls, "log in"),
        ("wrong", (*tls, "username zope", "password wrong"), "password"),
    ):
        refused = make_zope(name, zeolith_section(server, *lines, "wait-timeout 5"))
        refused.launch()
        assert refused.wait() != 0
        assert complaint in refused.log().splitlines()[-1]


# -- forms that need the import name ZEO -------------------------------------------------------

DROP_IN = ROOT / "dropin" / "src"


def old_zeoclient(server: ServerProcess) -> tuple[str, str]:
    host, port = server.address
    lines = [
        *("<zeoclient>", f"server {host}:{port}", "storage 1", "name zeostorage", "client old"),
        *("var $INSTANCE/var", "cache-size 50MB", "blob-dir $INSTANCE/var/blobs", "</zeoclient>"),
    ]
    return "", "\n".join(lines)


def old_clientstorage(server: ServerProcess) -> tuple[str, str]:
    host, port = server.address
    lines = [
        *("<clientstorage>", f"server {host}:{port}", "cache-path $INSTANCE/var/old-1.zec"),
        *("cache-size 20MB", "wait-timeout 30", "client-label old", "server-sync true"),
        "</clientstorage>",
    ]
    return "%import ZEO\n", "\n".join(lines)


@pytest.mark.long
@pytest.mark.parametrize("form", [old_zeoclient, old_clientstorage])
def test_sections_that_were_written_for_zeo(
    server: ServerProcess,
    make_zope: MakeZope,
    form: Callable[[ServerProcess], tuple[str, str]],
) -> None:
    head, database = form(server)
    first, second = (
        make_zope(name, database, head=f"{head}%import zeolith.zope", path=(DROP_IN,))
        for name in ("one", "two")
    )
    first.launch()
    second.launch()
    first.wait_up()
    second.wait_up()
    first.add_folder("folder")
    wait_until(lambda: second.has("folder"), "the other one sees it")
    second.undo_first("manage_addFolder")
    wait_until(lambda: not first.has("folder"), "it has gone")
    assert (first.directory / "var" / "old-1.zec").is_file()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("ClientStorage(('', port_number))", id="port"),
        pytest.param("ClientStorage(filename)", id="path", marks=pytest.mark.long),
    ],
)
def test_the_module_of_the_first_document(
    tmp_path: Path, stack: ExitStack, make_zope: MakeZope, call: str
) -> None:
    path = str(tmp_path / "zeo.sock")
    by_path = "filename" in call
    server = ServerProcess(tmp_path / "server", socket_path=path if by_path else None)
    stack.enter_context(server)
    zopes = []
    for name in ("8700", "8800"):
        zope = make_zope(
            name,
            "<mappingstorage>\n</mappingstorage>",
            head="%import zeolith.zope",
            environment={"FORCE_PRODUCT_LOAD": "1", "ZEO_CLIENT": name},
            path=(DROP_IN,),
        )
        (zope.directory / "custom_zodb.py").write_text(
            f"port_number = {server.address[1]}\nfilename = {path!r}\n"
            "from ZEO.ClientStorage import ClientStorage\n"
            f"Storage = {call}\n"
        )
        zope.launch()
        zopes.append(zope)
    for zope in zopes:
        zope.wait_up()
    first, second = zopes
    first.add_folder("folder")
    wait_until(lambda: second.has("folder"), "the other one sees it")
    # ZEO_CLIENT names the caches, as the document says; INSTANCE_HOME is where they are.
    for zope, name in zip(zopes, ("8700", "8800")):
        assert [path.name for path in zope.directory.rglob("*.zec")] == [f"{name}-1.zec"]
