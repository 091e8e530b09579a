"""Zope processes that start together on an empty database."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.support.processes import ServerProcess
from tests.support.waiting import wait_until
from tests.support.zopes import ROOT, START, ZopeProcess, zeolith_section, zope_bin
from tests.zope.conftest import MakeZope

from zeolith.client.storage import ClientStorage

HEAD = "%import zeolith\n%import zeolith.zope"
INITIALISES = "this process initialises the database"

# Imported by a zope.conf: a process that is killed when it has done half of its work.
DYING = """
import os, signal, time
import OFS.Application

commit = OFS.Application.AppInitializer.commit

def commit_and_die(self, note):
    commit(self, note)
    if note == "Added virtual_hosting":
        while not os.path.exists(os.environ["MAY_DIE"]):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

OFS.Application.AppInitializer.commit = commit_and_die
"""


def descriptions(server: ServerProcess) -> list[str]:
    """Return what the transactions of the database say of themselves, the oldest first."""
    with closing(ClientStorage(server.address, wait_timeout=20)) as storage:
        return [transaction.description.decode() for transaction in storage.iterator()]


def is_up(zope: ZopeProcess) -> bool:
    """Wait until *zope* is up or has ended; return which."""
    try:
        zope.wait_up()
    except AssertionError:
        return False
    return zope.get("/")[0] == 200


def start_together(
    directory: Path, number: int, *, is_coordinated: bool = True, shares_instance: bool = False
) -> list[ZopeProcess]:
    """Start Zopes on an empty database; assert that it is initialised once, and return them."""
    head = HEAD if is_coordinated else "%import zeolith"
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(directory / "server"))
        zopes = [
            ZopeProcess(
                directory / f"zope{0 if shares_instance else n}", zeolith_section(server), head=head
            )
            for n in range(number)
        ]
        for zope in zopes:
            stack.callback(zope.stop)
            zope.launch()
        found = [zope for zope in zopes if is_up(zope)]
        written = descriptions(server)
        assert written.count("Added virtual_hosting") == 1
        assert written.count("Added default view for root object") == 1
    return found


def test_f_of_two_started_together_none_dies(tmp_path: Path) -> None:
    zopes = start_together(tmp_path, 2, shares_instance=True)
    assert len(zopes) == 2
    assert sum(INITIALISES in zope.log() for zope in zopes) == 1


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shares_instance", [False, True])
def test_f_of_four_started_together_none_dies_20_times_of_20(
    tmp_path: Path, shares_instance: bool
) -> None:
    """Each of several instances also brings its initial user, and writes for that reason."""
    for turn in range(20):
        zopes = start_together(tmp_path / f"{turn}", 4, shares_instance=shares_instance)
        assert len(zopes) == 4
        if shares_instance:
            assert sum(INITIALISES in zope.log() for zope in zopes) == 1


@pytest.mark.long
def test_without_that_line_the_hazard_is_there(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    wait_until(
        lambda: len(start_together(fresh(tmp_path), 4, is_coordinated=False)) < 4, "one dies", 120
    )


def fresh(directory: Path) -> Path:
    """Return a directory that does not exist yet."""
    return directory / f"{len(list(directory.iterdir()))}"


def test_another_one_goes_on_when_the_first_dies_half_way(
    tmp_path: Path, server: ServerProcess, make_zope: MakeZope
) -> None:
    package = tmp_path / "packages" / "dying"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(DYING)
    (package / "component.xml").write_text("<component/>\n")
    database = zeolith_section(server)
    may_die = tmp_path / "may-die"
    dying = make_zope(
        "dying",
        database,
        head=f"{HEAD}\n%import dying",
        environment={"MAY_DIE": str(may_die)},
        path=(package.parent,),
    )
    dying.launch()
    wait_until(lambda: INITIALISES in dying.log(), "the first one begins", START)
    others = [make_zope(f"other{n}", database, head=HEAD) for n in range(2)]
    for zope in others:
        zope.launch()
    for zope in others:
        wait_until(
            lambda zope=zope: "another process initialises" in zope.log(),  # type: ignore[misc]
            "it waits",
            START,
        )
    may_die.touch()
    assert dying.wait() == -9
    for zope in others:
        zope.wait_up()
        assert zope.get("/")[0] == 200
    assert any(INITIALISES in zope.log() for zope in others)
    written = descriptions(server)
    assert written.count("Added virtual_hosting") == 1
    assert written.count("Added default view for root object") == 1


@pytest.mark.long
def test_a_client_changes_nothing_when_it_starts(
    server: ServerProcess, make_zope: MakeZope
) -> None:
    database = zeolith_section(server)
    with make_zope("first", database, head=HEAD) as zope:
        zope.post("/manage_delObjects", {"ids:list": "index_html"})
    before = descriptions(server)
    # The second instance is new: its initial user waits to be taken over, too.
    for variables in ({"ZEO_CLIENT": "a"}, {"FORCE_PRODUCT_LOAD": ""}):
        with make_zope("second", database, head=HEAD, environment=variables) as zope:
            assert zope.get("/index_html")[0] == 404
            assert "changes nothing" in zope.log()
        assert descriptions(server) == before
    with make_zope("second") as zope:
        assert zope.get("/index_html")[0] == 200
    added = ["Created initial user", "Added default view for root object"]
    assert descriptions(server) == [*before, *added]


@pytest.mark.long
def test_a_client_that_may_only_read_waits_as_well(
    server: ServerProcess, make_zope: MakeZope
) -> None:
    with make_zope("first", zeolith_section(server), head=HEAD):
        pass
    with make_zope("reader", zeolith_section(server, "read-only true"), head=HEAD) as zope:
        assert zope.get("/")[0] == 200


# As Zope 2 left it.
OLD = """
import sys, zeolith
from OFS.Folder import Folder
db = zeolith.DB(("127.0.0.1", int(sys.argv[1])))
with db.transaction() as connection:
    application = connection.root()["Application"]
    application._p_activate()
    vars(application)["Control_Panel"] = Folder("Control_Panel")
    application._p_changed = True
