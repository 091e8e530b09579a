"""The table of commands."""

from __future__ import annotations

import click
import pytest

from zeolith.cli.group import COMMANDS, zeolith


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_and_says_what_it_does(name: str) -> None:
    context = click.Context(zeolith)
    command = zeolith.get_command(context, name)
    assert isinstance(command, click.Command)
    assert command.name == name
    help_text = command.get_short_help_str(200)
    # The table repeats the first sentence, perhaps shortened at its end.
    assert help_text.startswith(COMMANDS[name].removesuffix(".")), help_text
