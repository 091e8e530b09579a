"""The actions of ``zeolith ctl`` by name, and what they mean under another supervisor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from ..errors import ConfigurationError
from .control import Control

SUPERVISORD: Final = "SUPERVISOR_ENABLED"
"""supervisord sets this variable for the programs that it runs."""


class Action(NamedTuple):
    """One action.

    :ivar usage: its name and arguments.
    :ivar text: what it does.
    :ivar run: carries it out.
    :ivar most: how many arguments it takes; None: any, for the program.
    """

    usage: str
    text: str
    run: Callable[[Control, Sequence[str]], int]
    most: int | None = 0


def _status(control: Control, arguments: Sequence[str]) -> int:
    if arguments and arguments[0] != "-l":
        raise ConfigurationError("status", f"{arguments[0]!r} is unknown", "it takes -l only")
    return control.status(is_long=bool(arguments))


_FOREGROUND: Final = Action(
    "fg [ARGUMENT...]",
    "run the server in the foreground, in place of this command",
    lambda control, arguments: control.foreground(arguments),
    None,
)

ACTIONS: Final[Mapping[str, Action]] = {
    "start": Action(
        "start [ARGUMENT...]",
        "start the server in the background and wait until it answers",
        lambda control, arguments: control.start(arguments),
        None,
    ),
    "stop": Action(
        "stop",
        "stop the server and wait for its end",
        lambda control, arguments: control.stop(),
    ),
    "restart": Action(
        "restart [ARGUMENT...]",
        "stop the server, if it runs, and start it",
        lambda control, arguments: control.restart(arguments),
        None,
    ),
    "status": Action(
        "status [-l]",
        "say whether the server is up and answers; -l: also what the daemon manager says",
        _status,
        1,
    ),
    "fg": _FOREGROUND,
    "foreground": _FOREGROUND,
    "wait": Action(
        "wait",
        "wait until the server process ends",
        lambda control, arguments: control.wait(),
    ),
    "kill": Action(
        "kill [SIGNAL]",
        "send a signal to the server, TERM unless another is named",
        lambda control, arguments: control.kill(*arguments),
        1,
    ),
    "logreopen": Action(
        "logreopen",
        "open the log files and the transcript again, after somebody renamed them",
        lambda control, arguments: control.logreopen(),
    ),
    "reopen_transcript": Action(
        "reopen_transcript",
        "open the transcript again",
        lambda control, arguments: control.reopen_transcript(),
    ),
    "logtail": Action(
        "logtail [FILE]",
        "show the end of the log and what is added to it, until interrupted",
        lambda control, arguments: control.logtail(*arguments),
        1,
    ),
    "show": Action(
        "show [options|python|all]",
        "show the settings in effect, or the Python that runs this",
        lambda control, arguments: control.show(*arguments),
        1,
    ),
}
"""Each action by its name; ``help`` is not among them because it needs no configuration."""

_STARTING: Final = frozenset({"start", "fg", "foreground"})
_STOPPING: Final = frozenset({"stop", "restart"})


def help_text(name: str | None = None) -> str:
    """Return what the actions do, or what one of them does.

    :raises ConfigurationError: there is no action *name*.
    """
    actions = [ACTIONS[_known(name)]] if name else list(dict.fromkeys(ACTIONS.values()))
    return "\n".join(f"{action.usage:28}{action.text}" for action in actions)


def run_action(
    control: Control, name: str | None, arguments: Sequence[str], environ: Mapping[str, str]
) -> int:
    """Carry out an action; return the exit status.

    Below supervisord, and with no daemon manager at work, ``start`` serves in the foreground, and
    so does a command without an action: supervisord must see the server itself.

    :param environ: the environment of this process.
    :raises ConfigurationError: there is no such action, or not with these arguments or not here.
    :raises ZeolithError: it failed.
    """
    action = ACTIONS[_known(name)] if name else _FOREGROUND
    if action.most is not None and len(arguments) > action.most:
        raise ConfigurationError(
            f"ctl {name}", f"{arguments[action.most]!r} is one argument too many", action.usage
        )
    if SUPERVISORD in environ and (name is None or name in _STARTING | _STOPPING):
        if control.manager() is None:
            if name in _STOPPING:
                raise ConfigurationError(
                    f"ctl {name}",
                    f"{SUPERVISORD} is set and no daemon manager runs: supervisord runs the server",
                    f"use 'supervisorctl {name}', or unset the variable",
                )
            print(
                f"zeolith: {SUPERVISORD} is set: serving in the foreground",
                file=sys.stderr,
                flush=True,
            )
            return control.foreground(arguments)
    elif name is None:
        raise ConfigurationError("ctl", "an action is missing", f"use one of {_names()}")
    return action.run(control, arguments)


def _names() -> str:
    return ", ".join([*ACTIONS, "help"])


def _known(name: str) -> str:
    if name not in ACTIONS:
        raise ConfigurationError("ctl", f"there is no action {name!r}", f"use one of {_names()}")
    return name
