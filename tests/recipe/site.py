"""A directory with a buildout in it, as far as a recipe sees one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest


class FakeOptions(dict[str, str]):
    """What buildout gives a recipe as its options."""


class Site:
    """A buildout.

    :ivar directory: where it is.
    :ivar main: the options of ``[buildout]``.
    :ivar working_set: what :meth:`find` finds.
    :ivar asked: the requirements that it was asked for last.
    """

    directory: Path

    def __init__(self) -> None:
        self.main: dict[str, str] = {}
        self._buildout: dict[str, dict[str, str]] = {}
        self.working_set: list[Any] = []
        self.asked: list[str] = []

    def make(self) -> None:
        self.main = {
            "directory": str(self.directory),
            "parts-directory": str(self.directory / "parts"),
            "bin-directory": str(self.directory / "bin"),
        }
        self._buildout = {"buildout": self.main}
        for name in ("parts", "bin"):
            (self.directory / name).mkdir()

    def find(self, buildout: Any, options: Any, requirements: list[str]) -> list[Any]:
        self.asked = requirements
        return self.working_set

    def recipe(self, name: str = "zeo", **given: str) -> Any:
        """Return a recipe; underscores in names of options stand for hyphens."""
        from zeolith.recipe.part import Recipe

        options = FakeOptions({name.replace("_", "-"): value for name, value in given.items()})
        return Recipe(self._buildout, name, options)

    def install(self, part: str = "zeo", **given: str) -> str:
        """Install a part; return its ``zeo.conf``."""
        self.recipe(part, **given).install()
        return self.conf(part)

    def conf(self, part: str = "zeo") -> str:
        return (self.directory / "parts" / part / "etc" / "zeo.conf").read_text()

    def script(self, name: str) -> str:
        return (self.directory / "bin" / name).read_text()

    def scripts(self) -> set[str]:
        return set(os.listdir(self.directory / "bin"))

    def files(self) -> set[str]:
        """Return the paths of everything there is."""
        return {str(path.relative_to(self.directory)) for path in self.directory.rglob("*")}

    def refused(self, name: str = "zeo", **given: str) -> str:
        """Return the error of a part that cannot be installed, and has changed nothing."""
        from zc.buildout import UserError

        before = self.files()
        with pytest.raises(UserError) as caught:
            self.recipe(name, **given).install()
        assert not self.files() ^ before
        return str(caught.value)

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def forget(self) -> None:
        """Remove what buildout removes with a part."""
        shutil.rmtree(self.directory / "parts" / "zeo")
