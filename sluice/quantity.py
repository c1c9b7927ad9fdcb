"""Numbers of bytes as people write them: 1000000, 500M or 10Gi."""

import re
from fractions import Fraction

from sluice import errors, fields

LIMIT_MAX = 2**63 - 1

# Source: the pattern of spec.dailyLimit in the CRD. Fractions and m (1/1000) are no bytes.
QUANTITY = re.compile("([0-9]{1,18})(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
LETTERS = "kMGTPE"
UNIT = {"": 1}
UNIT |= {letter: 1000 ** (i + 1) for i, letter in enumerate(LETTERS)}
UNIT |= {f"{letter.upper()}i": 1024 ** (i + 1) for i, letter in enumerate(LETTERS)}

# What people write instead: a fraction, an exponent, other cases, B for bytes, spaces.
LOOSE = re.compile(r"([0-9]{1,18})(\.[0-9]{1,9})?\s?([kKmMgGtTpP]|E(?![0-9]))?(i)?[bB]?", re.ASCII)
EXPONENT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)[eE]\+?([0-9]{1,2})", re.ASCII)
GROUPED = re.compile("[0-9]{1,3}(,[0-9]{3})+(?![0-9,])", re.ASCII)
EXAMPLES = ("1000000", "500M", "10Gi")


def parse(value: object, field: str) -> int:
    """Read a number of bytes: an integer, or digits with a suffix such as k, M or Gi.

    Raises:
        BadBudget: not such a number, negative, or 2^63 bytes and more; names `field`.
    """
    if isinstance(value, str):
        match = QUANTITY.fullmatch(value)
        if match is None:
            raise errors.BadBudget(
                f"{fields.shown(value)} is not a whole number of bytes{hint(value)}", field
            )
        size = int(match[1]) * UNIT[match[2] or ""]
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise errors.BadBudget(f"{fields.shown(value)} is neither integer nor quantity", field)
    if size < 0:
        raise errors.BadBudget(f"{fields.shown(size)} bytes is less than 0", field)
    if size > LIMIT_MAX:
        raise errors.BadBudget(
            f"{fields.shown(size)} bytes is more than {LIMIT_MAX}, the most that is counted", field
        )
    return size


def hint(text: str) -> str:
    """How to write what a refused quantity seems to mean, or examples; for the end of a message."""
    exponent = EXPONENT.fullmatch(text)
    if exponent is not None:
        size = Fraction(exponent[1]) * 10 ** int(exponent[2])
        if size.denominator == 1 and size <= LIMIT_MAX:
            return f": write {size}"
    # 1,000 is a thousand; of 1,5 only its writer knows what it is.
    plain = text.replace(",", "") if GROUPED.match(text) else text
    loose = LOOSE.fullmatch(plain.replace("_", "").strip())
    if loose is not None and (loose[2] is None or loose[3]):
        number = Fraction(loose[1] + (loose[2] or ""))
        suffixes = _suffixes(loose[3], bool(loose[4]))
        forms = [_written(number, one) for one in suffixes if number * UNIT[one] <= LIMIT_MAX]
        if forms:
            return f": write {' or '.join(dict.fromkeys(forms))}"
    return f" such as {', '.join(EXAMPLES[:-1])} or {EXAMPLES[-1]}"


def _suffixes(letter: str | None, is_binary: bool) -> list[str]:
    """The suffixes that a letter in any case may stand for."""
    if letter is None:
        return [] if is_binary else [""]
    binary = f"{letter.upper()}i"
    return [binary] if is_binary else ["k" if letter in "kK" else letter.upper(), binary]


def _written(number: Fraction, suffix: str) -> str:
    """A number of a unit as a quantity: in a smaller unit of its kind where it is a fraction."""
    size = number * UNIT[suffix]
    kind = [one for one in UNIT if one.endswith("i") == suffix.endswith("i") and one] + [""]
    for smaller in sorted(kind, key=UNIT.__getitem__, reverse=True):
        if UNIT[smaller] <= UNIT[suffix] and size % UNIT[smaller] == 0:
            return f"{size // UNIT[smaller]}{smaller}"
    return str(int(size))
