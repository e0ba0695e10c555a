"""Flash, RAM and stack of a C header on a device, measured by its compiler."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill.export import toolchain
from distill.export.stack import stack_depth
from distill.export.toolchain import Target

__all__ = [
    "Call",
    "FunctionSize",
    "Interface",
    "Size",
    "evaluate_size",
    "measure_call",
    "read_interface",
    "unit_source",
]

# What GCC says of an AVR's tables from 32768 bytes on, and its linker from 128 kB on
_TOO_LARGE = re.compile(r"size of array .* is too large|region `?text'? overflowed|will not fit in region")
# In the order in which they are taken for `Size.function`
_FUNCTIONS = ("predict", "predict_proba", "decision_function", "transform", "selftest")


@dataclass(frozen=True)
class FunctionSize:
    """What a program with one call of a function has more than one with a call of an empty function.

    Parameters
    ----------
    flash : int
        Bytes, those of library functions such as ``expf`` and the arithmetic of floats included.
    code, constants : int
        Its parts: instructions and tables.
    static_ram : int
        Bytes of variables.
    stack : int or None
        Bytes, with all that it calls; None if the stack has no bound.
    input_bytes, output_bytes : int
        One row, and the array of results; 0 for a function that returns its result.
    image_flash : int
        Bytes of the linked program in all, its start included.
    image_static_ram : int
        Bytes of all variables of that program, the row and the results included.
    """

    flash: int
    code: int
    constants: int
    static_ram: int
    stack: int | None
    input_bytes: int
    output_bytes: int
    image_flash: int
    image_static_ram: int

    @property
    def ram(self) -> int | None:
        """Bytes of variables, stack, one row and its results together."""
        return None if self.stack is None else self.static_ram + self.stack + self.input_bytes + self.output_bytes


@dataclass(frozen=True)
class Size:
    """Bytes of a model on a device.

    The attributes of the function that `function` names are also those of the model: ``size.flash`` is
    ``size.functions[size.function].flash``.

    Parameters
    ----------
    name : str
        Prefix of the functions in the header.
    target : str
    function : str
        ``predict``, or the first that the header has of ``predict_proba``, ``decision_function`` and ``transform``.
    functions : dict of str to FunctionSize
        Each function of the header, in a separate program.
    compiler : str
    flags : tuple of str

    Attributes
    ----------
    flash : int
        Flash of the model alone: of a program with one call of the function, less that of the same program with an
        empty function. ``code + constants``; library functions are included.
    code, constants : int
        Instructions and tables.
    static_ram : int
        Variables, of which generated headers have none.
    stack : int or None
        Worst case of the function and of all that it calls, from the frames that the compiler reports and the calls in
        the linked program; None without a bound.
    input_bytes, output_bytes : int
        One row, and the array of results; 0 for a function that returns its result.
    ram : int or None
        ``static_ram + stack + input_bytes + output_bytes``.
    image_flash, image_static_ram : int
        The linked program in all: vector table, start, one call and the model, with a row and its results in RAM.
    """

    name: str
    target: str
    function: str
    functions: dict[str, FunctionSize]
    compiler: str
    flags: tuple[str, ...]

    def __getattr__(self, attribute: str) -> Any:
        # Dataclasses look for special names before the fields are set
        if attribute.startswith("_") or attribute not in _SIZES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")
        return getattr(self.functions[self.function], attribute)


_SIZES = (*(field.name for field in fields(FunctionSize)), "ram")


def evaluate_size(
    path: str | os.PathLike,
    target: str = "host",
    *,
    name: str | None = None,
    flags: str | Sequence[str] = ("-Os",),
    check_limits: bool = True,
) -> Size:
    """Compile a generated C header for a device and return the flash, RAM and stack that it takes there.

    Parameters
    ----------
    path : str or path
        Header that `distill.to_c` wrote.
    target : {"host", "cortex-m3", "cortex-m0", "atmega328p"}, default="host"
        The device. Its compiler must be installed: Debian's packages are ``gcc``, ``gcc-arm-none-eabi`` with
        ``libnewlib-arm-none-eabi``, and ``gcc-avr`` with ``avr-libc``. "host" is for Linux.
    name : str or None, default=None
        Prefix of the functions; None for that of the only ``typedef ... NAME_input`` of the header.
    flags : str or sequence of str, default=("-Os",)
        Options of the compiler besides those for the device, such as "-O2".
    check_limits : bool, default=True
        Whether a model that is larger than the device is an error. The ATmega328P has 32768 bytes of flash and 2048
        bytes of RAM; Cortex-M cores come with memories of any size. A table from 32768 bytes on does not compile for
        the former, and is an error in any case.

    Returns
    -------
    Size

    Raises
    ------
    ValueError
        If the target is unknown, the header does not compile (with the messages of the compiler), has no functions of
        that name, or needs more flash or RAM than the device has (by how many bytes).
    FileNotFoundError
        If the header or the compiler is not there.

    Notes
    -----
    The stack of library functions is read from their instructions; on the host, where they are in shared libraries, it
    is left out. Where a call takes stack (2 bytes on an AVR) that of the function itself is included.

    Examples
    --------
    >>> size = evaluate_size("digits.h", "atmega328p")  # doctest: +SKIP
    >>> size.flash, size.ram  # doctest: +SKIP
    """
    device = toolchain.find_target(target)
    path = Path(path)
    interface = read_interface(path, name)
    flags = tuple(flags.split()) if isinstance(flags, str) else tuple(flags)
    sizes = {}
    for function, call in interface.calls.items():
        try:
            sizes[function] = measure_call(
                target,
                f'#include "{path.resolve().as_posix()}"',
                call.statements,
                input_type=interface.input_type,
                n_inputs=interface.n_inputs,
                n_outputs=call.n_outputs,
                output_type=call.output_type or "float",
                flags=flags,
            )
        except ValueError as error:
            if device.flash is not None and _TOO_LARGE.search(str(error)):
                raise _too_large(path, interface, function, device) from None
            raise ValueError(f"path={str(path)!r} does not compile for target={target!r}:\n{error}") from None
    size = Size(
        interface.name,
        target,
        next(iter(sizes)),
        sizes,
        toolchain.compiler_version(device),
        (*device.options, *flags),
    )
    if check_limits:
        _check_limits(size, device, path)
    return size


@dataclass(frozen=True)
class Call:
    """A call of a function of a header.

    Parameters
    ----------
    statements : str
        C that calls it for the array `row` with the array `results` and returns an integer.
    output_type : str or None
        Type in C of the results; None for a function that returns its result.
    n_outputs : str
        C expression: the number of results.
    """

    statements: str
    output_type: str | None = None
    n_outputs: str = "0"


@dataclass(frozen=True)
class Interface:
    """The functions of a generated header.

    Parameters
    ----------
    name : str
        Prefix of the functions.
    input_type : str
        Type in C of a value of a row.
    n_inputs : str
        C expression: the number of values of a row.
    calls : dict of str to Call
        By the name of the function without the prefix.
    """

    name: str
    input_type: str
    n_inputs: str
    calls: dict[str, Call]


def read_interface(path: str | os.PathLike, name: str | None = None) -> Interface:
    """Return the functions of a generated header; see `evaluate_size` for the parameters and errors."""
    path = Path(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"^\s*typedef\s+(\w+)\s+(\w+)_input\s*;", text, re.MULTILINE)
    types = {prefix: input_type for input_type, prefix in found}
    if name is None and len(types) != 1:
        raise ValueError(
            f"path={str(path)!r} is no header of one model: it has {len(types)} lines `typedef ... NAME_input;`; "
            "distill.to_c writes such headers, and name= chooses one of several models"
        )
    if name is not None and name not in types:
        raise ValueError(f"name={name!r}, and path={str(path)!r} has {', '.join(map(repr, types)) or 'no model'}")
    name = next(iter(types)) if name is None else name
    calls = {function: call for function in _FUNCTIONS if (call := _find_call(text, name, function))}
    if not calls:
        raise ValueError(
            f"path={str(path)!r} has none of the functions {', '.join(f'{name}_{function}' for function in _FUNCTIONS)}"
        )
    return Interface(name, types[name], f"{name.upper()}_N_FEATURES", calls)


def _find_call(text: str, name: str, function: str) -> Call | None:
    """Return the call of a function with the arguments that it takes, None if the header has none."""
    found = re.search(rf"\b(\w+)\s+{name}_{function}\s*\(([^)]*)\)\s*\{{", text)
    if found is None:
        return None
    arguments = [] if found[2].strip() in ("", "void") else found[2].split(",")
    call = f"{name}_{function}({', '.join(['row', 'results'][: len(arguments)])});"
    statements = f"{call} return 0;" if found[1] == "void" else f"return {call}"
    if len(arguments) < 2:
        return Call(statements)
    output_type = arguments[1].split("*")[0].strip()
    if alias := re.search(rf"^\s*typedef\s+(\w+)\s+{output_type}\s*;", text, re.MULTILINE):
        output_type = alias[1]
    # A single output gives two probabilities
    macro = f"{name.upper()}_{'N_CLASSES' if function == 'predict_proba' else 'N_OUTPUTS'}"
    is_defined = re.search(rf"^\s*#\s*define\s+{macro}\b", text, re.MULTILINE)
    return Call(statements, output_type, macro if is_defined else f"{name.upper()}_N_OUTPUTS")


def measure_call(
    target: str,
    declarations: str,
    call: str,
    *,
    input_type: str = "float",
    n_inputs: int | str,
    n_outputs: int | str = 0,
    output_type: str = "float",
    flags: Sequence[str] = ("-Os",),
    folder: str | os.PathLike | None = None,
) -> FunctionSize:
    """Return what a call of a C function adds to a program for a device.

    Parameters
    ----------
    target : str
        See `evaluate_size`.
    declarations : str
        C that declares and defines the function.
    call : str
        Statements that call it for the array `row` with the array `results` and return an integer.
    input_type : str, default="float"
    n_inputs, n_outputs : int or str
        Lengths of the arrays, C expressions. No results are reserved for a length of 0.
    output_type : str, default="float"
    flags : sequence of str, default=("-Os",)
    folder : str or path or None, default=None
        Where the program is built and left; None for a temporary folder.

    Returns
    -------
    FunctionSize

    Raises
    ------
    ValueError
        If the target is unknown, or with the messages of the compiler.
    FileNotFoundError
        If the compiler is not there.
    """
    device = toolchain.find_target(target)
    with TemporaryDirectory() as temporary:
        place = Path(temporary if folder is None else folder)
        has_results = str(n_outputs) != "0"
        results = "measured_results" if has_results else "0"
        main = (
            "#include <stdint.h>\n"
            "extern unsigned char measured_row[], measured_results[];\n"
            "int32_t measured(const void *row, void *results);\n"
            "volatile int32_t measured_label;\n"
            f"int main(void) {{ measured_label = measured(measured_row, {results}); return 0; }}\n"
        )
        main_object = toolchain.compile_object(device, main, place, "main", ["-std=c99", "-Os"])
        found = {}
        for name, statements in (("empty", "return 0;"), ("model", call)):
            source = unit_source(declarations, statements, input_type, n_inputs, n_outputs, output_type)
            unit = toolchain.compile_object(device, source, place, name, ["-std=c99", *flags])
            program = toolchain.link(device, [main_object, unit], place, name, flags)
            found[name] = toolchain.sections(device, program)
        stack = stack_depth(device, program, "measured", sorted(place.glob("*.su")))
        lengths = toolchain.object_bytes(device, program)
    model, image = found["model"] - found["empty"], found["model"]
    return FunctionSize(
        model.flash,
        model.code,
        model.constants,
        model.static_ram,
        stack,
        lengths["measured_row"],
        lengths.get("measured_results", 0),
        image.flash,
        image.static_ram,
    )


def _too_large(path: Path, interface: Interface, function: str, device: Target) -> ValueError:
    """Return the error for tables that the compiler of a device does not accept, whose bytes the host's counts."""
    host = measure_call(
        "host",
        f'#include "{path.resolve().as_posix()}"',
        interface.calls[function].statements,
        input_type=interface.input_type,
        n_inputs=interface.n_inputs,
        n_outputs=interface.calls[function].n_outputs,
        output_type=interface.calls[function].output_type or "float",
    )
    excess = host.constants - (device.flash or 0)
    return ValueError(
        f"path={str(path)!r}: the tables of {interface.name}_{function} alone have {host.constants} bytes, {excess} "
        f"more than the {device.flash} of flash of target={device.name!r}: use arithmetic='int8' or a smaller student"
    )


