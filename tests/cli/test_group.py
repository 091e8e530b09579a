"""The table of commands."""

from __future__ import annotations

import click
import pytest

from zeolith.cli.commands.cache import COMMANDS as CACHE_COMMANDS
from zeolith.cli.commands.cache import cache
from zeolith.cli.group import COMMANDS, zeolith

GROUPS: dict[str, tuple[click.Group, dict[str, str]]] = {
    "zeolith": (zeolith, COMMANDS),
    "cache": (cache, CACHE_COMMANDS),
}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, (_, table) in GROUPS.items() for name in table]
)
def test_each_command_is_there_and_says_what_it_does(group: str, name: str) -> None:
    commands, table = GROUPS[group]
    command = commands.get_command(click.Context(commands), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    help_text = command.get_short_help_str(200)
    # The table repeats the first sentence, perhaps shortened at its end.
    assert help_text.startswith(table[name].removesuffix(".")), help_text
