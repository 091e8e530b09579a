"""The table of commands."""

from __future__ import annotations

import click
import pytest

from zeolith.cli.commands.cache import cache
from zeolith.cli.group import LazyGroup, zeolith

assert isinstance(zeolith, LazyGroup)
assert isinstance(cache, LazyGroup)


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in (zeolith, cache) for name in group.table]
)
def test_each_command_is_there_and_says_what_it_does(group: LazyGroup, name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    help_text = command.get_short_help_str(200)
    # The table repeats the first sentence, perhaps shortened at its end.
    assert help_text.startswith(group.table[name].removesuffix(".")), help_text
