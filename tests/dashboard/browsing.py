"""A real browser: pages that are watched for all that they must not do."""

import dataclasses
import urllib.parse

import playwright.sync_api as playwright
from axe_playwright_python.sync_playwright import Axe

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclasses.dataclass
class Watched:
    """A page, and all that it must not do."""

    page: playwright.Page
    forgives: str = ""
    complaints: list[str] = dataclasses.field(default_factory=list)
    hosts: set[str] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("console", self.heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda one: self.hosts.add(urllib.parse.urlsplit(one.url).netloc))

    def heard(self, message: playwright.ConsoleMessage) -> None:
        is_forgiven = self.forgives and self.forgives in message.text
        if message.type in ("error", "warning", "trace") and not is_forgiven:
            self.complaints.append(f"{message.type}: {message.text}")


def names(page: playwright.Page) -> list[str]:
    """Teams in the order in which they are seen."""
    # Not the inner text: it is empty until a line that was moved is drawn anew.
    return page.locator("#teams tbody tr:visible th a").all_text_contents()


def drawn(page: playwright.Page) -> None:
    """Wait until both plots are there."""
    # Attached, and not visible: a flat line has no height, and counts as hidden.
    for path in ("#usage .scatterlayer .trace path.js-line", "#outcomes .barlayer"):
        page.wait_for_selector(path, state="attached")


def serious_faults(page: playwright.Page) -> list[tuple[str, list[str]]]:
    """What axe finds serious or critical: its name, and where."""
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in serious]
