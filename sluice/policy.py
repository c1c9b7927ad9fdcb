"""The policy: what one more entry means for a team. Pure arithmetic on whole bytes.

`evaluate_usage_stateless` is the rule in one piece; `soft_limit` is its 80 % threshold,
which ledger.py turns into the core's thresholds. Change them together.
"""

import enum
import math

THROTTLE_PERCENT = 80

# The core's word for "keep all": no rate below 1 reaches it, for the largest double below 1
# times 2^64 is 2^64 - 2048.
KEEP_ALL = 2**64 - 1


class Action(enum.IntEnum):
    """What happens to an entry. The values are those of the core's arrays."""

    ALLOW = 0
    THROTTLE = 1
    DROP = 2

    @property
    def word(self) -> str:
        """The action as the API, the metrics and the logs write it."""
        return self.name.lower()


def soft_limit(limit: int) -> int:
    """The bytes above which a team is in the throttle band: 80 % of `limit`, rounded down."""
    return limit * THROTTLE_PERCENT // 100


def evaluate_usage_stateless(
    team: str, daily_limit: int, current_usage: int, new_bytes: int
) -> Action:
    """Say what `new_bytes` more would mean for a team that has used `current_usage`.

    Args:
        team: the team's name; it does not change the answer, it is there for the caller's log.
        daily_limit, current_usage, new_bytes: bytes, >= 0. A month works the same way.

    Exactly 80 % of the limit still allows, exactly 100 % still throttles. This is a question about
    bytes: no more bytes at exactly 100 % are within the limit. The core asks about entries, and an
    entry without bytes needs the room of one byte (`_charge.pxd`, rule 4).
    """
    return within(current_usage + new_bytes, soft_limit(daily_limit), daily_limit)


def within(total: int, soft: int, hard: int) -> Action:
    """What it means to have used `total` bytes, where there are two bounds."""
    if total > hard:
        return Action.DROP
    return Action.THROTTLE if total > soft else Action.ALLOW


def keep_below(sample_rate: float) -> int:
    """The bound b for which `h < b` keeps a `sample_rate` share of all 64-bit hashes h.

    `KEEP_ALL` stands for rate 1 and keeps every hash, the largest one too.
    """
    if sample_rate >= 1:
        return KEEP_ALL
    # Exact, as only the exponent changes; and h < rate * 2^64 means h < ceil(rate * 2^64).
    return math.ceil(math.ldexp(sample_rate, 64))
