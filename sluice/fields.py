"""Reading a manifest field by field: what is there, or a refusal that names the field.

Rule 1: null means absent, for the API server drops nulls before it looks at a manifest.
Rule 2: a value is quoted in a message cut short and escaped, for it may be anything.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sluice import errors

NAME_MAX = 63
SHOWN_MAX = 40
INTEGER_SHOWN_BITS = 128

# DNS-1123 label and subdomain: what Kubernetes lets a namespace and an object be called.
NAMESPACE = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?")
NAME = re.compile(rf"{NAMESPACE.pattern}(\.{NAMESPACE.pattern})*")
FIELD_NAME = re.compile("[A-Za-z][A-Za-z0-9]{0,62}")


@dataclass(frozen=True, slots=True)
class Section:
    """One mapping of a manifest and the path of fields that leads to it.

    `tolerated` collects what is forgiven instead of raised; None forgives nothing.
    """

    path: str
    values: Mapping[object, object]
    tolerated: list[errors.BadBudget] | None = None

    @classmethod
    def of(
        cls, path: str, value: object, tolerated: list[errors.BadBudget] | None = None
    ) -> "Section":
        """The section in `value`, an empty one if it is absent.

        Raises:
            BadBudget: it is something else.
        """
        if value is None:
            return cls(path, {}, tolerated)
        if not isinstance(value, Mapping):
            raise errors.BadBudget(f"{shown(value)} where a mapping is due", path)
        return cls(path, value, tolerated)

    def field(self, name: str) -> str:
        """The path of one of its fields."""
        return f"{self.path}.{name}" if self.path else name

    def section(self, name: str) -> "Section":
        """The section in one of its fields."""
        return Section.of(self.field(name), self.values.get(name), self.tolerated)

    def only(self, known: Collection[str]) -> None:
        """Refuse a field that is not known: a misspelt limit must not go unnoticed."""
        for name in self.values:
            if name in known:
                continue
            text = name if isinstance(name, str) else shown(name)
            meant = difflib.get_close_matches(text[:NAME_MAX], known, n=1)
            hint = f"; {meant[0]} is meant?" if meant else ""
            if FIELD_NAME.fullmatch(text):
                self.forgive(errors.BadBudget(f"unknown field{hint}", self.field(text)))
            else:
                self.forgive(errors.BadBudget(f"unknown field {shown(name)}{hint}", self.path))

    def forgive(self, error: errors.BadBudget) -> None:
        """Raise, or note what an object that the API server took may be forgiven."""
        if self.tolerated is None:
            raise error
        self.tolerated.append(error)

    def text(self, name: str) -> str | None:
        """The string in a field, None if it is absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise errors.BadBudget(not_text(self.values, name), self.field(name))
        return value

    def constant(self, name: str, due: str) -> None:
        """Refuse anything but `due` in a field."""
        value = self.text(name)
        if value is None:
            raise errors.BadBudget(f"missing; {due} is due", self.field(name))
        if value != due:
            raise errors.BadBudget(f"{shown(value)} is not {due}", self.field(name))

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """The string in a field, one of `choices`; the first of them if it is absent."""
        value = self.text(name)
        if value is None:
            return choices[0]
        if value not in choices:
            raise errors.BadBudget(
                f"{shown(value)} is not one of {', '.join(choices)}", self.field(name)
            )
        return value

    def dns_name(self, name: str, pattern: re.Pattern[str], *, absent: str = "") -> str:
        """A Kubernetes name; `absent` if there is none, and a refusal if that is empty too."""
        value = self.text(name) or absent
        if not value:
            raise errors.BadBudget("missing", self.field(name))
        check_name(value, pattern, self.field(name))
        return value


def check_name(value: str, pattern: re.Pattern[str], field: str) -> None:
    """Refuse what Kubernetes would not call an object so, or is over 63 characters."""
    if len(value) > NAME_MAX:
        raise errors.BadBudget(
            f"{shown(value)} has {len(value)} characters, more than {NAME_MAX}", field
        )
    if not pattern.fullmatch(value):
        raise errors.BadBudget(
            f"{shown(value)} is not a name of small letters, digits and inner hyphens", field
        )


def not_text(container: Any, place: object) -> str:
    """Say that what a mapping or list has at a key or index is not a string.

    YAML reads plain words such as n, on or 123 as something else: who wrote a namespace must see
    what was written, and how to write it.
    """
    value = container[place]
    text = getattr(container, "written", {}).get(place)
    if text is None:
        return f"{shown(value)} is not a string"
    kind = f"the boolean {shown(value)}" if isinstance(value, bool) else "a number"
    return f'{text} is not a string: YAML reads it as {kind}; in quotes, "{text}", it is one'


def shown(value: object) -> str:
    """Quote a value from outside in a message: short, on one line, whatever it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN_MAX else f"{value[:SHOWN_MAX]}...")
    if isinstance(value, int):
        bits = value.bit_length()
        return str(value) if bits <= INTEGER_SHOWN_BITS else f"a number of {bits} bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
