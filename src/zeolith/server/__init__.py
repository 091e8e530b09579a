"""The server: one event loop that serves ZODB storages over ZEO's protocol.

Calling this package, as in ``zeolith.server(path)``, runs a server for tests and experiments.
"""

from .._callable import make_callable
from .options import Address, ServerOptions
from .server import Server
from .threads import start_in_thread

__all__ = ["Address", "Server", "ServerOptions", "start_in_thread"]

make_callable(__name__, "zeolith.standalone", "server")
