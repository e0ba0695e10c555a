"""Run a C function on rows: on this machine, on a simulated Cortex-M3, and on a simulated ATmega328P.

The same translation unit, `distill.export.size.unit_source`, is compiled for each of them. Every row goes into the
array of inputs in RAM, one call is made, and its label and results come back as they are, bit for bit.

What is counted. On the ATmega328P simavr counts the cycles of each instruction as its data sheet has them. On the
Cortex-M3 (qemu's board mps2-an385) instructions are counted: with ``-icount shift=10`` each of them takes 1024 ns of
simulated time, and a timer of 25 MHz is read before and after the call, 25.6 ticks per instruction. A real core needs
one to three cycles for most instructions, more with slow flash. Both counts are those of a call less those of a call of
an empty function in the same place. `tests/devices/test_runners.py` compares both with loops of known length.

The stack is the part of the free RAM below the stack pointer of the caller that has changed during the call; the RAM is
painted before. It includes the return address of the call itself on an AVR.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np

from distill.export import toolchain
from distill.export.size import read_interface, unit_source

SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TYPES = {
    "float": np.dtype("<f4"), "uint8_t": np.dtype("u1"), "int8_t": np.dtype("i1"), "int16_t": np.dtype("<i2"),
    "int32_t": np.dtype("<i4"), "double": np.dtype("<f8"),
}  # fmt: skip
# Nanoseconds of an instruction, 2^10, times 25 MHz
_TICKS = 25.6
# Painted RAM of the Cortex-M3; more than any model may use
_PAINTED = 65536


@dataclass(frozen=True)
class Function:
    """A C function to call.

    Parameters
    ----------
    declarations : str
        C that declares it.
    call : str
        Statements that call it for the array `row` with the array `results` and return an integer.
    input_type, output_type : str
        Types in C of the values of both arrays, of `TYPES`.
    n_inputs, n_outputs : int
        Lengths of both arrays.
    """

    declarations: str
    call: str
    input_type: str
    n_inputs: int
    n_outputs: int = 0
    output_type: str = "float"

    @property
    def source(self) -> str:
        """The translation unit."""
        return unit_source(
            self.declarations, self.call, self.input_type, self.n_inputs, self.n_outputs, self.output_type
        )

    def as_inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return rows in the type of the inputs; integers must be in its range."""
        rows, dtype = np.asarray(rows), TYPES[self.input_type]
        if dtype.kind != "f":
            limits = np.iinfo(dtype)
            assert np.all((rows >= limits.min) & (rows <= limits.max) & (rows == np.round(rows)))
        rows = np.ascontiguousarray(rows, dtype)
        assert rows.shape[1:] == (self.n_inputs,)
        return rows


@dataclass(frozen=True)
class Run:
    """Results of a function for some rows.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,), int32
        What the function returns.
    outputs : ndarray of shape (n_rows, n_outputs)
    cost : ndarray of shape (n_rows,), int64, or None
        Cycles (ATmega328P) or instructions (Cortex-M3) of each call.
    stack : int or None
        Bytes.
    """

    labels: np.ndarray
    outputs: np.ndarray
    cost: np.ndarray | None = None
    stack: int | None = None


def header_function(path: str | Path, function: str | None = None, name: str | None = None) -> Function:
    """Return a function of a generated header, by default the first that it has of `predict` and the others."""
    interface = read_interface(path, name)
    call = interface.calls[function or next(iter(interface.calls))]
    declarations = f'#include "{Path(path).resolve()}"'
    n_inputs, n_outputs = _numbers(declarations, interface.n_inputs, call.n_outputs)
    output_type = call.output_type or "float"
    return Function(declarations, call.statements, interface.input_type, n_inputs, n_outputs, output_type)


def _numbers(declarations: str, *expressions: str) -> list[int]:
    """Return the values of C expressions."""
    prints = " ".join(f'printf("%d\\n", (int)({expression}));' for expression in expressions)
    source = f"#include <stdio.h>\n{declarations}\nint main(void) {{ {prints} return 0; }}\n"
    with TemporaryDirectory() as folder:
        Path(folder, "numbers.c").write_text(source, encoding="utf-8")
        _run(["gcc", "-std=c99", "numbers.c", "-lm", "-o", "numbers"], folder)
        return [int(line) for line in _run([str(Path(folder, "numbers"))], folder).split()]


def run_host(
    function: Function, rows: np.ndarray, flags: Sequence[str] = ("-Os", *toolchain.WARNINGS), compiler: str = "gcc"
) -> Run:
    """Run on this machine; with the flags `SANITIZERS` an error of memory or arithmetic ends the run."""
    rows = function.as_inputs(rows)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "model.c").write_text(function.source, encoding="utf-8")
        (place / "main.c").write_text(
            _HOST_MAIN % (rows.itemsize * function.n_inputs, _results_bytes(function)), encoding="utf-8"
        )
        (place / "rows").write_bytes(rows.tobytes())
        _run([compiler, "-std=c99", *flags, "main.c", "model.c", "-lm", "-o", "program"], place)
        _run([str(place / "program")], place)
        return Run(*_read_results(place / "results", len(rows), function))


