"""Tests of devices are for Linux, whose packages have all compilers and simulators."""

import sys

import pytest


@pytest.fixture(autouse=True)
def on_linux():
    if not sys.platform.startswith("linux"):
        pytest.skip("compilers and simulators of devices are used on Linux")
