"""The start of Zope: which process creates the root application, and what the others do.

Zope tells of two moments of its start: the database is open, and the application is there.  Between
them it writes, in several transactions.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from .environment import refusal
from .first import FirstStart

logger = logging.getLogger(__name__)

_HOST_MONSTER: Final = "Virtual Host Monster"

_LEFT_BEHIND: Final = (
    "Control_Panel",
    "_standard_objects_have_been_added",
    "_initializer_registry",
)
"""Attributes that Zopes before version 4 had in the database, and that Zope removes."""


def is_begun(root: Any) -> bool:
    """Whether Zope has an application there."""
    return "Application" in root


def is_done(root: Any) -> bool:
    """Whether Zope would find nothing to add, nor to remove.

    What it adds last, the view of the root, is there only after all the rest; somebody may have
    removed some of it since, though.
    """
    application = root.get("Application")
    if application is None or _is_old(application) or _awaits_user(application):
        return False
    found = application.objectMap()
    ids = {each["id"] for each in found}
    return {"acl_users", "index_html"} <= ids and (
        "virtual_hosting" in ids or any(each["meta_type"] == _HOST_MONSTER for each in found)
    )


def _is_old(application: Any) -> bool:
    """Whether an older Zope has left something that Zope would change."""
    application._p_activate()
    return any(vars(application).get(name) is not None for name in _LEFT_BEHIND) or not (
        {"Owner", "Authenticated"} <= set(application.__ac_roles__)
    )


def _awaits_user(application: Any) -> bool:
    """Whether this instance has a file ``inituser``, and Zope would take the user from it.

    Each instance of a site has one when it is new, whoever has initialised the database.
    """
    users: Any = getattr(application, "acl_users", None)
    if not hasattr(users, "_createInitialUser"):
        return False  # another kind of folder, as Plone's
    from AccessControl.users import readUserAccessFile

    return len(users.getUserNames()) <= 1 and readUserAccessFile("inituser") is not None


class Coordinator:
    """Goes along with the start of one Zope process, on the thread that starts it."""

    def __init__(self) -> None:
        self._start: FirstStart | None = None

    def opened(self, event: Any) -> None:
        """The database is open: wait for whoever initialises it, or be the one.

        :param event: ``zope.processlifetime.IDatabaseOpened``.
        :raises ConfigurationError: the database is none of a Zeolith client.
        :raises ClientDisconnected: there is no server.
        """
        why_not = refusal(os.environ)
        if why_not is None and event.database.storage.isReadOnly():
            why_not = (
                "this one does not initialise the database, because it is read-only here; "
                "if no other does, let one write once"
            )
        self._start = FirstStart(event.database, is_done, is_begun, why_not)
        self._start.begin()
        if why_not is not None:
            leave_alone()

    def opened_with_root(self, event: Any) -> None:
        """The application is there.

        :param event: ``zope.processlifetime.IDatabaseOpenedWithRoot``.
        """
        if self._start is not None:
            start, self._start = self._start, None
            start.end()


def leave_alone() -> None:
    """Have this Zope process change nothing in the database when it starts."""
    import OFS.Application
    import transaction

    class Reader(OFS.Application.AppInitializer):
        """Does what concerns this process only."""

        def commit(self, note: str) -> None:
            logger.debug("left alone: %s", note)
            transaction.abort()

        def install_inituser(self) -> None:
            """Nothing: users are in the database."""

        def install_standards(self) -> None:
            """Nothing: what it removes is in the database."""

        def install_virtual_hosting(self) -> None:
            """Nothing: the object is in the database."""

        def install_root_view(self) -> None:
            """Nothing: the object is in the database."""

    def initialize(application: Any) -> None:
        Reader(application).initialize()
        # Products are told of the application, too, and may have changed it.
        transaction.abort()

    # Zope looks it up there at the moment when it calls it, and offers no other way.
    OFS.Application.initialize = initialize
    logger.info("this process changes nothing in the database when it starts")


def coordinate() -> None:
    """Have the start of Zope in this process coordinated with that of others.

    Called before Zope opens its database, at most once.
    """
    import zope.component.event  # has handlers called at all
    import zope.processlifetime

    coordinator = Coordinator()
    zope.component.provideHandler(coordinator.opened, (zope.processlifetime.IDatabaseOpened,))
    zope.component.provideHandler(
        coordinator.opened_with_root, (zope.processlifetime.IDatabaseOpenedWithRoot,)
    )
