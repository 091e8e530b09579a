"""Refusing to be imported beside PyPI's ZEO.

Both distributions have files of the same names, so whichever is installed later replaces files of
the other, and what is removed first takes files of the other with it.  Where ours came later,
``ZEO/__init__.py`` is ours and refuses.  Where PyPI's came later it is theirs; but
``ZEO.ClientStorage``, ``ZEO.Exceptions``, ``ZEO.interfaces``, ``ZEO.runzeo``, ``ZEO.StorageServer``
and ``ZEO.zconfig`` are packages here and modules there, a package wins, and ZEO has neither client
nor server without them: so these refuse, too.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Final

STANDIN_SUFFIX: Final = "+zeolith"
"""How the version ends of an empty distribution ``ZEO`` that says that this one takes its place."""

_REMEDY: Final = (
    "pip uninstall -y ZEO zeolith-zeo, and then either pip install zeolith-zeo (for Zeolith) or "
    "pip install ZEO (for ZEO)"
)

_is_alone = False


def refuse() -> None:
    """Return if this is the only ZEO here.

    :raises ImportError: it is not, or a part of it is missing; the message says what to do.
    """
    global _is_alone
    if _is_alone:
        return
    for found in metadata.distributions(name="ZEO"):
        if not found.version.endswith(STANDIN_SUFFIX):
            raise ImportError(
                f"ZEO {found.version} and zeolith-zeo are both installed, and have replaced files "
                f"of each other. Remove both and install one: {_REMEDY}",
                name="ZEO",
            )
    if not hasattr(sys.modules["ZEO"], "is_zeolith"):
        raise ImportError(
            "files of zeolith-zeo are missing: ZEO was installed over it, and removed. Install it "
            f"again: {_REMEDY}",
            name="ZEO",
        )
    _is_alone = True
