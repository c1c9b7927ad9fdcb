"""Text -> documents, each a budget or the reason why it is none.

The unit is the document (in a List, the item): a bad one hides no neighbour. Only text that
is not YAML at all is refused as a whole.
"""

import re
from dataclasses import dataclass

from sluice import block, budget, errors

LISTS = (("v1", "List"), (budget.API_VERSION, f"{budget.KIND}List"))


@dataclass(frozen=True, slots=True)
class Document:
    """One budget of a text, or why it is refused.

    `index` counts the documents of the text from 0; the items of a List share theirs. `line`
    is where to look, counted from 1: the field at fault, else where the manifest begins.
    `key` is None when the manifest does not tell. Either `budget` or `error` is None; `error`
    begins with `field` where one is at fault.
    """

    index: int
    line: int
    key: str | None
    budget: budget.Budget | None
    error: str | None
    field: str = ""


def read_documents(text: str) -> list[Document]:
    """Read all budgets of a text; empty documents are skipped, Lists are taken apart.

    Raises:
        BadYaml: the text is not YAML; a BadBudget that says in which line and column.
    """
    return [
        _judge(index, line, manifest, root.flaw)
        for index, root in enumerate(block.read(text))
        if root.value is not None or root.flaw is not None
        for manifest, line in _manifests(root)
    ]


def _manifests(root: block.Root) -> list[tuple[object, int]]:
    """The manifests of one document, and the lines on which they begin."""
    value = root.value
    if (
        not isinstance(value, block.Block)
        or (value.get("apiVersion"), value.get("kind")) not in LISTS
    ):
        return [(value, root.line)]
    items = value.get("items")
    if not isinstance(items, list):
        items = [] if items is None else [items]
    return [(item, item.line if isinstance(item, block.Block) else root.line) for item in items]


def _judge(index: int, line: int, manifest: object, flaw: block.Flaw | None) -> Document:
    key = budget.key_of(manifest)
    if flaw is not None:
        return Document(index, flaw.line, key, None, flaw.message)
    try:
        found = budget.Budget.from_manifest(manifest)
    except errors.BadBudget as error:
        here = _line_of(manifest, error.field, line)
        return Document(index, here, key, None, error.message, error.field)
    return Document(index, line, key, found, None)


def _line_of(manifest: object, path: str, line: int) -> int:
    """The line of a field, or of the innermost of its parents that is there."""
    node = manifest
    for name in re.split(r"[.\[]", path):
        if not isinstance(node, block.Block) or name not in node.lines:
            break
        line, node = node.lines[name], node[name]
    return line