def run_cortex_m3(function: Function, rows: np.ndarray, flags: Sequence[str] = ("-Os",)) -> Run:
    """Run on qemu's Cortex-M3."""
    rows = function.as_inputs(rows)
    target = toolchain.find_target("cortex-m3")
    main = _CORTEX_MAIN % {
        "row_bytes": rows.itemsize * function.n_inputs, "results_bytes": _results_bytes(function), "painted": _PAINTED,
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "rows").write_bytes(rows.tobytes())
        objects = [
            toolchain.compile_object(target, function.source, place, "model", ["-std=c99", *flags]),
            toolchain.compile_object(target, main, place, "main", ["-std=gnu99", "-Os"]),
        ]
        program = toolchain.link(target, objects, place, "program", flags)
        command = [
            "qemu-system-arm", "-machine", "mps2-an385", "-display", "none", "-monitor", "none", "-serial", "none",
            "-icount", "shift=10", "-semihosting-config", "enable=on,target=native", "-kernel", program.name,
        ]  # fmt: skip
        _run(command, place)
        labels, outputs = _read_results(place / "results", len(rows), function)
        counts = np.fromfile(place / "counts", "<u4").astype(np.int64)
    ticks, overhead, stack = counts[1:-1], counts[0], counts[-1]
    assert len(ticks) == len(rows)
    assert 0 <= stack < _PAINTED - 64, "the stack is beyond the painted memory"
    return Run(labels, outputs, np.round((ticks - overhead) / _TICKS).astype(np.int64), int(stack))


def run_atmega328p(function: Function, rows: np.ndarray, flags: Sequence[str] = ("-Os",)) -> Run:
    """Run on simavr's ATmega328P."""
    rows = function.as_inputs(rows)
    if function.input_type == "double":
        rows = rows.astype("<f4")  # double has 4 bytes
    target = toolchain.find_target("atmega328p")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "rows").write_bytes(rows.tobytes())
        main = _AVR_MAIN % (4 * function.n_outputs)
        objects = [
            toolchain.compile_object(target, function.source, place, "model", ["-std=c99", *flags]),
            toolchain.compile_object(target, main, place, "main", ["-std=gnu99", "-Os"]),
        ]
        program = toolchain.link(target, objects, place, "program", flags)
        _run(["avr-objcopy", "-O", "binary", "-j", ".text", "-j", ".data", program.name, "program.bin"], place)
        symbols = dict(
            (line.split()[-1], int(line.split()[0], 16) & 0xFFFF)
            for line in _run(["avr-nm", program.name], place).splitlines()
            if len(line.split()) == 3
        )
        sizes = toolchain.object_bytes(target, program)
        command = [
            str(avr_simulator()), "program.bin", "rows", "results",
            symbols["measured_row"], sizes["measured_row"],
            symbols["exchange"], sizes["exchange"], symbols["_end"], len(rows),
        ]  # fmt: skip
        *cycles, stack = map(int, _run([str(word) for word in command], place).split())
        labels, outputs = _read_results(place / "results", len(rows), function, np.dtype("<f4"))
    return Run(labels, outputs, np.array(cycles), stack)


RUNNERS = {"host": run_host, "cortex-m3": run_cortex_m3, "atmega328p": run_atmega328p}


@cache
def avr_simulator() -> Path:
    """Return the program `simulate_avr.c`, compiled."""
    program = Path(mkdtemp(prefix="simulate-avr-")) / "simulate_avr"
    _run(["gcc", "-O2", str(Path(__file__).parent / "simulate_avr.c"), "-lsimavr", "-o", str(program)], program.parent)
    return program


def has_avr_simulator() -> bool:
    """Return whether simavr's library and its headers are there (Debian: libsimavr-dev)."""
    try:
        return avr_simulator().exists()
    except (AssertionError, FileNotFoundError):
        return False


def _results_bytes(function: Function) -> int:
    return TYPES[function.output_type].itemsize * function.n_outputs


def _read_results(
    path: Path, n_rows: int, function: Function, of_outputs: np.dtype | None = None
) -> tuple[np.ndarray, np.ndarray]:
    of_outputs = of_outputs or TYPES[function.output_type]
    found = np.fromfile(path, np.dtype([("label", "<i4"), ("outputs", of_outputs, (function.n_outputs,))]))
    assert len(found) == n_rows, f"results of {len(found)} of {n_rows} rows"
    return found["label"], found["outputs"]


