"""Wire formats: bodies as shippers send them, and the label text inside.

`loki` tells what a push is written in, and undoes and redoes its compression (`inflate`
does the bounded part); `labels` reads the labels of its streams (`escapes` the JSON strings
in them). Nothing here does I/O or judges, and what Loki takes is taken.
"""
