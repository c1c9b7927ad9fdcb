"""Sluice: daily and monthly byte budgets per team, enforced between log shippers and Loki."""

import importlib

# The name is what type checkers go by; importing `typing` for it would take longer than all else.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sluice.budget import Budget
    from sluice.gate import Gate
    from sluice.policy import Action, evaluate_usage_stateless

__version__ = "0.1.0"
__all__ = ["Action", "Budget", "Gate", "evaluate_usage_stateless"]

HOMES = {
    "Action": "sluice.policy",
    "Budget": "sluice.budget",
    "Gate": "sluice.gate",
    "evaluate_usage_stateless": "sluice.policy",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used: `python -m sluice` imports this file first,
        and __main__.py has to handle Ctrl-C before anything that takes long to load.
        """
        if name not in HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        """Name the public names before their first use, too: completion asks for them."""
        return sorted({*globals(), *HOMES})
