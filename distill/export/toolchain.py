"""Compile small programs for a device with GCC, and measure what they occupy: flash, static RAM, and the stack.

A program has a `main`; a Cortex-M gets a vector table and the copying of initialized data from here, an AVR from
avr-libc. Unused functions and tables are left out by the linker.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wdouble-promotion")
"""Options under which generated headers compile without a message."""

# Tables for unwinding are no part of the code that is measured; in the red zone below the stack pointer, which x86-64
# leaves to functions that call no others, arrays would not be counted
_HOST = ("-fno-asynchronous-unwind-tables", *(["-mno-red-zone"] if platform.machine() in ("x86_64", "AMD64") else []))
_EACH_SECTION = ("-ffunction-sections", "-fdata-sections")
# The linker is to accept programs beyond the memory, so that their bytes can be told
_ATMEGA328P = ("-mmcu=atmega328p", "-Wl,--defsym=__TEXT_REGION_LENGTH__=0x20000,--defsym=__DATA_REGION_LENGTH__=0xff00")
_CORTEX = ("-mthumb", "-ffreestanding", "-nostartfiles", "--specs=nano.specs", "-Wl,-T,cortex.ld")


@dataclass(frozen=True)
class Target:
    """A device, and the compiler for it.

    Parameters
    ----------
    name : str
    prefix : str
        Of the names of the compiler and its tools.
    package : str
        Names of the Debian packages that contain them.
    options : tuple of str
        Options of the compiler for this device.
    flash, ram : int or None
        Bytes that the device has; None where that depends on the chip around the core.
    call_bytes : int
        Stack that a call itself takes.
    """

    name: str
    prefix: str
    package: str
    options: tuple[str, ...]
    flash: int | None = None
    ram: int | None = None
    call_bytes: int = 0

    @property
    def is_cortex(self) -> bool:
        """Whether the program needs a vector table and a linker script."""
        return self.prefix.startswith("arm")


TARGETS = {
    target.name: target
    for target in (
        Target("host", "", "gcc", _HOST, call_bytes=8),
        Target(
            "cortex-m3", "arm-none-eabi-", "gcc-arm-none-eabi libnewlib-arm-none-eabi", ("-mcpu=cortex-m3", *_CORTEX)
        ),
        Target(
            "cortex-m0", "arm-none-eabi-", "gcc-arm-none-eabi libnewlib-arm-none-eabi", ("-mcpu=cortex-m0", *_CORTEX)
        ),
        Target("atmega328p", "avr-", "gcc-avr avr-libc", _ATMEGA328P, 32768, 2048, call_bytes=2),
    )
}

# 4 MB of each at the addresses of most Cortex-M chips; the board mps2-an385, which qemu simulates, has as much
_CORTEX_SCRIPT = """\
MEMORY
{
    flash (rx) : ORIGIN = 0x00000000, LENGTH = 4M
    ram (rwx) : ORIGIN = 0x20000000, LENGTH = 4M
}
ENTRY(reset)
SECTIONS
{
    .text : { KEEP(*(.vectors)) *(.text .text.*) } > flash
    .rodata : { *(.rodata .rodata.*) } > flash
    .ARM.exidx : { *(.ARM.exidx*) } > flash
    .data : { data_begin = .; *(.data .data.*) . = ALIGN(4); data_end = .; } > ram AT > flash
    data_load = LOADADDR(.data);
    .bss (NOLOAD) : { bss_begin = .; *(.bss .bss.*) *(COMMON) . = ALIGN(4); bss_end = .; } > ram
    end = .;
    stack_top = ORIGIN(ram) + LENGTH(ram);
    /DISCARD/ : { *(.ARM.attributes) *(.comment) *(.ARM.extab*) *(.init*) *(.fini*) }
}
"""

_CORTEX_START = """\
#include <stdint.h>
extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];
int main(void);
void reset(void);
void halt(void);

void halt(void)
{
    for (;;) {
    }
}

void reset(void)
{
    const uint32_t *from = data_load;
    for (uint32_t *to = data_begin; to < data_end; to++) *to = *from++;
    for (uint32_t *to = bss_begin; to < bss_end; to++) *to = 0;
    (void)main();
    halt();
}

/* The initial stack pointer and the fifteen exceptions of the core; interrupts of the chip would follow */
__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, halt, halt, halt, halt, halt, halt,
    halt, halt, halt, halt, halt, halt, halt, halt};
