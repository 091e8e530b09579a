"""Packages that can be called.

ZEO's users know ``ZEO.client(...)`` and ``ZEO.server(...)``, and here ``client`` and ``server``
are also the names of packages.  Importing a package sets it as an attribute of its parent, so a
function of that name would vanish with the first ``import zeolith.client``.  Instead the package
itself is callable, and the call goes to the function: both meanings hold at any time.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module whose call goes to a function of another module."""

    _function_home: str
    _function_name: str

    def __call__(self, *args: Any, **kw: Any) -> Any:
        function = getattr(import_module(self._function_home), self._function_name)
        return function(*args, **kw)


def make_callable(package: str, home: str, function: str) -> None:
    """Let calls of *package* go to *function* in the module *home*, imported when called."""
    module = sys.modules[package]
    module.__class__ = CallableModule
    assert isinstance(module, CallableModule)
    module._function_home = home
    module._function_name = function
