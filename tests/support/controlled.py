"""A server that ``zeolith ctl`` controls, all in real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.support.processes import child_environment, free_port, is_running
from tests.support.waiting import wait_until

LONG = 60.0
"""Seconds after which a command is taken for stuck."""


class Controlled:
    """An instance in a directory of its own, whose path is short enough for sockets.

    :ivar directory: where it is.
    :ivar address: where its server listens.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="zctl-"))
        self.address = ("127.0.0.1", free_port())
        self._foreground: list[subprocess.Popen[bytes]] = []

    @property
    def conf(self) -> Path:
        return self.directory / "etc" / "zeo.conf"

    @property
    def log(self) -> str:
        return self._read("log/zeo.log")

    @property
    def output(self) -> str:
        return self._read("log/output.log")

    def _read(self, name: str) -> str:
        path = self.directory / name
        return path.read_text() if path.exists() else ""

    def write_conf(self, zeo: str = "", runner: str = "", eventlog: str | None = None) -> None:
        """Write a ``zeo.conf`` with these lines in its sections, and make its directories."""
        for name in ("etc", "var", "log"):
            (self.directory / name).mkdir(exist_ok=True)
        host, port = self.address
        if eventlog is None:
            eventlog = (
                f"<eventlog>\n<logfile>\npath {self.directory}/log/zeo.log\n"
                "format %(levelname)s %(name)s %(message)s\n</logfile>\n</eventlog>\n"
            )
        self.conf.write_text(
            f"<zeo>\naddress {host}:{port}\npid-filename {self.directory}/var/zeo.pid\n{zeo}\n"
            f"</zeo>\n<filestorage 1>\npath {self.directory}/var/Data.fs\n</filestorage>\n"
            f"{eventlog}<runner>\ntranscript {self.directory}/log/output.log\n{runner}\n</runner>\n"
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "zeolith", "ctl", "-C", str(self.conf), *arguments]

    def ctl(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``zeolith ctl`` to its end; standard error is in the output."""
        # Into a file: a daemon that inherited a pipe would keep it open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**child_environment(), **environment},
                timeout=LONG,
                check=False,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run ``zeolith ctl``, which must end with *status*; return what it says."""
        done = self.ctl(*arguments)
        assert done.returncode == status, (done.returncode, done.stdout, self.log, self.output)
        assert "Traceback" not in done.stdout
        return done.stdout

    def popen(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start ``zeolith ctl`` and leave it running; it is killed at the end."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**child_environment(), **environment},
        )
        self._foreground.append(process)
        return process

    def field(self, name: str) -> str | None:
        """Return what the daemon manager says of *name*; None if there is no manager."""
        found = re.search(rf"^{name}=(.*)$", self.ctl("status", "-l").stdout, re.MULTILINE)
        return None if found is None else found[1]

    def pid(self) -> int:
        """Return the server's process id, 0 if the manager runs none or there is no manager."""
        return int(self.field("application") or 0)

    def close(self) -> None:
        """End every process of this instance and remove its files."""
        for process in self._foreground:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        end_processes(f"{self.directory}/")
        shutil.rmtree(self.directory)


def end_processes(text: str) -> None:
    """End every process that has *text* in its command line."""
    # The manager first: it would start what is killed again.
    for word in ("manager", "zdrun", ""):
        for process_id in _processes(text, word):
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
            _wait_for_end(process_id)


def _processes(text: str, word: str) -> list[int]:
    """Return the processes whose command line has *text* and *word* in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_text(errors="replace")
            if text in line and word in line and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def _wait_for_end(pid: int) -> None:
    wait_until(lambda: not is_running(pid), "the process ends")