"""


def find_target(name: str) -> Target:
    """Return the target of this name, whose tools are installed.

    Raises
    ------
    ValueError
        If there is none, or the host has no programs that can be read.
    FileNotFoundError
        If its compiler is not installed.
    """
    if name not in TARGETS:
        raise ValueError(f"target={name!r} is unknown; one of {', '.join(map(repr, TARGETS))}")
    target = TARGETS[name]
    if name == "host" and sys.platform in ("darwin", "win32"):
        raise ValueError(
            "target='host' reads programs in the format ELF, which this system does not have; "
            "use a device, such as 'cortex-m3'"
        )
    for tool in ("gcc", "objdump", "readelf"):
        if shutil.which(target.prefix + tool) is None:
            raise FileNotFoundError(
                f"target={name!r} needs {target.prefix}{tool}, which is not on the PATH; "
                f"on Debian and Ubuntu: apt-get install {target.package}"
            )
    return target


def compiler_version(target: Target) -> str:
    """Return the first line of what the compiler prints about itself."""
    return _run([f"{target.prefix}gcc", "--version"], Path.cwd()).splitlines()[0]


def compile_object(target: Target, source: str, folder: Path, name: str, options: Sequence[str]) -> Path:
    """Compile a translation unit and return its object file, beside which ``name.su`` has the stack of its functions.

    Parameters
    ----------
    target : Target
    source : str
        C.
    folder : Path
        Where files are written.
    name : str
        Of the files, without an ending.
    options : sequence of str
        Further options of the compiler.

    Raises
    ------
    ValueError
        With the messages of the compiler, if it refuses the source.
    """
    (folder / f"{name}.c").write_text(source, encoding="utf-8")
    # Options of the linker alone are left out
    own = [option for option in target.options if not option.startswith(("-Wl,", "-nostartfiles", "-specs", "--specs"))]
    command = [
        f"{target.prefix}gcc",
        *own,
        *_EACH_SECTION,
        *options,
        "-fstack-usage",
        "-c",
        f"{name}.c",
        "-o",
        f"{name}.o",
    ]
    _run(command, folder)
    return folder / f"{name}.o"


def link(target: Target, objects: Sequence[Path], folder: Path, name: str, options: Sequence[str] = ()) -> Path:
    """Link objects to a program without unused functions, and return its ELF file.

    Raises
    ------
    ValueError
        With the messages of the linker.
    """
    objects = list(objects)
    if target.is_cortex:
        (folder / "cortex.ld").write_text(_CORTEX_SCRIPT, encoding="utf-8")
        objects.append(compile_object(target, _CORTEX_START, folder, "start", ["-std=c99", "-Os"]))
    files = [str(path) for path in objects]
    _run(
        [f"{target.prefix}gcc", *target.options, *options, "-Wl,--gc-sections", *files, "-lm", "-o", f"{name}.elf"],
        folder,
    )
    return folder / f"{name}.elf"


@dataclass(frozen=True)
class Sections:
    """Bytes of a program.

    Parameters
    ----------
    code : int
        Instructions, in flash.
    constants : int
        Tables, in flash; values that the compiler puts between instructions count as code.
    initialized : int
        Variables with initial values, in RAM, and their values in flash.
    zeroed : int
        Variables without, in RAM.
    """

    code: int
    constants: int
    initialized: int
    zeroed: int

    @property
    def flash(self) -> int:
        """Bytes of flash."""
        return self.code + self.constants + self.initialized

    @property
    def static_ram(self) -> int:
        """Bytes of RAM that are occupied all the time."""
        return self.initialized + self.zeroed

    def __sub__(self, other: "Sections") -> "Sections":
        return Sections(
            self.code - other.code,
            self.constants - other.constants,
            self.initialized - other.initialized,
            self.zeroed - other.zeroed,
        )


def sections(target: Target, program: Path) -> Sections:
    """Return what a program occupies."""
    code = constants = initialized = zeroed = 0
    in_code = set()
    listing = _run([f"{target.prefix}objdump", "-h", "-w", program.name], program.parent)
    for line in re.finditer(r"^ *(\d+) (\S+) +([0-9a-f]+) .*?2\*\*\d+ +(.*)$", listing, re.MULTILINE):
        if not target.prefix and line[2].rsplit(".", 1)[-1] not in ("text", "rodata", "data", "bss"):
            continue  # what a host's loader needs
        index, size, flags = int(line[1]), int(line[3], 16), set(line[4].replace(",", " ").split())
        if "ALLOC" not in flags:
            continue
        if "LOAD" not in flags:
            zeroed += size
        elif "READONLY" not in flags:
            initialized += size
        elif "CODE" in flags:
            code += size
            in_code.add(str(index + 1))  # readelf counts an empty section in front
        else:
            constants += size
    # Tables of an AVR are in the section of its code
    listing = _run([f"{target.prefix}readelf", "-s", "-W", program.name], program.parent)
    tables = {}
    for line in re.finditer(r"^ *\d+: ([0-9a-f]+) +(\d+) OBJECT +\S+ +\S+ +(\d+) ", listing, re.MULTILINE):
        if line[3] in in_code:
            tables[line[1]] = int(line[2])  # by address: a table may have several names
    moved = sum(tables.values())
    return Sections(code - moved, constants + moved, initialized, zeroed)


def object_bytes(target: Target, program: Path) -> dict[str, int]:
    """Return the bytes of each table and variable of a program by its name."""
    listing = _run([f"{target.prefix}readelf", "-s", "-W", program.name], program.parent)
    found = re.finditer(r"^ *\d+: [0-9a-f]+ +(\d+) OBJECT +\S+ +\S+ +\d+ (\S+)", listing, re.MULTILINE)
    return {line[2]: int(line[1]) for line in found}


def disassembly(target: Target, program: Path) -> str:
    """Return the instructions of a program as objdump prints them."""
    return _run([f"{target.prefix}objdump", "-d", "--no-show-raw-insn", program.name], program.parent)


def _run(command: Sequence[str], folder: Path) -> str:
    """Return what a tool prints; an error with its messages if it fails."""
    result = subprocess.run(
        command, cwd=folder, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, errors="replace"
    )
    if result.returncode:
        raise ValueError(result.stderr.strip() or f"{command[0]} failed with exit status {result.returncode}")
    return result.stdout
