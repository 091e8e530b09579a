"""Blobs in an object store, with a bounded number of them on the local disk.

A FileStorage's blob directory stays what it is, but not every blob has its file there: a *stub*
beside it says under which key the object store has it.  The rules:

- A blob is uploaded before its transaction asks for the commit lock; so no transaction is committed
  whose blobs are not in the store, and nobody waits for the store with the lock.
- The stub is written afterwards, and needs no flush: a file without a stub is uploaded again.
- A file is removed only when its stub is on disk.  So each committed blob is a local file, or a
  stub whose object has been stored.
- An object is deleted only when no stub names it: neither in the blob directory nor in what a pack
  has put aside.  What a crash leaves is objects that nobody names, which go the same way.
"""
