"""Names of options, and the documentation of all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zeolith.errors import ConfigurationError
from zeolith.recipe.options import GROUPS, OPTIONS, REFUSED, check_names

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "buildout.md"

DEMANDED = """
zope2-location zeopack zeopack-script-name repozo repozo-script-name zeo-conf zeo-address
effective-user invalidation-queue-size zeo-log zeo-log-level zeo-log-format zeo-log-custom
zeo-log-max-size zeo-log-old-files storage-number file-storage blob-storage socket-name pid-file
authentication-database authentication-realm pack-days pack-user pack-password pack-gc
pack-keep-old zeo-conf-additional monitor-address relative-paths eggs extra-paths initialization
var read-only transaction-timeout client-conflict-resolution msgpack invalidation-age
ssl-certificate ssl-key ssl-authenticate
"""
"""The options of the two old recipes, and those that their users miss."""


def test_every_option_of_the_old_recipes_is_there() -> None:
    assert set(DEMANDED.split()) <= OPTIONS.keys()
    assert not REFUSED.keys() & OPTIONS.keys()


def test_the_documented_tables_are_those_of_the_recipe() -> None:
    text = DOCUMENT.read_text()
    for title, options in GROUPS.items():
        section = text.partition(f"\n### {title}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert rows == [
            f"| `{option.name}`{' †' if option.writes else ''} | {option.default or '–'} | "
            f"{option.meaning} |"
            for option in options
        ]
    documented = re.findall(r"^\| `([a-z0-9-]+)`(?: †)? \|", text, re.M)
    assert sorted(documented) == sorted([*OPTIONS, *REFUSED])


def test_buildouts_own_names_pass() -> None:
    check_names({"recipe", "<part-dependencies>", "__buildout_signature__", "zeo-address"})


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("zeo-adress", "did you mean zeo-address"),
        ("blob-dir", "did you mean blob-storage"),
        ("pack_days", "did you mean pack-days"),
        ("colour", "remove it"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match="is no option of this recipe") as caught:
        check_names([name])
    assert caught.value.option == name
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_honoured_is_explained(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_names([name])
    assert caught.value.remedy
    assert "no option" not in caught.value.problem
