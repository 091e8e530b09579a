"""The client's side: a ZODB storage whose data are on a server.

Calling this package, as in ``zeolith.client(address)``, makes a client storage.
"""

from .._callable import make_callable

make_callable(__name__, "zeolith.shortcuts", "client")
