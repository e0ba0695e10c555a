"""Programs outside of Python that some tests run: compilers, simulators, node, a browser.

Where a program is missing, its tests are skipped, with a reason that names it. With the environment variable
``DISTILL_REQUIRE_DEVICES=1``, as `.ci/run` sets it, they fail instead, so that nothing is skipped unseen there.
"""

import os
import shutil

import pytest

REQUIRED = "DISTILL_REQUIRE_DEVICES"
# Debian's package of a program, where it has another name
_PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "arm-none-eabi-size": "binutils-arm-none-eabi",
    "avr-gcc": "gcc-avr avr-libc",
    "avr-size": "binutils-avr",
    "node": "nodejs",
}


def need(*programs: str) -> tuple[str, ...]:
    """Return the paths of programs; skip the test or the module, or fail, if one of them is missing.

    Parameters
    ----------
    *programs : str
        Names of programs, as a shell finds them.

    Returns
    -------
    tuple of str
        Their paths, in this order.

    Examples
    --------
    In a fixture, a test, or at the top of a module::

        gcc, qemu = need("arm-none-eabi-gcc", "qemu-system-arm")
    """
    found = [shutil.which(program) for program in programs]
    missing = [program for program, path in zip(programs, found) if path is None]
    if missing:
        packages = " ".join(_PACKAGES.get(program, program) for program in missing)
        absent(f"{', '.join(missing)} not found (Debian: apt-get install {packages})")
    return tuple(path for path in found if path is not None)


def absent(reason: str) -> None:
    """Skip the test or the module for a tool that is missing, or fail where all of them must be there."""
    if os.environ.get(REQUIRED, "") not in ("", "0"):
        pytest.fail(f"{reason}; {REQUIRED} is set", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
