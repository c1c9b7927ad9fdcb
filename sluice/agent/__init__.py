"""The agent: receives pushes, asks the gate, and forwards the lines that pass to upstream.

app.py puts its HTTP together, intake.py receives requests, places.py bounds how many are at work,
upstream.py sends, serve.py runs it all as a supervisor and one worker process.
"""
