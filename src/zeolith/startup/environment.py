"""What ``ZEO_CLIENT`` and ``FORCE_PRODUCT_LOAD`` say of initialising a database."""

from __future__ import annotations

from collections.abc import Mapping

_HELP = "start one process without ZEO_CLIENT, or with FORCE_PRODUCT_LOAD=1"


def refusal(environ: Mapping[str, str]) -> str | None:
    """Return why a process with this environment must not initialise a database; None if it may.

    ``FORCE_PRODUCT_LOAD`` decides if it is set: not empty means that it may, empty that it may
    not.  Else a process may unless ``ZEO_CLIENT`` is set and not empty.
    """
    force = environ.get("FORCE_PRODUCT_LOAD")
    if force is not None:
        because = None if force else "FORCE_PRODUCT_LOAD is set and empty"
    else:
        because = "ZEO_CLIENT is set" if environ.get("ZEO_CLIENT") else None
    if because is None:
        return None
    return (
        f"this one does not initialise the database, because {because}; if no other does, {_HELP}"
    )
