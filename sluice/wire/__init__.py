"""Wire formats: bodies as shippers send them, and the labels inside.

`loki` undoes and redoes the compression of a push, `labels` reads the label text of its
streams. Nothing here does I/O, and nothing here judges: what Loki takes is taken, what it
would refuse is refused or left for Loki to refuse.
"""
