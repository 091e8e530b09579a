"""The ``<runner>`` section."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from zeolith.config.runner import Runner
from zeolith.config.server import parse_server_config
from zeolith.errors import ConfigurationError

CONF = "<zeo>\naddress 8100\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"


def parse(*lines: str) -> Runner:
    text = "\n".join(["<runner>", *lines, "</runner>"])
    return parse_server_config(f"{CONF}{text}\n").runner


def test_an_empty_section_means_what_a_missing_one_does() -> None:
    assert parse() == parse_server_config(CONF).runner == Runner()


def test_every_key_is_read(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.touch()
    runner = parse(
        "program /bin/run 'two words' last",
        f"python {script}",
        f"zdrun {script}",
        f"socket-name {tmp_path}/new/zdsock",
        "daemon false",
        f"directory {tmp_path}/run",
        "backoff-limit 3",
        "forever true",
        "exit-codes 0, 2,5",
        "start-test-program true",
        "start-timeout 7",
        "stop-timeout 0",
        "user nobody",
        "umask 027",
        "hang-around true",
        "default-to-interactive true",
        f"logfile {tmp_path}/log",
        f"transcript {tmp_path}/out",
        "prompt zeo>",
        "<eventlog>\n</eventlog>",
    )
    assert asdict(runner) == {
        "program": ("/bin/run", "two words", "last"),
        "python": str(script),
        "zdrun": str(script),
        "socket_name": f"{tmp_path}/new/zdsock",
        "daemon": False,
        "directory": f"{tmp_path}/run",
        "backoff_limit": 3,
        "forever": True,
        "exit_codes": (0, 2, 5),
        "start_test_program": ("true",),
        "start_timeout": 7,
        "stop_timeout": 0,
        "user": "nobody",
        "umask": 0o27,
        "hang_around": True,
        "logfile": f"{tmp_path}/log",
        "transcript": f"{tmp_path}/out",
    }


def test_the_recipe_s_section_is_read(tmp_path: Path) -> None:
    """Word for word what plone.recipe.zeoserver writes, but for the directories."""
    runner = parse(
        f"program {tmp_path}/bin/runzeo",
        f"socket-name {tmp_path}/zeo.zdsock",
        "daemon true",
        "forever false",
        "backoff-limit 10",
        "exit-codes 0, 2",
        f"directory {tmp_path}",
        "default-to-interactive true",
        f"logfile {tmp_path}/zeo.log",
    )
    assert runner.program == (f"{tmp_path}/bin/runzeo",)
    assert runner.exit_codes == (0, 2)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("program", "program"),
        ("program 'open", "No closing quotation"),
        ("python /does/not/exist", "is no file"),
        ("socket-name /does/not/exist/zdsock", "there is no directory /does/not"),
        ("directory /does/not/exist", "there is no directory /does/not"),
        ("backoff-limit 0", "'0' is not a number of seconds"),
        ("exit-codes 0,x", "'x' is not an exit status"),
        ("exit-codes 256", "'256' is not an exit status"),
        ("start-timeout -1", "'-1' is not a whole number"),
        ("umask 9", "'9' is not a umask"),
        ("umask 7777", "'7777' is not a umask"),
        ("hang-around maybe", "maybe"),
        ("gone true", "not a known key"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        parse(line)


def test_no_exit_codes_are_allowed() -> None:
    assert parse("exit-codes ,").exit_codes == ()
