"""Real Zope processes, in an environment of their own that has Zope and not PyPI's ZEO.

``make`` makes it beside the one of the tests: ``.venv-zope`` beside ``.venv``.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from html import unescape
from pathlib import Path

from tests.support.processes import ServerProcess, free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "admin", "secret"

START = 90.0
"""Seconds within which a Zope has to be up: several may start at once on a small machine."""


def zope_bin() -> Path:
    """Return the directory with the programs of the environment that has Zope."""
    found = Path(os.environ.get("ZEOLITH_ZOPE_VENV") or f"{sys.prefix}-zope") / "bin"
    assert (found / "runwsgi").is_file(), (
        f"there is no Zope in {found.parent}: run 'make zope', or set ZEOLITH_ZOPE_VENV to an "
        "environment with Zope[wsgi] and what Zeolith needs"
    )
    return found


class ZopeProcess:
    """One Zope process, in an instance of its own or in one that it shares with others.

    :param directory: the instance; made unless it is there.
    :param database: lines for the ``<zodb_db main>`` section: the storage.
    :param head: lines before it.
    :param environment: variables that the process gets beside those of the tests.
    :param path: directories with further packages.
    :ivar port: at which it answers.
    :ivar directory: the instance.
    """

    def __init__(
        self,
        directory: Path,
        database: str,
        head: str = "%import zeolith",
        environment: Mapping[str, str] | None = None,
        path: tuple[Path, ...] = (),
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("ZEO_CLIENT", "FORCE_PRODUCT_LOAD", "PYTHONPATH")
        }
        # On SIGABRT it says where its threads are.
        self._environment["PYTHONFAULTHANDLER"] = "1"
        self._environment.update(environment or {})
        packages = [ROOT / "src", *path]
        self._environment["PYTHONPATH"] = os.pathsep.join(map(str, packages))
        self._log = directory.parent / f"{directory.name}-{self.port}.log"
        if not directory.exists():
            self._make_instance(database, head)

    def _make_instance(self, database: str, head: str) -> None:
        command = [str(zope_bin() / "mkwsgiinstance"), "-d", str(self.directory)]
        subprocess.run([*command, "-u", f"{USER}:{PASSWORD}"], check=True, timeout=60)
        (self.directory / "etc" / "zope.conf").write_text(
            f"{head}\n%define INSTANCE {self.directory}\ninstancehome $INSTANCE\n"
            f"<zodb_db main>\nmount-point /\n{database}\n</zodb_db>\n"
        )
        ini = self.directory / "etc" / "zope.ini"
        ini.write_text(ini.read_text().replace("port = 8080", "port = %(http_port)s"))

    def launch(self) -> None:
        """Start the process; see :meth:`wait_up`."""
        assert self.process is None
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(zope_bin() / "python"), str(zope_bin() / "runwsgi")),
                    *(str(self.directory / "etc" / "zope.ini"), f"http_port={self.port}"),
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def wait_up(self) -> None:
        """Wait until it answers.

        :raises AssertionError: it has ended, or takes too long.
        """
        wait_until(self._is_up, f"Zope answers:\n{self.log()}", START)

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.launch()
        self.wait_up()

    def _is_up(self) -> bool:
        assert self.process is not None
        status = self.process.poll()
        assert status is None, f"Zope ended with {status}:\n{self.log()}"
        try:
            return self.get("/")[0] in (200, 404)  # a root without a view is up as well
        except OSError:
            return False

    def wait(self, timeout: float = START) -> int:
        """Wait for the end of the process; return its exit status.

        :raises AssertionError: it takes too long; says where its threads are.
        """
        assert self.process is not None
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"Zope does not end:\n{self.log()}") from None
        self.process = None
        return status

    def log(self) -> str:
        """Return all that the process has printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End the process, if it runs."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> ZopeProcess:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- requests --------------------------------------------------------------------------------

    def get(self, path: str) -> tuple[int, str]:
        """Ask for *path* as the manager; return status and text."""
        return self.post(path, {})

    def post(self, path: str, form: Mapping[str, str], timeout: float = 60.0) -> tuple[int, str]:
        """Post *form*, if there is something in it, as the manager; return status and text."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
        if form:
            request.data = urllib.parse.urlencode(form).encode()
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode("utf-8", "replace")

    def add_folder(self, name: str) -> None:
        """Add a folder to the root."""
        status, text = self.post(
            "/manage_addProduct/OFSP/manage_addFolder", {"id": name, "title": name}
        )
        assert status == 200, text

    def has(self, name: str) -> bool:
        """Whether the root has an object of that name."""
        status, text = self.get(f"/{name}/title_or_id")
        assert status in (200, 404), text
        return status == 200

    def undo_first(self, word: str) -> None:
        """Undo the newest transaction whose description has *word* in it, with Zope's form."""
        status, page = self.get("/Control_Panel/Database/main/manage_UndoForm")
        assert status == 200, page
        values = [
            unescape(found)
            for found in re.findall(r'name="transaction_info:list"\s+value="([^"]*)"', page)
        ]
        chosen = next(value for value in values if word in value)
        status, text = self.post(
            "/Control_Panel/Database/main/manage_undo_transactions",
            {"transaction_info:list": chosen},
        )
        assert status == 200, text
        assert "Error" not in text.split("</title>")[0]


def zeolith_section(server: ServerProcess | str, *lines: str) -> str:
    """Return a ``<zeolith>`` section for that server.

    :param server: or the path of its socket.
    """
    if isinstance(server, str):
        address = server
    else:
        host, port = server.address
        address = f"{host}:{port}"
    return "\n".join(["<zeolith>", f"server {address}", *lines, "</zeolith>"])
