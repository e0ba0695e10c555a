"""C text: numbers, arrays, names."""

import re
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

# Characters of a line of generated code
_WIDTH = 110
_KEYWORDS = set(
    """auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while _Bool _Complex
    _Imaginary asm bool class catch delete explicit export false friend mutable namespace new operator private protected
    public template this throw true try typename using virtual main
    and bitand bitor compl not or xor char16_t char32_t constexpr decltype noexcept nullptr static_assert thread_local
    wchar_t alignas alignof typeid const_cast dynamic_cast reinterpret_cast static_cast mutable signed far near huge
    unix linux i386 arm boolean byte word
    co_await co_return co_yield concept requires import module char8_t consteval constinit typeof typeof_unqual
    atomic_cancel atomic_commit atomic_noexcept synchronized reflexpr and_eq or_eq xor_eq not_eq""".split()
)
TYPES = {"f4": "float", "f8": "double", "i1": "int8_t", "u1": "uint8_t", "i2": "int16_t", "u2": "uint16_t"}
TYPES |= {"i4": "int32_t", "u4": "uint32_t", "i8": "int64_t"}


def check_name(name: str) -> str:
    """Return the prefix of all names of a header.

    Raises
    ------
    ValueError
        If it is no identifier of C (and of C++, which sketches are written in), or reserved.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            f"name must be an identifier of C (letters, digits and _, no digit first), got {name!r}; all functions and "
            "macros begin with it"
        )
    if name in _KEYWORDS or name.startswith("_"):
        raise ValueError(f"name must not be a word that C or C++ reserves, got {name!r}")
    return name


def identifiers(names: Iterable[str], prefix: str = "") -> list[str]:
    """Return names of members of a struct for feature names, all different; none begins with the prefix of a header.

    Examples
    --------
    >>> identifiers(["petal length (cm)", "petal-length (cm)", "2nd", "int", "größe"])
    ['petal_length_cm', 'petal_length_cm_2', 'f_2nd', 'int_', 'gr_e']
    >>> identifiers(["B1", "b1", "NAN", "meanTemp"])
    ['b1', 'b1_2', 'nan', 'meanTemp']
    """
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        word = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "f"
        # Names without small letters are those of macros: NAN, PI, and B1, ADC and others on an Arduino
        word = word.lower() if word == word.upper() else word
        own = bool(prefix) and word.startswith(f"{prefix}_")
        word = f"f_{word}" if word[0].isdigit() or own else f"{word}_" if word in _KEYWORDS else word
        number, unique = 1, word
        while unique in taken:
            number += 1
            unique = f"{word}_{number}"
        taken.add(unique)
        found.append(unique)
    return found


def number(value: float, kind: str = "f4") -> str:
    """Return a number as C reads it back to the last bit; `kind` is NumPy's code of its type.

    Raises
    ------
    ValueError
        If it is NaN, infinite or too large.

    Examples
    --------
    >>> number(0.1), number(0.1, "f8"), number(-128, "i1"), number(-2147483648, "i4")
    ('0.1f', '0.1', '-128', '(-2147483647 - 1)')
    """
    if kind in ("f4", "f8"):
        with np.errstate(over="ignore"):
            if not np.isfinite(np.dtype(kind).type(value)):
                raise ValueError(
                    f"the student needs the number {value!r}, which is beyond the range of {TYPES[kind]} in C"
                )
        text = str(np.float32(value)) if kind == "f4" else repr(float(value))
        text = text if any(mark in text for mark in ".en") else f"{text}.0"
        return f"{text}f" if kind == "f4" else text
    value = int(value)
    if kind == "i8":
        return "(-INT64_C(9223372036854775807) - 1)" if value == -(2**63) else f"INT64_C({value})"
    if kind == "i4":
        # A literal above 32767 is a long where int has 16 bits, which is what is wanted
        return "(-2147483647 - 1)" if value == -(2**31) else str(value)
    return f"{value}u" if kind == "u4" else str(value)


def array(name: str, values: np.ndarray, kind: str, flash: str) -> str:
    """Return the declaration of a constant array; `flash` is the attribute that keeps it out of RAM."""
    values = np.asarray(values).reshape(-1)
    lines = textwrap.wrap(
        ", ".join(number(value, kind) for value in values), _WIDTH, initial_indent="    ", subsequent_indent="    "
    )
    return "\n".join([f"static const {TYPES[kind]} {name}[{len(values)}]{flash} = {{", *lines, "};"])


def string(value: str) -> str:
    r"""Return a string literal, in UTF-8.

    Examples
    --------
    >>> print(string('5" é'))
    "5\" \303\251"
    """
    made = []
    for byte in value.encode():
        character = chr(byte)
        # Octal escapes have three digits at most, so that a digit may follow; ?? begins a trigraph
        plain = 32 <= byte < 127 and character not in '"\\?'
        made.append(character if plain else f"\\{character}" if character in '"\\' else f"\\{byte:03o}")
    return '"' + "".join(made) + '"'


def comment(lines: Sequence[str]) -> str:
    """Return a comment of these lines; none of them can end it."""
    return "\n".join(["/*", *(f" * {line}".rstrip().replace("*/", "* /") for line in lines), " */"])


def integer_kind(low: int, high: int) -> str:
    """Return NumPy's code of the narrowest integers that hold a range, unsigned where nothing is negative.

    Examples
    --------
    >>> integer_kind(0, 255), integer_kind(-1, 255), integer_kind(0, 65536)
    ('u1', 'i2', 'u4')
    """
    sizes = [("u1", 0, 255), ("u2", 0, 65535), ("u4", 0, 2**32 - 1)] if low >= 0 else []
    sizes += [("i1", -128, 127), ("i2", -32768, 32767), ("i4", -(2**31), 2**31 - 1), ("i8", -(2**63), 2**63 - 1)]
    return next(kind for kind, least, most in sizes if least <= low and high <= most)
