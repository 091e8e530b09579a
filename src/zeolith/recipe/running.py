"""What the scripts of a part call.  Nothing of buildout is needed here.

The arguments of the process go to the command of ``zeolith``; each function returns the exit
status.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

# First, as in the command itself: a signal that comes before has its default effect.
from ..cli.signals import Signals  # isort: skip
from ..cli.main import ZEOLITH, ZEOPACK, main
from .options import VARIABLE


def control(configuration: str, buildout: str | None = None) -> int:
    """Run ``zeolith ctl``.

    :param configuration: path of the ``zeo.conf``.
    :param buildout: directory of the buildout, where that can be moved.
    """
    _place(buildout)
    return _run(["ctl", "-C", configuration, *sys.argv[1:]])


def serve(configuration: str, buildout: str | None = None) -> int:
    """Run ``zeolith serve``; the parameters are those of :func:`control`."""
    _place(buildout)
    return _run(["serve", "-C", configuration, *sys.argv[1:]])


def pack(buildout: str | None = None, **defaults: Any) -> int:
    """Run ``zeolith pack``.

    :param buildout: as in :func:`control`.
    :param defaults: values of its options by the names of its parameters; those that are given on
        the command line win.
    """
    _place(buildout)
    return main(sys.argv[1:], Signals(), program=ZEOPACK, defaults=defaults)


def backup(buildout: str | None = None, **defaults: Any) -> int:
    """Run ``zeolith backup``; the parameters are those of :func:`pack`."""
    _place(buildout)
    return _run(["backup", *sys.argv[1:]], {"backup": defaults})


def call(path: str) -> Any:
    """Call ``main()`` of a Python file, with no arguments; return what it returns."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return f"{path} is no Python file"
    # What lies beside the file can be imported, as if it was run itself.
    sys.path.append(os.path.dirname(path))
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.main()


def _place(buildout: str | None) -> None:
    if buildout is not None:
        os.environ[VARIABLE] = buildout


def _run(arguments: Sequence[str], defaults: dict[str, Any] | None = None) -> int:
    return main(arguments, Signals(), program=ZEOLITH, defaults=defaults)