def unit_source(
    declarations: str,
    call: str,
    input_type: str,
    n_inputs: int | str,
    n_outputs: int | str,
    output_type: str = "float",
) -> str:
    """Return a translation unit with ``int32_t measured(row, results)`` and the arrays for it; see `measure_call`."""
    lines = [
        "#include <stdint.h>",
        declarations,
        f"typedef {input_type} measured_input;",
        f"typedef {output_type} measured_output;",
        f"extern measured_input measured_row[{n_inputs}];",
        f"measured_input measured_row[{n_inputs}];",
    ]
    if str(n_outputs) != "0":
        lines += [
            f"extern measured_output measured_results[{n_outputs}];",
            f"measured_output measured_results[{n_outputs}];",
        ]
    lines += [
        "int32_t measured(const measured_input *row, measured_output *results);",
        "int32_t measured(const measured_input *row, measured_output *results)",
        f"{{ (void)row; (void)results; {call} }}",
    ]
    return "\n".join(lines) + "\n"


def _check_limits(size: Size, device: Target, path: Path) -> None:
    """Raise an error for a model that its device cannot hold."""
    if device.flash is not None and size.image_flash > device.flash:
        raise ValueError(
            f"path={str(path)!r}: the program needs {size.image_flash} bytes of flash ({size.flash} of them for "
            f"{size.name}_{size.function}), {size.image_flash - device.flash} more than the {device.flash} of "
            f"target={size.target!r}: use arithmetic='int8' or a smaller student"
        )
    ram = size.image_static_ram + (size.stack or 0)
    if device.ram is not None and ram > device.ram:
        raise ValueError(
            f"path={str(path)!r}: the program needs {ram} bytes of RAM ({size.input_bytes} of them for a row, "
            f"{size.stack or 0} for the stack of {size.name}_{size.function}), {ram - device.ram} more than the "
            f"{device.ram} of target={size.target!r}: use arithmetic='int8' with inputs of a byte, or a smaller student"
        )
