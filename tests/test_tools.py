"""A missing program skips a test on a developer's machine and fails it in continuous integration."""

import shutil

import pytest
from tools import REQUIRED, need


def test_paths_of_programs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert need("gcc", "node") == ("/usr/bin/gcc", "/usr/bin/node")


@pytest.mark.parametrize(
    ("value", "outcome"), [(None, pytest.skip.Exception), ("0", pytest.skip.Exception), ("1", pytest.fail.Exception)]
)
def test_missing_program(value, outcome, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "avr-gcc" else f"/usr/bin/{name}")
    monkeypatch.delenv(REQUIRED, raising=False)
    if value is not None:
        monkeypatch.setenv(REQUIRED, value)
    with pytest.raises(outcome, match=r"^avr-gcc not found .*gcc-avr avr-libc"):
        need("gcc", "avr-gcc")