def _run(command: Sequence[str], folder: str | Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=3600)
    assert result.returncode == 0, f"{command[0]}: {result.stderr[-4000:]}"
    return result.stdout


_HOST_MAIN = """\
#include <stdint.h>
#include <stdio.h>
int32_t measured(const void *row, void *results);
extern unsigned char measured_row[];
#define ROW %d
#define RESULTS %d

int main(void)
{
    static double results[RESULTS / sizeof(double) + 1];
    FILE *rows = fopen("rows", "rb"), *out = fopen("results", "wb");
    if (!rows || !out) return 1;
    while (fread(measured_row, 1, ROW, rows) == ROW) {
        int32_t label = measured(measured_row, results);
        if (fwrite(&label, sizeof label, 1, out) != 1) return 1;
        if (fwrite(results, 1, RESULTS, out) != RESULTS) return 1;
    }
    return fclose(rows) || fclose(out);
}
"""

_CORTEX_MAIN = """\
#include <stdint.h>
int32_t measured(const void *row, void *results);
extern unsigned char measured_row[], end[];
#define ROW %(row_bytes)d
#define RESULTS %(results_bytes)du
#define PAINTED %(painted)du
#define TIMER ((volatile uint32_t *)0x40000000)

static double results[RESULTS / sizeof(double) + 1];
static uint32_t arguments[3];

__attribute__((noinline)) static int32_t empty(const void *row, void *out)
{
    __asm__ volatile("" : : "r"(row), "r"(out) : "memory");
    return 0;
}

__attribute__((always_inline)) static inline int semihost(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int)r0;
}

__attribute__((always_inline)) static inline int open_file(const char *name, uint32_t length, uint32_t mode)
{
    arguments[0] = (uint32_t)name, arguments[1] = mode, arguments[2] = length;
    return semihost(0x01, arguments);
}

/* Returns the number of bytes that were not read or written */
__attribute__((always_inline)) static inline int transfer(uint32_t operation, int file, const void *data, uint32_t size)
{
    arguments[0] = (uint32_t)file, arguments[1] = (uint32_t)data, arguments[2] = size;
    return semihost(operation, arguments);
}

static uint32_t *stack_pointer;

/* The same instructions around each function */
__attribute__((noinline, noclone)) static uint32_t timed(int32_t (*function)(const void *, void *), int32_t *label)
{
    __asm__ volatile("mov %%0, sp" : "=r"(stack_pointer));
    uint32_t before = TIMER[1];
    int32_t found = function(measured_row, results);
    uint32_t after = TIMER[1];
    *label = found;
    return before - after;
}

int main(void)
{
    static int32_t label;
    static uint32_t ticks, stack;
    int rows = open_file("rows", 4, 1), out = open_file("results", 7, 5), counts = open_file("counts", 6, 5);
    TIMER[2] = 0xffffffffu;
    TIMER[1] = 0xffffffffu;
    TIMER[0] = 1;
    ticks = timed(empty, &label);
    transfer(0x05, counts, &ticks, sizeof ticks);
    /* Nothing below the frame of a function that has returned is in use */
    for (uint32_t *word = stack_pointer - PAINTED / 4; word < stack_pointer; word++) *word = 0xa5c3e197u;
    while (transfer(0x06, rows, measured_row, ROW) == 0) {
        ticks = timed(measured, &label);
        transfer(0x05, counts, &ticks, sizeof ticks);
        transfer(0x05, out, &label, sizeof label);
        if (RESULTS) transfer(0x05, out, results, RESULTS);
    }
    uint32_t *lowest = stack_pointer - PAINTED / 4;
    while (lowest < stack_pointer && *lowest == 0xa5c3e197u) lowest++;
    stack = (uint32_t)((unsigned char *)stack_pointer - (unsigned char *)lowest);
    transfer(0x05, counts, &stack, sizeof stack);
    arguments[0] = 0x20026u, arguments[1] = 0;
    semihost(0x18, (const void *)0x20026u);
    return 0;
}
"""

_AVR_MAIN = """\
#include <avr/io.h>
#include <stdint.h>
int32_t measured(const void *row, void *results);
extern unsigned char measured_row[];

struct exchange {
    int32_t label;
    uint8_t results[%d];
} exchange;

__attribute__((noinline, noclone)) static int32_t empty(const void *row, void *out)
{
    __asm__ volatile("" : : "r"(row), "r"(out) : "memory");
    return 0;
}

/* The same instructions around each function */
__attribute__((noinline, noclone)) static void call(int32_t (*function)(const void *, void *))
{
    GPIOR1 = 1;
    int32_t label = function(measured_row, exchange.results);
    GPIOR1 = 2;
    exchange.label = label;
}

int main(void)
{
    call(empty);
    for (;;) {
        GPIOR0 = 1;
        call(measured);
        GPIOR0 = 2;
    }
}
"""
