"""Process 3: the web UI, read-only. On a cluster a process of its own; `run` has it in its worker.

    rows, forecasts, records ─► Board ─► pages, and what changes on them (server-sent events)

It decides nothing and writes nothing but its own history.
"""
