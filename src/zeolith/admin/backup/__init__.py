"""Backing up a database that is being served: the file and its blobs, as of one transaction.

The file is backed up by ZODB's own repozo, in repozo's format; this package adds the blobs, and a
manifest for each backup that says what belongs to it:

- :mod:`.repository`: the directory that the backups are in;
- :mod:`.making`: a full or an incremental backup;
- :mod:`.restoring`: a database from a backup;
- :mod:`.verifying`: whether a backup is all there;
- :mod:`.retention`: which backups may go.

Nothing here needs a running server, or minds one.
"""
