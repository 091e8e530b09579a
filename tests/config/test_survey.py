"""A configuration is read to its end, and means what ZConfig takes it for."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import ZConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from zeolith.config.checks.check import check_config
from zeolith.config.effective import format_outline, to_json
from zeolith.config.outline import BROKEN
from zeolith.config.server import parse_server_config, server_schema
from zeolith.config.survey import Survey, survey
from zeolith.errors import ConfigurationError

GOOD = """
<zeo>
  address 8100
  <ssl/>
</zeo>
<mappingstorage>
</mappingstorage>
"""


def survey_of(text: str) -> Survey:
    return survey(server_schema(), "zeo.conf", text)


def said(text: str) -> list[tuple[int, str, str]]:
    """Return line, subject and problem of each complaint about *text*."""
    return [(one.place.line, one.subject, one.problem) for one in survey_of(text).complaints]


def test_every_mistake_is_told_in_the_order_of_the_lines() -> None:
    assert said(
        "<zeo>\n"
        "  colour blue\n"
        "  read-only perhaps\n"
        "  transaction-timeout soon\n"
        "</zeo>\n"
        "%import no.such.package\n"
        "<filestorage a>\n"
        "</filestorage>\n"
        "<filestorage b>\n"
        "  path /missing/Data.fs\n"
        "  path $unknown\n"
        "</filestorage>\n"
        "<eventlog>\n"
        "  level shouting\n"
        "</eventlog>\n"
    ) == [
        (1, "<zeo>", "the key address is missing"),
        (2, "colour", "'colour' is not a known key name"),
        (3, "read-only", "not a valid boolean value: 'perhaps'"),
        (4, "transaction-timeout", "'soon' is not a number of seconds"),
        (
            6,
            "%import no.such.package",
            "could not load package no.such.package: No module named 'no'",
        ),
        (7, "<filestorage a>", "the key path is missing"),
        (
            10,
            "path",
            "The directory named as part of the path /missing/Data.fs does not exist.",
        ),
        (11, "path", "no replacement for 'unknown'"),
        (14, "level", "invalid literal for int() with base 10: 'shouting'"),
    ]


def test_a_section_that_cannot_be_understood_is_left_out_as_a_whole() -> None:
    text = "<zeo>\naddress 1\n</zeo>\n<clouds a>\n<rain>\nx 1\n</rain>\ny 2\n</clouds>\n"
    # That there is no storage is no complaint: the clouds may have been meant to be one.
    assert said(text) == [(4, "<clouds a>", "unknown type name: 'clouds'")]


def test_after_an_import_that_failed_unknown_sections_are_no_wonder() -> None:
    text = "<zeo>\naddress 1\n</zeo>\n%import no.such\n<clouds>\n</clouds>\n"
    assert [line for line, _, _ in said(text)] == [4]


@pytest.mark.parametrize(
    ("text", "line", "subject", "problem"),
    [
        ("<zeo>\naddress 1\n<mappingstorage>\n", 3, "<mappingstorage>", "no matching section"),
        ("<zeo>\naddress 1\n", 1, "<zeo>", "the section does not end"),
        ("<zeo>\naddress 1\n<ssl>\n</zeo>\n", 4, "</zeo>", "the section <ssl> in it does not end"),
        ("</zoo>\n", 1, "</zoo>", "no such section is open here"),
        ("<zeo\n", 1, "<zeo", "malformed section start"),
        ("<a b c>\n", 1, "<a b c>", "malformed section header"),
        ("</zeo\n", 1, "</zeo", "malformed section end"),
        ("%nonsense\n", 1, "%nonsense", "unknown directive"),
        ("%define\n", 1, "%define", "missing argument"),
        ("%include\n", 1, "%include", "missing argument"),
        ("(x)\n", 1, "(x)", "malformed configuration data"),
        ("<zeo>\naddress 1\n</zeo>\n" * 2, 4, "<zeo>", "too many instances of 'zeo' section"),
        ("<eventlog>\n<logfile>\n</logfile>\n</eventlog>\n", 2, "<logfile>", "key path is missing"),
        (
            "<eventlog>\n<logfile>\npath x\nmax-size 1\n</logfile>\n</eventlog>\n",
            2,
            "<logfile>",
            "old-files",
        ),
    ],
)
def test_mistakes_of_form(text: str, line: int, subject: str, problem: str) -> None:
    assert [1 for at, of, what in said(text) if (at, of) == (line, subject) and problem in what]


def test_a_file_that_includes_itself(tmp_path: Path) -> None:
    path = tmp_path / "zeo.conf"
    path.write_text(GOOD.replace("<ssl/>", "") + "%include more.conf\n")
    (tmp_path / "more.conf").write_text("%include zeo.conf\n")
    found = survey(server_schema(), str(path))
    assert [str(one.place) for one in found.complaints] == [f"{tmp_path}/more.conf, line 1"]
    assert "includes itself" in found.complaints[0].problem


def test_files_that_include_one_another_without_end(tmp_path: Path) -> None:
    path = tmp_path / "0.conf"
    for number in range(40):
        (tmp_path / f"{number}.conf").write_text(f"%include {number + 1}.conf\n")
    complaint = survey(server_schema(), str(path)).complaints[-1]
    assert str(complaint.place) == f"{tmp_path}/31.conf, line 1"
    assert "more than 32 files include one another" in complaint.problem


def test_one_file_may_be_included_twice(tmp_path: Path) -> None:
    (tmp_path / "level.conf").write_text("level debug\n")
    path = tmp_path / "zeo.conf"
    log = "<eventlog>\n%include level.conf\n</eventlog>\n"
    path.write_text(
        f"{GOOD.replace('<ssl/>', '')}{log}<runner>\n{log}</runner>\n",
    )
    assert survey(server_schema(), str(path)).complaints == []


@pytest.mark.parametrize("source", ["http://[", "http:[", "", "no/such/file", "\0", "x://y", "#"])
def test_sources_that_cannot_be_read(source: str) -> None:
    (complaint,) = survey(server_schema(), source).complaints
    assert complaint.is_error


def test_a_package_that_fails_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "zeolith_test_fails"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    ((line, subject, problem), *_) = said("%import zeolith_test_fails\n" + GOOD)
    assert (line, subject) == (1, "%import zeolith_test_fails")
    assert "ZeroDivisionError" in problem


def test_the_outline_shows_what_is_written_and_what_holds() -> None:
    outline = survey_of(
        GOOD.replace("8100", "$x").replace("<zeo>", "%define x 8100\n<zeo>")
    ).outline
    (zeo,) = outline.find("zeo")
    (address, read_only, monitor) = map(zeo.setting, ("address", "read-only", "monitor-address"))
    assert address is not None
    assert (address.texts, address.value, address.is_default) == (
        ["8100"],
        ("127.0.0.1", 8100),
        False,
    )
    assert read_only is not None
    assert (read_only.texts, read_only.value, read_only.is_default) == (["false"], False, True)
    assert monitor is not None
    assert (monitor.texts, monitor.value) == ([], None)
    assert zeo.value is BROKEN  # its <ssl> says nothing


def test_the_server_says_how_many_mistakes_there_are() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_server_config("<zeo>\n</zeo>\n", "zeo.conf")
    assert str(caught.value).startswith("zeo.conf: there is no storage")
    assert caught.value.__notes__ == ["1 more: see zeolith check-config"]


LINES = (
    "<zeo>", "</zeo>", "address 8100", "address here", "read-only true", "read-only", "colour blue",
    "<ssl>", "</ssl>", "<ssl/>", "certificate x", "<mappingstorage>", "</mappingstorage>",
    "<mappingstorage a>", "<mappingstorage/>", "name x", "<demostorage>", "</demostorage>",
    "<eventlog>", "</eventlog>", "level info", "level loud", "<logfile>", "</logfile>",
    "path STDOUT", "path x", "max-size 1", "%define a b", "%define a c", "name $a", "name $$a",
    "# x", "",
    "%import zeolith", "%import ZODB", "%import nothing.there", "%include nothing", "<zeolith>",
    "</zeolith>", "server 1", "server x", "<", ">", "</", "%", "(", "<zeo", "<runner>", "</runner>",
    "user x", "umask 9", "exit-codes 0,x", "<filestorage>", "</filestorage>", "path /no/where",
)  # fmt: skip


def lines_of_a_configuration() -> st.SearchStrategy[str]:
    anything = st.lists(st.sampled_from(LINES), max_size=12)
    # Most heaps of lines are wrong: a frame that is right gives what is between them a chance.
    framed = st.tuples(anything, st.sampled_from(["zeo", "eventlog", "runner", "zeolith"])).map(
        lambda pair: [f"<{pair[1]}>", *pair[0], f"</{pair[1]}>", "<mappingstorage/>"]
    )
    zeo = ["<zeo>", "address 1", "</zeo>"]
    return st.one_of(anything, framed, framed.map(lambda lines: zeo + lines)).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(lines_of_a_configuration())
def test_whatever_is_written_means_what_zconfig_takes_it_for(text: str) -> None:
    found = survey_of(text)
    try:
        values, _ = ZConfig.loadConfigFile(server_schema(), StringIO(text))
    except ZConfig.ConfigurationError:
        assert found.complaints
        assert found.values is None
    else:
        assert found.complaints == []
        assert shown(found.values) == shown(values)


@settings(max_examples=100, deadline=None)
@given(lines_of_a_configuration())
def test_whatever_is_written_can_be_checked(text: str) -> None:
    report = check_config("zeo.conf", text)
    format_outline(report.outline)
    json.dumps(to_json(report.outline))
    if not report.errors:
        parse_server_config(text)


def shown(section: object) -> object:
    """Return all values of *section*, for a comparison."""
    if hasattr(section, "getSectionAttributes"):
        return {name: shown(getattr(section, name)) for name in section.getSectionAttributes()}
    if isinstance(section, list):
        return [shown(one) for one in section]
    if hasattr(section, "config"):
        return type(section), section.config.getSectionName(), shown(section.config)
    if callable(section) and hasattr(section, "__qualname__"):
        return section.__qualname__
    if type(section).__repr__ is object.__repr__:
        attributes = getattr(section, "__dict__", {})
        return type(section), {name: shown(value) for name, value in attributes.items()}
    return section
