"""The README of ZEO 2.0 (2002), followed line by line on today's software.

Each test is one of its paragraphs.  What it says of Zope's product installation is about Zope
itself, and is in ``docs/zope.md``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.processes import free_port, is_listening, is_running
from tests.support.sites import DROPIN, ROOT, Site
from tests.support.waiting import wait_until

import zeolith

# As Zope's z2.py: what looks like NAME=VALUE goes to the environment; then the database is opened
# that custom_zodb.py in the instance says.  It counts visits, and ends when its input does.
Z2 = """
import os, sys
sys.path.insert(0, 'lib/python')
for argument in sys.argv[1:]:
    name, equals, value = argument.partition('=')
    if equals and not argument.startswith('-'):
        os.environ[name] = value
sys.path.insert(0, os.getcwd())
import custom_zodb, ZODB
held = custom_zodb.Storage.cache_stats().records
db = ZODB.DB(custom_zodb.Storage)
with db.transaction() as connection:
    root = connection.root()
    root['visits'] = root.get('visits', 0) + 1
    print(root['visits'], held > 0, flush=True)
sys.stdin.read()
db.close()
"""


# Root's server becomes nobody, who has no place in directories of tests.
USER = ("-u", "root") if os.geteuid() == 0 else ()


class Zope:
    """A Zope install directory: ``lib/python`` with the package, ``var``, and ``z2.py``."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.directory = directory
        self.site = site
        (directory / "lib" / "python").mkdir(parents=True)
        (directory / "var").mkdir()
        (directory / "z2.py").write_text(Z2)
        # "Put the package (the ZEO directory, without any wrapping directory ...) in your Zope
        # lib/python."
        shutil.copytree(
            DROPIN / "src" / "ZEO",
            directory / "lib" / "python" / "ZEO",
            ignore=shutil.ignore_patterns("__pycache__"),
        )

    def start(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """``python lib/python/ZEO/start.py`` with *arguments*, from the Zope directory."""
        return self.site.run(
            "lib/python/ZEO/start.py", *USER, *arguments, cwd=self.directory, status=status
        )

    def start_from(self, cwd: Path, *arguments: str) -> None:
        """The same from another directory."""
        program = self.directory / "lib" / "python" / "ZEO" / "start.py"
        self.site.run(program, *USER, *arguments, cwd=cwd)

    @property
    def pid(self) -> int:
        """The server's process id; 0 if it says none, or has not finished saying it."""
        path = self.directory / "var" / "ZEO_SERVER.pid"
        text = path.read_text() if path.exists() else ""
        return int(text) if text.endswith("\n") else 0

    @property
    def is_managed(self) -> bool:
        """Whether a daemon manager is there."""
        return (self.directory / "var" / "ZEO_SERVER.zdsock").exists()

    def stop(self) -> None:
        """Stop the server, which ends its manager, too."""
        if self.is_managed:
            wait_until(lambda: not self.is_managed or self.pid != 0, "the server runs")
            if pid := self.pid:
                try:
                    os.kill(pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass  # it has ended, and so will its manager
        wait_until(lambda: not self.is_managed, "the daemon manager has ended")

    def write_custom_zodb(self, address: str) -> None:
        """Write ``custom_zodb.py`` as the document has it."""
        (self.directory / "custom_zodb.py").write_text(
            f"from ZEO.ClientStorage import ClientStorage\nStorage = ClientStorage({address})\n"
        )

    def open(self, *arguments: str) -> subprocess.Popen[str]:
        """``python z2.py`` with *arguments*; it runs until its input is closed."""
        return subprocess.Popen(
            [self.site.python, "-W", "error", "z2.py", *arguments],
            cwd=self.directory,
            env=self.site.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def visit(self, *arguments: str) -> str:
        """Open it, close it, return what it says."""
        with self.open(*arguments) as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said.strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An environment with Zeolith, in which nothing is called ZEO."""
    return Site(tmp_path_factory.mktemp("zeolith"))


@pytest.fixture
def zope(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zope]:
    zope = Zope(tmp_path_factory.mktemp("zope"), site)
    yield zope
    zope.stop()


def test_you_can_test_it_before_installing_it() -> None:
    """``python test.py -v`` is ``make test`` now."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^test: .*\n\t.* pytest ", makefile, re.MULTILINE)


def test_starting_the_server(zope: Zope) -> None:
    """``start.py -p port_number``; zdaemon "automatically restarts programs that exit
    unexpectedly"; the client may be anywhere."""
    port = free_port()
    said = zope.start("-p", str(port)).stdout
    assert said == f"server started, pid={zope.pid}; log {zope.directory}/var/ZEO_SERVER.log\n"
    assert is_listening(("127.0.0.1", port))
    with zeolith.DB(("localhost", port)).transaction() as connection:
        connection.root()["answer"] = 42
    connection.db().close()
    killed = zope.pid
    os.kill(killed, signal.SIGKILL)
    connection = zeolith.connection(port, wait_timeout=30)
    assert connection.root()["answer"] == 42
    connection.close()
    wait_until(lambda: zope.pid not in (0, killed))
    assert is_running(zope.pid)
    # It is not started twice, and stays stopped when it is stopped.
    assert "is running already" in zope.start("-p", str(port), status=2).stderr
    zope.stop()
    assert not is_listening(("127.0.0.1", port))
    assert (zope.directory / "var" / "Data.fs").exists()


def test_a_unix_domain_socket(zope: Zope) -> None:
    """``start.py -U filename``, and ``ClientStorage(filename)``."""
    zope.start("-U", "zeo.sock")
    zope.write_custom_zodb("'zeo.sock'")
    assert zope.visit().split()[0] == "1"
    assert zope.visit().split()[0] == "2"


def test_options_that_are_not_documented_there(zope: Zope) -> None:
    """``-s`` and ``-D`` do without zdaemon; a mistake is said at once, and nothing runs."""
    port = free_port()
    for option in ("-s", "-D"):
        with subprocess.Popen(
            [zope.site.python, "lib/python/ZEO/start.py", *USER, option, "-p", str(port)],
            cwd=zope.directory,
            env=zope.site.environment,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_until(lambda: is_listening(("127.0.0.1", port)))
                wait_until(lambda: zope.pid == process.pid)
                assert not zope.is_managed
                process.terminate()
                assert process.wait(30) == 0
            finally:
                process.kill()
    assert "give a port (-p) or a Unix socket (-U)" in zope.start(status=2).stderr
    assert "No such option" in zope.start("-p", "1", "--colour", status=2).stderr
    assert not zope.is_managed


def test_a_server_that_cannot_start_is_not_started_again(zope: Zope) -> None:
    """What is wrong is shown, the manager does not try for ever, and the log has it."""
    done = zope.start("-p", str(free_port()), "missing/Data.fs", status=2)
    assert "missing/Data.fs" in done.stderr
    assert "the server has ended; its log is" in done.stderr
    log = (zope.directory / "var" / "ZEO_SERVER.log").read_text()
    assert log.count("zeolith: storage '1' (missing/Data.fs): cannot be opened") == 1
    assert not zope.is_managed


def test_variables_among_the_arguments(zope: Zope) -> None:
    """``NAME=VALUE`` goes to the environment, as 2.0's start.py has it."""
    home = zope.directory / "elsewhere"
    home.mkdir()
    port = free_port()
    zope.start("-p", str(port), f"INSTANCE_HOME={home}")
    try:
        assert is_listening(("127.0.0.1", port))
        assert (home / "Data.fs").exists()
    finally:
        os.kill(int((home / "ZEO_SERVER.pid").read_text()), signal.SIGTERM)
    wait_until(lambda: not (home / "ZEO_SERVER.zdsock").exists())


def test_zope_as_a_client(zope: Zope, tmp_path: Path) -> None:
    """``custom_zodb.py`` with ``('', port_number)``; "you can specify a host name"."""
    port = free_port()
    zope.start_from(tmp_path, "-p", str(port))
    assert (zope.directory / "var" / "Data.fs").exists()
    zope.write_custom_zodb(f"('', {port})")
    assert zope.visit() == "1 False"
    zope.write_custom_zodb(f"('localhost', {port})")
    # "Otherwise, the client cache is stored in temporary files which are removed ...".
    assert zope.visit() == "2 False"
    assert not list(zope.directory.glob("*.zec*"))


def test_two_zope_processes_with_unique_caches(zope: Zope) -> None:
    """``python z2.py -P8700 ZEO_CLIENT=8700`` beside ``-P8800 ZEO_CLIENT=8800``."""
    port = free_port()
    zope.start("-p", str(port))
    zope.write_custom_zodb(f"('', {port})")
    for visit in (1, 3):
        with ExitStack() as both:
            for number, name in enumerate(("8700", "8800")):
                process = both.enter_context(zope.open(f"-P{name}", f"ZEO_CLIENT={name}"))
                assert process.stdout is not None
                assert process.stdin is not None
                both.callback(process.stdin.close)
                # Both run, each sees what the other has done, and the second time their caches
                # still hold what they held.
                assert process.stdout.readline() == f"{visit + number} {visit > 1}\n"
            if visit == 1:
                # A name that is taken is refused: it has to be unique.
                with zope.open("-P8700", "ZEO_CLIENT=8700") as third:
                    said, _ = third.communicate(timeout=60)
                assert third.returncode == 1
                assert "8700-1.zec" in said.splitlines()[-1]
    assert (zope.directory / "8700-1.zec").exists()
    assert (zope.directory / "8800-1.zec").exists()


def test_the_client_keyword(zope: Zope) -> None:
    """The document: "or set the client keyword argument to the constructor to a unique name"."""
    port = free_port()
    zope.start("-p", str(port))
    zope.write_custom_zodb(f"('', {port}), client='one'")
    assert zope.visit() == "1 False"
    assert zope.visit("ZEO_CLIENT=other") == "2 True"
    assert [path.name for path in zope.directory.glob("*.zec")] == ["one-1.zec"]
