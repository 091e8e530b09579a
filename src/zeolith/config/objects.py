"""Storages that are objects in Python files: ``-S name=path/of/module:attribute``."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

from ..errors import ConfigurationError

_FORM: Final = "use NAME=MODULE_PATH or NAME=MODULE_PATH:ATTRIBUTE"
_SUFFIX: Final = ".py"

_modules: Final[dict[Path, ModuleType]] = {}


@dataclass
class ObjectStorage:
    """Finds a storage in a Python file.

    The file is run when the storage is opened, once however many storages are taken from it.

    :param name: name of the storage on the server.
    :param module_path: path of the file; ``.py`` may be left out.
    :param attribute: name of the storage in the file.
    """

    name: str | None
    module_path: str
    attribute: str

    can_reopen: ClassVar = False
    """Once closed, the object is of no use, and the file is not run again."""

    @property
    def description(self) -> str:
        """What is opened, in a few words."""
        return f"{self.attribute} of {self.module_path}"

    def open(self) -> Any:
        """Return the storage.

        :raises ConfigurationError: there is no such file or attribute, it fails, or the object is
            no storage.
        """
        option = f"-S {self.name}={self.module_path}:{self.attribute}"
        module = _load(self.module_path, option)
        try:
            storage = getattr(module, self.attribute)
        except AttributeError:
            raise ConfigurationError(
                option,
                f"{module.__file__} defines no {self.attribute}",
                f"append :ATTRIBUTE, the storage's name in that file; {_FORM}",
            ) from None
        if isinstance(storage, type) or not hasattr(storage, "loadBefore"):
            raise ConfigurationError(
                option,
                f"{self.attribute} in {module.__file__} is {storage!r}, which is no storage",
                "name an object that provides ZODB's IStorage",
            )
        return storage


def parse_object_storage(text: str, option: str) -> ObjectStorage:
    """Return what ``NAME=MODULE_PATH[:ATTRIBUTE]`` means; the attribute is called *NAME* if not
    given.

    :param option: how the user calls the setting, for the error.
    :raises ConfigurationError: *text* has another form.
    """
    name, equals, rest = text.partition("=")
    path, colon, attribute = rest.rpartition(":")
    if not colon:
        path, attribute = rest, name
    if not (name and equals and path and attribute):
        raise ConfigurationError(option, f"{text!r} names no storage", _FORM)
    return ObjectStorage(name, path, attribute)


def _load(module_path: str, option: str) -> ModuleType:
    path = Path(module_path if module_path.endswith(_SUFFIX) else module_path + _SUFFIX).absolute()
    if path in _modules:
        return _modules[path]
    # What the file defines may be looked up by its module's name; a module that has that name
    # already must not be replaced.
    name = path.stem if path.stem not in sys.modules else f"{path.stem}@{path}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the suffix is that of a source file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        del sys.modules[name]
        raise ConfigurationError(
            option, f"{path} cannot be read: {error.strerror}", "correct the path"
        ) from error
    except Exception as error:
        del sys.modules[name]
        # Its own traceback tells more than we could.
        error.add_note(f"while running {path}, for {option}")
        raise
    _modules[path] = module
    return module