db.close()
"""


@pytest.mark.long
def test_f_what_an_older_zope_has_left_is_removed_by_one(
    server: ServerProcess, make_zope: MakeZope
) -> None:
    with make_zope("instance", zeolith_section(server), head=HEAD):
        pass
    subprocess.run(
        [zope_bin() / "python", "-c", OLD, str(server.address[1])],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=True,
        timeout=60,
    )
    zopes = [make_zope("instance") for _ in range(3)]
    for zope in zopes:
        zope.launch()
    for zope in zopes:
        zope.wait_up()
    assert sum(INITIALISES in zope.log() for zope in zopes) == 1
    assert descriptions(server).count("Removed persistent Control_Panel") == 1


def test_without_zope_the_line_says_what_is_missing() -> None:
    import ZConfig
    import ZODB.config

    with pytest.raises(ZConfig.SchemaError, match=r"zeolith\.zope.*zope\.component"):
        ZODB.config.databaseFromString("%import zeolith.zope\n")


def test_another_storage_is_refused(make_zope: MakeZope) -> None:
    zope = make_zope("local", "<mappingstorage>\n</mappingstorage>", head=HEAD)
    zope.launch()
    assert zope.wait() != 0
    assert "is not opened by Zeolith's client, but by MappingStorage" in zope.log()


def test_a_client_waits_until_another_process_has_initialised_the_database(
    tmp_path: Path, server: ServerProcess, make_zope: MakeZope
) -> None:
    database = zeolith_section(server, "client $(ZEO_CLIENT)", "var $INSTANCE/var")
    clients = [
        make_zope("instance", database, head=HEAD, environment={"ZEO_CLIENT": name})
        for name in ("8700", "8800")
    ]
    for zope in clients:
        zope.launch()
    for zope in clients:
        wait_until(lambda zope=zope: "FORCE_PRODUCT_LOAD=1" in zope.log(), "it waits", START)  # type: ignore[misc]
    forced = {"ZEO_CLIENT": "8900", "FORCE_PRODUCT_LOAD": "1"}
    leader = make_zope("instance", environment=forced)
    leader.start()
    assert INITIALISES in leader.log()
    for zope in clients:
        zope.wait_up()
        assert zope.get("/")[0] == 200
        assert INITIALISES not in zope.log()
        assert "changes nothing in the database" in zope.log()
    caches = {path.name for path in (tmp_path / "instance" / "var").glob("*.zec")}
    assert caches == {"8700-1.zec", "8800-1.zec", "8900-1.zec"}
