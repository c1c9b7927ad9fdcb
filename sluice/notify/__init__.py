"""Telling people: what has changed about a team, once, to each of the sinks that somebody set.

    rows, forecasts ─► rules (what holds) ─► Notifier (what each sink was told) ─► sinks

`run` and the leading controller have one; neither waits for it.
"""
