"""Virtual environments with what the tests have, but for PyPI's ZEO; made without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zeolith

ROOT = Path(__file__).resolve().parents[2]
DROPIN = ROOT / "dropin"

_LEFT_OUT = ("ZEO", "zeo-", "zeolith", "__editable__", "__pycache__", "pip", "setuptools")
"""What the names begin with of what is not linked: it is installed anew, or not at all."""


class Site:
    """A virtual environment with Zeolith as it is installed, and what the tests install into it.

    :ivar directory: where it is.
    :ivar packages: its ``site-packages``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        venv.EnvBuilder(symlinks=True).create(directory)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.packages = directory / "lib" / version / "site-packages"
        paths = sysconfig.get_paths()
        for where in sorted({paths["purelib"], paths["platlib"]}):
            for entry in sorted(Path(where).iterdir()):
                if not entry.name.startswith(_LEFT_OUT) and entry.suffix != ".pth":
                    (self.packages / entry.name).symlink_to(entry)
        (self.packages / "zeolith").symlink_to(Path(zeolith.__file__).parent)
        self.install_metadata(ROOT / "pyproject.toml")

    @property
    def python(self) -> str:
        """Its Python."""
        return str(self.directory / "bin" / "python")

    @property
    def environment(self) -> dict[str, str]:
        """The environment for its programs: nothing of ours gets in."""
        left_out = ("PYTHON", "ZEO_", "INSTANCE_HOME")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        path = os.pathsep.join([str(self.directory / "bin"), kept.get("PATH", os.defpath)])
        return {**kept, "PATH": path}

    def run(
        self,
        *arguments: str | Path,
        cwd: Path,
        status: int | None = 0,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with *arguments*.

        :param status: the exit status that is expected; None: any.
        :param environment: variables beside the usual ones.
        """
        return self._run([self.python, "-W", "error", *arguments], cwd, status, environment)

    def call(
        self, script: str, *arguments: str, cwd: Path, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run an installed script; the parameters are those of :meth:`run`."""
        return self._run([str(self.directory / "bin" / script), *arguments], cwd, status, None)

    def _run(
        self,
        command: Sequence[str | Path],
        cwd: Path,
        status: int | None,
        environment: Mapping[str, str] | None,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert status in (None, done.returncode), done.stdout + done.stderr
        return done

    # -- installing ------------------------------------------------------------------------------

    def install_dropin(self) -> None:
        """Install ``zeolith-zeo``; what has the same names is replaced, as by pip."""
        source = DROPIN / "src"
        self._copy(source)
        self.install_metadata(DROPIN / "pyproject.toml", self._files(source))

    def install_zeo(self) -> None:
        """Install PyPI's ZEO likewise, without its tests."""
        source = Path(sysconfig.get_paths()["purelib"])
        self._copy(source)
        (metadata,) = source.glob("[zZ][eE][oO]-*.dist-info")
        shutil.copytree(metadata, self.packages / metadata.name)

    def remove(self, name: str, source: Path) -> None:
        """Remove a distribution, and the files that it has, whoever wrote them.

        :param name: what its metadata's name begins with.
        :param source: where the files of its package ``ZEO`` came from.
        """
        for path in self._files(source):
            (self.packages / path).unlink(missing_ok=True)
        for metadata in self.packages.glob(f"{name}-*.dist-info"):
            shutil.rmtree(metadata)

    def _copy(self, source: Path) -> None:
        for path in self._files(source):
            target = self.packages / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, target)

    @staticmethod
    def _files(source: Path) -> list[str]:
        found = (path for path in sorted((source / "ZEO").rglob("*")) if path.is_file())
        names = (str(path.relative_to(source)) for path in found)
        return [name for name in names if "__pycache__" not in name and "/tests/" not in name]

    def install_metadata(self, pyproject: Path, files: Sequence[str] = ()) -> None:
        """Write the metadata of the distribution that *pyproject* describes, and its scripts."""
        project: dict[str, Any] = tomllib.loads(pyproject.read_text())["project"]
        version = project.get("version", zeolith.__version__)
        metadata = self.packages / f"{project['name'].replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        requires = "".join(f"Requires-Dist: {name}\n" for name in project["dependencies"])
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n{requires}"
        )
        scripts: dict[str, str] = project.get("scripts", {})
        groups: dict[str, dict[str, str]] = {
            "console_scripts": scripts,
            **project.get("entry-points", {}),
        }
        (metadata / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{name} = {home}\n" for name, home in entries.items())
                for group, entries in groups.items()
            )
        )
        (metadata / "RECORD").write_text("".join(f"{path},,\n" for path in files))
        for name, home in scripts.items():
            module, function = home.split(":")
            script = self.directory / "bin" / name
            script.write_text(
                f"#!{self.python}\nimport sys\nfrom {module} import {function}\n"
                f"sys.exit({function}())\n"
            )
            script.chmod(0o755)
