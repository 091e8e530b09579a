"""Child process: bind to cores, then become the server of a product."""

from __future__ import annotations

import resource
import runpy
import sys

from .affinity import bind


def main(cores: str, module: str, *arguments: str) -> None:
    """Run *module* as a program, on *cores* (numbers with commas between)."""
    bind(int(core) for core in cores.split(","))
    # Many systems allow a thousand files unless asked for more.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
