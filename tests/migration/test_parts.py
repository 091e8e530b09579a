"""What would change for a ``buildout.cfg``."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeolith.errors import ConfigurationError
from zeolith.migration import buildout
from zeolith.migration.check import check_migration
from zeolith.migration.remarks import Effect, Remarks

NEWER = """\
[zeoserver]
recipe = plone.recipe.zeoserver
zeo-address = 127.0.0.1:8100
transaction-timeout = 0
invalidation-age = 0
client-conflict-resolution = true
"""
ALWAYS = "[zeoserver] max-message-size"
"""What is said about each server: a difference for which there is no option."""

INSTANCE = """\
[instance]
recipe = plone.recipe.zope2instance
zeo-client = on
zope-conf-imports = zeolith.zope
"""


def check(tmp_path: Path, text: str) -> Remarks:
    path = tmp_path / "buildout.cfg"
    path.write_text(text)
    return check_migration(str(path))


def subjects(remarks: Remarks, effect: Effect) -> list[str]:
    return [remark.subject for remark in remarks.of(effect)]


def test_a_file_for_which_nothing_changes(tmp_path: Path) -> None:
    remarks = check(
        tmp_path,
        "# ours\n[buildout]\nparts = a\n\n[a]\nrecipe = zeolith\n[b]\nrecipe = zc.recipe.egg\n"
        "eggs = ZEO-something\n[instance]\nrecipe = plone.recipe.zope2instance\n",
    )
    assert remarks.kind == "buildout.cfg"
    assert remarks.remarks == []


def test_the_name_of_the_recipe_is_all_that_has_to_change(tmp_path: Path) -> None:
    remarks = check(tmp_path, NEWER)
    (remark,) = [one for one in remarks.remarks if one.subject != ALWAYS]
    assert (remark.effect, remark.subject) == (Effect.REFUSED, "[zeoserver] recipe")
    assert (remark.place.line, remark.remedy) == (2, "recipe = zeolith")


@pytest.mark.parametrize("suffix", ["", "[zrs]", ":default"])
@pytest.mark.parametrize(
    ("recipe", "location", "defaults"),
    [
        ("plone.recipe.zope2zeoserver", True, None),
        ("plone.recipe.zope2zeoserver", False, "zope2zeoserver"),
        ("plone.recipe.zeoserver", False, None),
        ("plone.recipe.zeoserver", True, "zeoserver"),
    ],
)
def test_whose_defaults(
    tmp_path: Path, recipe: str, suffix: str, location: bool, defaults: str | None
) -> None:
    text = NEWER.replace("plone.recipe.zeoserver", recipe + suffix)
    remarks = check(tmp_path, text + ("zope2-location = /opt/zope\n" if location else ""))
    found = [one.remedy for one in remarks.remarks if one.subject == "[zeoserver] defaults"]
    assert found == ([f"defaults = {defaults}"] if defaults else [])


@pytest.mark.parametrize(
    ("line", "effect", "name"),
    [
        ("replicate-to = 5000", Effect.REFUSED, "replicate-to"),
        ("zope-conf-additional = <x/>", Effect.REFUSED, "zope-conf-additional"),
        ("nonsense = 1", Effect.REFUSED, "nonsense"),
        ("zeo-log-old-files = 3", Effect.REFUSED, "zeo-log-old-files"),
        ("pack-user = fred", Effect.REFUSED, "pack-user"),
        ("zeopack =\n  a\n  b", Effect.REFUSED, "zeopack"),
        ("zeo-address = 8100", Effect.CHANGED, "zeo-address"),
        ("monitor-address = 8101", Effect.CHANGED, "monitor-address"),
        ("authentication-database = etc/users", Effect.CHANGED, "authentication-database"),
        ("pack-user = fred", Effect.CHANGED, "pack-user"),
        ("repozo =", Effect.CHANGED, "repozo"),
        ("zeo-conf = ${x:conf}", Effect.HINT, "zeo-conf"),
    ],
)
def test_an_option_of_a_server(tmp_path: Path, line: str, effect: Effect, name: str) -> None:
    name = f"[zeoserver] {name}"
    assert name not in subjects(check(tmp_path, NEWER), effect)
    remarks = check(tmp_path, f"{NEWER}{line}\n")
    assert name in subjects(remarks, effect)
    (place,) = {one.place.line for one in remarks.of(effect) if one.subject == name}
    assert place == 7


def test_all_that_the_recipe_refuses_is_told(tmp_path: Path) -> None:
    lines = "zeo-log-old-files = 3\nnonsense = 1\nauthentication-realm = a\n"
    refused = subjects(check(tmp_path, NEWER + lines), Effect.REFUSED)
    assert refused == [
        f"[zeoserver] {name}"
        for name in ("recipe", "zeo-log-old-files", "nonsense", "authentication-realm")
    ]


@pytest.mark.parametrize(
    ("line", "subject", "remedy"),
    [
        ("transaction-timeout = 0\n", "transaction-timeout", ": transaction-timeout = 0"),
        ("invalidation-age = 0\n", "invalidation-age", ": invalidation-age = 0"),
        (
            "client-conflict-resolution = true\n",
            "conflict-resolution",
            ": conflict-resolution in-process in a zeo.conf of your own (zeo-conf)",
        ),
    ],
    ids=lambda value: value.partition(" =")[0],
)
def test_what_is_not_given(tmp_path: Path, line: str, subject: str, remedy: str) -> None:
    remarks = check(tmp_path, NEWER.replace(line, ""))
    (remark,) = [one for one in remarks.of(Effect.CHANGED) if one.subject != ALWAYS]
    assert remark.subject == f"[zeoserver] {subject}"
    assert remark.remedy.endswith(remedy)


def test_defaults_that_are_picked_already(tmp_path: Path) -> None:
    text = NEWER.replace("zeoserver\n", "zope2zeoserver\n", 2) + "defaults = zope2zeoserver\n"
    assert "defaults" not in str(subjects(check(tmp_path, text), Effect.CHANGED))


def test_a_zeo_conf_of_ones_own_is_checked_as_well(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("<zeo>\nnonsense 1\n</zeo>\n")
    part = "[a]\nrecipe = plone.recipe.zeoserver\nzeo-conf = own.conf\n"
    remarks = check(tmp_path, part)
    assert "nonsense" in subjects(remarks, Effect.REFUSED)
    # Its own keys are what counts; as options they would be refused.
    (tmp_path / "own.conf").write_text("<zeo>\naddress *:8100\n</zeo>\n<mappingstorage 1/>\n")
    changed = subjects(check(tmp_path, part), Effect.CHANGED)
    assert "transaction-timeout" in changed
    assert not [subject for subject in changed if subject.startswith("[a]")]


def test_two_parts_of_one_zeo_conf(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("<zeo>\nnonsense 1\n</zeo>\n")
    part = "recipe = plone.recipe.zeoserver\nzeo-conf = own.conf\n"
    refused = subjects(check(tmp_path, f"[a]\n{part}[b]\n{part}"), Effect.REFUSED)
    assert refused.count("nonsense") == 1


def test_an_instance(tmp_path: Path) -> None:
    remarks = check(tmp_path, INSTANCE)
    (remark,) = remarks.remarks
    assert (remark.effect, remark.subject) == (Effect.REFUSED, "[instance] zeo-client")
    assert "zeolith-zeo" in remark.remedy


@pytest.mark.parametrize(
    ("line", "effect", "subject"),
    [
        ("zeo-username = a\nzeo-password = b", Effect.CHANGED, "username"),
        ("zeo-username = a", Effect.REFUSED, "username"),
        ("min-disconnect-poll = 5", Effect.CHANGED, "min-disconnect-poll"),
        ("zeo-client-client = zope1", Effect.CHANGED, "[instance] zeo-client-client"),
        ("zeo-client-blob-cache-size-check = 5", Effect.REFUSED, "blob-cache-size-check"),
    ],
)
def test_an_option_of_an_instance(tmp_path: Path, line: str, effect: Effect, subject: str) -> None:
    assert subject in subjects(check(tmp_path, f"{INSTANCE}{line}\n"), effect)


def test_the_first_start_of_an_instance(tmp_path: Path) -> None:
    remarks = check(tmp_path, INSTANCE.replace("zope-conf-imports = zeolith.zope\n", ""))
    assert subjects(remarks, Effect.HINT) == ["[instance] zope-conf-imports"]


def test_eggs_of_other_names(tmp_path: Path) -> None:
    eggs = "eggs =\n  zeo.recipe\n  ZEO-x\n  zeoX\n  zeolith\n  zeolith-zeo\n"
    assert check(tmp_path, f"[a]\nrecipe = zc.recipe.egg\n{eggs}").remarks == []


@pytest.mark.parametrize("egg", ["ZEO", "ZEO >= 5", "zeo[msgpack]", "ZEO==6.2"])
def test_an_egg_of_pypis(tmp_path: Path, egg: str) -> None:
    remarks = check(tmp_path, f"[a]\nrecipe = zc.recipe.egg\neggs =\n    Zope\n    {egg}\n")
    assert subjects(remarks, Effect.REFUSED) == ["[a] eggs"]


def test_a_pinned_version(tmp_path: Path) -> None:
    remarks = check(tmp_path, "[versions]\nZEO = 6.2\nZODB = 6.4\n")
    assert subjects(remarks, Effect.HINT) == ["[versions] ZEO"]


def test_what_is_extended_counts(tmp_path: Path) -> None:
    (tmp_path / "base.cfg").write_text(NEWER.replace("127.0.0.1:8100", "8100"))
    text = "[buildout]\nextends =\n    base.cfg\n    https://example.org/versions.cfg\n"
    remarks = check(tmp_path, text)
    assert subjects(remarks, Effect.CHANGED) == [ALWAYS, "[zeoserver] zeo-address"]
    assert remarks.of(Effect.CHANGED)[0].place.file == str(tmp_path / "base.cfg")
    assert "https://example.org/versions.cfg" in remarks.of(Effect.HINT)[0].text
    # What extends wins.
    remarks = check(tmp_path, f"{text}[zeoserver]\nzeo-address = *:8100\n")
    assert subjects(remarks, Effect.CHANGED) == [ALWAYS]


def test_a_file_that_two_extend_is_read_for_each(tmp_path: Path) -> None:
    """As buildout does it: what the second brings with it wins over the first."""
    (tmp_path / "base.cfg").write_text("[a]\nb = base\nc = base\n")
    (tmp_path / "one.cfg").write_text("[buildout]\nextends = base.cfg\n[a]\nb = one\n")
    (tmp_path / "two.cfg").write_text("[buildout]\nextends = base.cfg\n[a]\nc = two\n")
    path = tmp_path / "buildout.cfg"
    path.write_text("[buildout]\nextends = one.cfg two.cfg\n")
    section = buildout.read_buildout(str(path)).sections["a"]
    assert {name: value for name, (value, _) in section.items()} == {"b": "base", "c": "two"}


def test_files_without_end(tmp_path: Path) -> None:
    """Each is read for each that extends it: 2 to the power of 20 times (R8)."""
    for number in range(20):
        name = f"{number + 1}.cfg"
        (tmp_path / f"{number}.cfg").write_text(f"[buildout]\nextends = {name} {name}\n")
    (tmp_path / "20.cfg").write_text("")
    with pytest.raises(ConfigurationError, match="is one of more than 100 files; extend fewer"):
        check(tmp_path, "[buildout]\nextends = 0.cfg\n")


def test_files_that_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "local.cfg").write_text(NEWER)
    remarks = check(tmp_path, "[buildout]\noptional-extends = gone.cfg local.cfg\n")
    assert subjects(remarks, Effect.REFUSED) == ["[zeoserver] recipe"]


def test_a_part_that_takes_over_another_section(tmp_path: Path) -> None:
    base = NEWER.replace("[zeoserver]", "[base]").replace("127.0.0.1:8100", "1")
    more = "[more]\nzeo-address = 2\nnonsense = 1\n"
    part = "[buildout]\nparts = zeoserver\n[zeoserver]\n<=\n    base\n    more\n"
    remarks = check(tmp_path, f"{part}{base}{more}")
    names = subjects(remarks, Effect.REFUSED)
    assert names == ["[zeoserver] recipe", "[zeoserver] nonsense"]
    (address,) = [one for one in remarks.remarks if "zeo-address" in one.subject]
    assert "*:2" in address.remedy
    # Its own options win; and the other may be a part as well.
    both = part.replace("parts = zeoserver", "parts = base zeoserver") + "zeo-address = 3\n"
    found = subjects(check(tmp_path, f"{both}{base}{more}"), Effect.CHANGED)
    assert {"[base] zeo-address", "[zeoserver] zeo-address"} < set(found)


def test_lists_that_grow_and_shrink(tmp_path: Path) -> None:
    (tmp_path / "base.cfg").write_text("[a]\neggs =\n    x\n    y\n")
    path = tmp_path / "buildout.cfg"
    path.write_text("[buildout]\nextends = base.cfg\n[a]\neggs += z\n[b:linux]\nc = 1\n")
    assert buildout.read_buildout(str(path)).sections["a"]["eggs"][0] == "x\ny\nz"
    assert "b" in buildout.read_buildout(str(path)).sections
    path.write_text("[buildout]\nextends = base.cfg\n[a]\neggs -= x\n")
    assert buildout.read_buildout(str(path)).sections["a"]["eggs"][0] == "y"


def test_files_that_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "base.cfg").write_text("[buildout]\nextends = buildout.cfg\n[a]\nb = 1\n")
    with pytest.raises(ConfigurationError, match="which extends it; remove one from extends"):
        check(tmp_path, "[buildout]\nextends = base.cfg\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[buildout]\nparts\n", "line 2: 'parts' is no option"),
        ("[a]\n<= b\n[b]\n<= a\n", r"\[a\]: takes over a section that takes over this one"),
        ("[buildout]\nextends = gone.cfg\n", "gone.cfg: cannot be read"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        check(tmp_path, text)
