"""A buildout that is none, for parts without the command."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

with warnings.catch_warnings():
    # Of pkg_resources, which zc.buildout 5 needs.
    warnings.simplefilter("ignore")
    from zc.buildout import easy_install

from tests.recipe.site import Site

import zeolith


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose working set is what this process imports from."""
    source = os.path.dirname(os.path.dirname(zeolith.__file__))
    packages = os.path.dirname(os.path.dirname(os.path.dirname(easy_install.__file__)))
    site = Site()
    site.working_set = [SimpleNamespace(location=each) for each in (source, packages)]
    monkeypatch.setattr(
        "zeolith.recipe.part.find_working_set", lambda *arguments: site.find(*arguments)
    )
    with tempfile.TemporaryDirectory(prefix="zrec-") as directory:
        site.directory = Path(directory).resolve()
        site.make()
        yield site
