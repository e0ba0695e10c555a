"""One browser for the tests of a worker."""

import pytest
from browser import Browser


@pytest.fixture(scope="session")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def show(browser):
    """Open pages, and close them at the end of the test."""
    pages = []

    def show(url, **options):
        pages.append(browser.open(url, **options))
        return pages[-1]

    yield show
    for page in pages:
        page.close()
