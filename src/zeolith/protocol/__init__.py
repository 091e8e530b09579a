"""The wire protocol as a pure core: bytes in, events out.

Nothing below this package may import a socket, a thread, a clock or an event
loop; ``tests/test_layers.py`` holds that line.
"""
