"""The recipe for zc.buildout: it writes a configuration and scripts, which call ``zeolith``.

What buildout loads is :class:`.part.Recipe`; what the scripts call is in :mod:`.running`, which
needs no buildout.
"""
