"""The only code that talks to the API server: calls, watches and the leader's lease.

Knows plain dicts and HTTP, nothing of budgets or usage; everything that goes wrong there comes
out as a `client.ApiError`.

    access     where the API server is and who we are
    refusal    the errors: what it says when it does not do what it was asked
    transport  one exchange: an answer or an error, within its time-outs
    client     the calls, lists and watches that Sluice makes
    informer   a kind of object as a stream of changes that never ends
    lease      one leader among the replicas, gone before its lease is
"""
