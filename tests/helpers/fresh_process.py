"""Run Python code in a new process, in which the packages and the helpers of the tests can be imported."""

import os
import subprocess
import sys
from pathlib import Path

import distill

_PATH = (Path(distill.__file__).parents[1], Path(__file__).parent)


def environment(**changes):
    """Return the environment of this process with the import path and `changes`."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, _PATH))} | changes


def run_python(code, *arguments, **changes):
    """Run `code` with `arguments` as ``sys.argv[1:]`` and return what it prints; a warning is an error."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
