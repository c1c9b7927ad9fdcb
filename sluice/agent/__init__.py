"""The agent: takes pushes from shippers, asks the gate, hands on to upstream what is left.

app.py puts its HTTP together, intake.py receives requests, places.py bounds how many are at work,
upstream.py sends, serve.py runs it all as a supervisor and one worker process.
"""
