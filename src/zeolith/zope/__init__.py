"""A switch: ``%import zeolith.zope`` in zope.conf coordinates the first start of Zope processes.

Unlike other modules this one has an effect when it is imported, because that is all that line does.
What it switches on is in :mod:`zeolith.startup`.
"""

from __future__ import annotations

from ..startup.application import coordinate

coordinate()
