"""Sluice: daily and monthly byte budgets per team, enforced between log shippers and Loki."""

from sluice.budget import Budget
from sluice.gate import Gate
from sluice.policy import Action, evaluate_usage_stateless

__version__ = "0.1.0"
__all__ = ["Action", "Budget", "Gate", "evaluate_usage_stateless"]
