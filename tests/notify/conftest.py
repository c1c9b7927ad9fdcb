"""What the notifier's tests need before they begin."""

import warnings

import apprise
import pytest


@pytest.fixture(scope="session", autouse=True)
def _apprise() -> None:
    """Have apprise load its services, one of which imports what Python has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        apprise.Apprise.instantiate("json://localhost")
