"""`sluice controller`: sums up what nodes report into the status of their budgets.

    NodeLogUsage ─► totals ─► plan ─► loop ─► TeamBudget.status, Events
    TeamBudget ───► fleet ────┘         └───► fold (nodes that are gone)

Two replicas watch, one leads; what the leader knows is rebuilt from the objects at any time.
"""
