"""``zeolith pack`` as a process, and as a function, against real servers."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.packing import Contents, debris, resume, stop_at
from tests.support.processes import child_environment, free_port, is_listening, running_server
from tests.support.storages import gate
from tests.support.tlscontexts import server_context
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.admin import packing
from zeolith.cli.main import ZEOPACK, main
from zeolith.cli.packdisplay import PackDisplay
from zeolith.config.address import format_address


class Served:
    """A server in this process with a storage ``main`` to be packed and one ``other``.

    :ivar options: further options of the server.
    """

    def __init__(self, stack: ExitStack, directory: Path, **options: Any) -> None:
        self.directory = directory / "main"
        self.contents = Contents(self.directory)
        self.storage = FileStorage(
            str(self.directory / "Data.fs"), blob_dir=str(self.directory / "blobs")
        )
        storages = {"main": self.storage, "other": MappingStorage()}
        self.server = stack.enter_context(running_server(storages, **options))
        self.address = format_address(self.server.address)

    @property
    def size(self) -> int:
        return os.stat(self.directory / "Data.fs").st_size


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def served(stack: ExitStack, tmp_path: Path) -> Served:
    return Served(stack, tmp_path)


def test_a_storage_is_packed(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    before = served.size
    assert main(["pack", f"{served.address}:main"]) == 0
    assert served.size < before
    output = capsys.readouterr()
    assert f"storage main of {served.address}: packing to 20" in output.out
    assert f"{before:,} bytes before, {served.size:,} after" in output.out
    assert output.err == ""
    assert debris(served.directory) == []


def test_under_zeos_name(served: Served) -> None:
    before = served.size
    host, port = served.server.address
    assert main(["-h", host, "-p", str(port), "-S", "main"], program=ZEOPACK) == 0
    assert served.size < before


@pytest.mark.parametrize("option", ["-d", "-D", "--days"])
def test_days_are_kept(served: Served, option: str) -> None:
    before = served.size
    assert main(["pack", option, "1", f"{served.address}:main"]) == 0
    assert served.size == before


def test_the_recipes_options_are_understood(served: Served) -> None:
    host, port = served.server.address
    arguments = ["-S", "main", "-B", "/nowhere", "-D", "0", "-W", "-1"]
    assert main(["pack", *arguments, "-p", str(port), "-h", host]) == 0


def test_an_estimate_changes_nothing(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    before = served.size
    assert main(["pack", "--dry-run", f"{served.address}:main"]) == 0
    assert served.size == before
    text = capsys.readouterr().out
    found = re.search(r"bring ([\d,]+) bytes before, ([\d,]+) after, .*; (\d+) blob files", text)
    assert found is not None, text
    assert main(["pack", f"{served.address}:main"]) == 0
    assert [int(found[n].replace(",", "")) for n in (1, 2)] == [before, served.size]
    assert "bytes are free" in text or "are free" in text


def test_one_that_fails_does_not_keep_the_others_from_being_packed(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    before = served.size
    nobody = f"127.0.0.1:{free_port()}"
    targets = [nobody, f"{served.address}:none", f"{served.address}:main"]
    assert main(["pack", "--wait", "0", *targets]) == 1
    assert served.size < before
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert f"storage 1 of {nobody}: cannot connect" in errors[0]
    assert "there is no storage 'none' here; there are: main, other" in errors[1]


def test_a_storage_that_cannot_be_estimated_is_said(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", "-n", f"{served.address}:other"]) == 1
    assert "is no FileStorage" in capsys.readouterr().err


WRONG = [
    ([], "no server"),
    (["-h", "localhost"], "-h has no effect without -p"),
    (["-S", "x", "localhost:1"], "-S has no effect here"),
    (["-C", "zeo.conf", "localhost:1"], "exclude each other"),
    (["-n", "--force", "localhost:1"], "--force has no effect"),
    (["--key", "x", "localhost:1"], "key: has no effect without a certificate"),
    (["-d", "-1", "localhost:1"], "-1"),
    (["-t", "25", "localhost:1"], "is no time of day"),
    (["localhost"], "has no port"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_disk_that_may_be_too_small(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    class Small:
        def __init__(self, path: Any) -> None:
            self.f_frsize, self.f_bavail = real(path).f_frsize, 1

    monkeypatch.setattr(os, "statvfs", Small)
    before = served.size
    assert main(["pack", f"{served.address}:main"]) == 1
    text = capsys.readouterr().err
    assert f"writes up to {before:,} bytes, {real(served.directory).f_frsize:,} are free" in text
    assert "--force packs nevertheless" in text
    assert served.size == before
    assert main(["pack", "--force", f"{served.address}:main"]) == 0
    assert served.size < before
    assert "going on because of --force" in capsys.readouterr().out


def test_a_pack_that_runs_already(
    served: Served,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark = tmp_path / "mark"
    stop_at(monkeypatch, "copy", mark)
    with zeolith_process("pack", f"{served.address}:main") as first:
        wait_until(mark.exists)
        assert main(["pack", f"{served.address}:main"]) == 1
        assert "a pack is already running" in capsys.readouterr().err
        assert main(["pack", "-n", f"{served.address}:main"]) == 1
        resume(int(mark.read_text()))
        assert first.wait(30) == 0


# -- from a zeo.conf, and with TLS -------------------------------------------------------------


@contextmanager
def zeolith_process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(
        [sys.executable, "-m", "zeolith", *arguments], env=child_environment(), **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_configuration_names_address_and_storages(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "zeo.conf"
    conf.write_text(
        f"<zeo>\naddress {served.address}\n</zeo>\n"
        f"<filestorage main>\npath {served.directory}/Data.fs\n</filestorage>\n"
        "<mappingstorage other>\n</mappingstorage>\n"
    )
    before = served.size
    assert main(["pack", "-C", str(conf), "-S", "other"]) == 0
    assert served.size == before
    assert main(["pack", "-C", str(conf)]) == 0
    assert served.size < before
    capsys.readouterr()
    assert main(["pack", "-C", str(conf), "-S", "none"]) == 2
    assert "has no storage 'none'; it has: main, other" in capsys.readouterr().err


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, identity in (("server", "localhost"), ("client", "c@example.org")):
        ca.issue_cert(identity).private_key_and_cert_chain_pem.write_to_path(
            tmp_path / f"{name}.pem"
        )
    return tmp_path


@pytest.mark.long  # ten seconds: a server that expects TLS says nothing to who does not speak it
def test_over_tls(stack: ExitStack, certificates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = server_context(str(certificates / "server.pem"), str(certificates / "ca.pem"))
    served = Served(stack, certificates, ssl=context)
    _, port = served.server.address
    target = f"localhost:{port}:main"
    before = served.size
    assert main(["pack", "--wait", "0", target]) == 1
    assert served.size == before
    tls = [
        *("--certificate", str(certificates / "client.pem")),
        *("--authenticate", str(certificates / "ca.pem")),
    ]
    assert main(["pack", "-n", *tls, target]) == 0
    assert main(["pack", *tls, target]) == 0
    assert served.size < before


def test_over_tls_as_the_servers_configuration_says(stack: ExitStack, certificates: Path) -> None:
    context = server_context(str(certificates / "server.pem"), str(certificates / "ca.pem"))
    served = Served(stack, certificates, ssl=context)
    conf = certificates / "zeo.conf"
    conf.write_text(
        f"<zeo>\naddress {served.address}\n<ssl>\ncertificate {certificates}/server.pem\n"
        f"authenticate {certificates}/ca.pem\n</ssl>\n</zeo>\n"
        f"<filestorage main>\npath {served.directory}/Data.fs\n</filestorage>\n"
    )
    before = served.size
    assert main(["pack", "-C", str(conf)]) == 0
    assert served.size < before


# -- other servers -----------------------------------------------------------------------------


def test_a_zeo_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Contents(tmp_path, blobs=False)
    before = os.stat(tmp_path / "Data.fs").st_size
    port = free_port()
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{port}", "-f", "Data.fs"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            env=child_environment(),
        ) as zeo,
    ):
        try:
            wait_until(lambda: is_listening(("127.0.0.1", port)))
            assert main(["pack", "-n", f"127.0.0.1:{port}"]) == 1
            assert "a ZEO server cannot tell" in capsys.readouterr().err
            assert main(["pack", f"127.0.0.1:{port}"]) == 0
            assert os.stat(tmp_path / "Data.fs").st_size < before
            assert "neither its disk nor its progress" in capsys.readouterr().out
        finally:
            zeo.kill()


def test_a_server_is_waited_for(tmp_path: Path) -> None:
    Contents(tmp_path)
    before = os.stat(tmp_path / "Data.fs").st_size
    address = f"127.0.0.1:{free_port()}"
    with zeolith_process("pack", "--wait", "30", address) as process:
        assert process.stdout is not None
        assert f"waiting up to 30 s for the server at {address}" in process.stdout.readline()
        with (
            (tmp_path / "log").open("w") as log,
            zeolith_process(
                *("serve", "-a", address, "-f", str(tmp_path / "Data.fs")),
                *("--blob-dir", str(tmp_path / "blobs")),
                stdout=log,
                stderr=log,
            ),
        ):
            assert process.wait(30) == 0
    assert os.stat(tmp_path / "Data.fs").st_size < before


def test_a_server_that_ends_meanwhile(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    stop_at(monkeypatch, "copy", mark)
    with ExitStack() as inner:
        served = Served(inner, tmp_path)
        process = stack.enter_context(zeolith_process("pack", f"{served.address}:main"))
        wait_until(mark.exists)
    assert process.wait(30) == 1
    assert process.stderr is not None
    assert "the server may go on packing" in process.stderr.read()
    assert debris(served.directory) == []


# -- interruption and progress -----------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_the_server_packing(
    served: Served, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    stop_at(monkeypatch, "copy", mark)
    before = served.size
    with zeolith_process("pack", f"{served.address}:main", f"{served.address}:other") as process:
        wait_until(mark.exists)
        process.send_signal(number)
        assert process.wait(30) == 1
        assert process.stderr is not None
        text = process.stderr.read()
    assert "not waiting any longer; the server goes on packing" in text
    assert f"storage other of {served.address}: not packed" in text
    assert "Traceback" not in text
    resume(int(mark.read_text()))
    wait_until(lambda: served.size < before)


def on_terminal(arguments: list[str], until: Callable[[str], bool]) -> tuple[str, int]:
    """Run ``zeolith`` on a terminal of its own; return what it shows, and its exit status.

    :param until: gets all that was shown so far, whenever something was.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "zeolith", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**child_environment(), "TERM": "xterm"},
    )
    os.close(slave)
    shown = ""
    with open(master, "rb", 0) as screen:
        while True:
            try:
                data = screen.read(4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not data:
                break
            shown += data.decode()
            until(shown)
    return shown, process.wait(30)


def test_a_terminal_shows_a_bar(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    stop_at(monkeypatch, "record", mark)
    resumed = threading.Event()

    def go_on(shown: str) -> bool:
        if "copying" in shown and not resumed.is_set():
            resumed.set()
            resume(int(mark.read_text()))
        return False

    shown, status = on_terminal(["pack", f"{served.address}:main"], go_on)
    assert status == 0, shown
    assert re.search(r"\[#+-+\] +5\d% +copying", shown), shown
    assert "packed in" in shown.splitlines()[-1]


def test_elsewhere_there_are_lines(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("zeolith.cli.packdisplay._LINE_EVERY", 0.0)
    monkeypatch.setattr(packing, "_LOOK_EVERY", 0.01)
    seen: list[str] = []
    with gate(served.storage, "_save_index") as saving:
        say = PackDisplay.say

        def said(display: PackDisplay, text: str) -> None:
            seen.append(text)
            if "done, removing blobs" in text:
                saving.open()
            say(display, text)

        monkeypatch.setattr(PackDisplay, "say", said)
        assert main(["pack", f"{served.address}:main"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == seen
    assert "99% done, removing blobs" in seen


def test_storages_are_packed_over_a_unix_socket(stack: ExitStack, tmp_path: Path) -> None:
    served = Served(stack, tmp_path, address=str(tmp_path / "sock"))
    before = served.size
    assert main(["pack", "-u", f"{tmp_path / 'sock'}:main"]) == 0
    assert served.size < before
    with closing(MappingStorage()):
        assert main(["pack", "-U", str(tmp_path / "sock"), "-S", "other"]) == 0


def test_without_arguments_zeopack_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zeolith.zeopack"],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m zeolith.zeopack ")
