"""The agent: takes pushes from shippers, asks the gate, hands on to upstream what is left.

app.py is the HTTP that shippers see, turnstile.py bounds how many pushes are at work,
upstream.py sends, serve.py runs it all as a supervisor and one worker process.
"""
