"""Real buildouts: the command, a copy of the checkout, and what comes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.support.controlled import end_processes
from tests.support.processes import free_port

CHECKOUT = Path(__file__).resolve().parents[2]

_NO_NETWORK = ("No matching distribution found for", "Failed to establish a new connection")


class Buildout:
    """An empty directory, in which ``buildout`` is then run.

    :ivar directory: where it is; its path is short enough for sockets.
    :ivar address: a free one, for a server.
    :param command: of buildout; by default one that works offline, with what is installed for
        this Python.
    """

    def __init__(self, command: Path | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="zbo-")).resolve()
        self.directory = self.root / "site"
        self.directory.mkdir()
        self.address = ("127.0.0.1", free_port())
        self._is_offline = command is None
        self._command = command or self._borrow_packages()
        self._copy_checkout()

    def _borrow_packages(self) -> Path:
        """Make an environment with what is installed here, other than Zeolith; return buildout.

        The Zeolith that is installed may be that of another checkout.
        """
        environment = self.root / "python"
        venv.create(environment, symlinks=True)
        (target,) = environment.glob("lib/python*/site-packages")
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "zeolith" not in path.name:
                (target / path.name).symlink_to(path)
        command = environment / "bin" / "buildout"
        command.write_text(
            f"#!{environment}/bin/python\nfrom zc.buildout.buildout import main\nmain()\n"
        )
        command.chmod(0o755)
        return command

    def _copy_checkout(self) -> None:
        """Copy what a distribution is built from: building leaves files beside it."""
        checkout = self.root / "zeolith"
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(CHECKOUT / "src", checkout / "src", ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE.txt"):
            shutil.copy(CHECKOUT / name, checkout)

    @property
    def where(self) -> str:
        """The address as an option has it."""
        return f"{self.address[0]}:{self.address[1]}"

    def configure(self, text: str, main: str = "", parts: str = "zeo") -> None:
        """Write ``buildout.cfg``: *main* into ``[buildout]``, and *text* after it."""
        offline = "offline = true\n" if self._is_offline else "newest = false\n"
        head = f"[buildout]\ndevelop = {self.root}/zeolith\nparts = {parts}\n{offline}{main}\n"
        (self.directory / "buildout.cfg").write_text(head + text)

    def build(self, status: int = 0) -> str:
        """Run the command, which must end with *status*; return what it says."""
        # What a checkout is built with is asked of the network unless it is new enough here.
        old = int(version("setuptools").partition(".")[0]) < 77
        isolation = {} if old or not self._is_offline else {"PIP_NO_BUILD_ISOLATION": "0"}
        done = run([str(self._command)], self.directory, **isolation)
        if any(sign in done.stdout for sign in _NO_NETWORK):
            pytest.skip("building a checkout needs setuptools 77, which is neither installed nor"
                        " to be had: there is no network")  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout

    def run(self, script: str, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run a script of the buildout, which must end with *status*; return what it says."""
        # In a directory of no meaning.
        done = run([str(self.directory / script), *arguments], self.root, **environment)
        assert done.returncode == status, (done.returncode, done.stdout)
        assert "Traceback" not in done.stdout
        return done.stdout

    @contextmanager
    def started(self, script: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a script that goes on; it is killed at the end."""
        with subprocess.Popen(
            [str(self.directory / script)],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**plain_environment(), **environment},
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def move(self, name: str) -> None:
        """Call the directory of the buildout *name*."""
        self.directory = self.directory.rename(self.root / name)

    def close(self) -> None:
        """End every process of this buildout and remove its files."""
        end_processes(f"{self.root}/")
        shutil.rmtree(self.root)


def make_environment(path: Path, requirement: str) -> Path:
    """Make an environment with nothing but buildout in it; return the command.

    Needs PyPI, or what pip is configured to use in its place; without it the test is skipped.
    """
    venv.create(path, symlinks=True, with_pip=True)
    done = run([str(path / "bin" / "pip"), "install", "--quiet", requirement], path)
    if done.returncode and any(sign in done.stdout for sign in _NO_NETWORK):
        pytest.skip(f"{requirement} cannot be fetched: there is no network")
    assert done.returncode == 0, done.stdout
    return path / "bin" / "buildout"


def plain_environment() -> dict[str, str]:
    """Return the environment of an administrator: a script has to find everything by itself."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(
    command: list[str], directory: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run *command* as an administrator would; standard error is in the output."""
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**plain_environment(), **environment},
            timeout=300,
            check=False,
        )
        output.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, output.read())
