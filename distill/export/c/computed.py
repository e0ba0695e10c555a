"""Weights that a device computes from the codes of a small random code, one by one; see docs/format.md, section 21.

In flash are the codes, half of the table of 256 normal numbers, and no weights. A weight costs two hashes of 32 bits,
some 90 instructions of a Cortex-M3 and 1600 cycles of an AVR.
"""

import numpy as np

from distill.codecs import bits, generator
from distill.export.c import text
from distill.export.c.floats import Code, Emitter, Form
from distill.export.c.program import Computed


def shared(emit: Emitter, computed: Computed, table: np.ndarray, kind: str) -> Code:
    """Return the codes, the table and the function ``{name}_number(p)``, the random number of place p.

    Parameters
    ----------
    emit : Emitter
    computed : Computed
    table : ndarray of shape (256,)
        The normal numbers in the arithmetic of the layers.
    kind : str
        NumPy's code of their type.
    """
    layout, name = computed.layout, emit.name
    width, n_blocks = layout.bits_per_block, layout.n_blocks
    # A code and the bits before it in its first byte lie in this many bytes
    n_read = -(-(width + 7) // 8)
    packed = np.frombuffer(bits.pack(computed.codes, width), np.uint8)
    packed = np.append(packed, np.zeros(n_read - 1, np.uint8))
    arrays = [emit.array("codes", packed, "u1"), emit.array("normals", table[128:], kind)]
    some = [emit.read("u1", f"{name}_codes[bit / 8{f' + {n}' if n else ''}]") for n in range(n_read)]
    some = [f"(uint32_t){value}{f' << {8 * n}' if n else ''}" for n, value in enumerate(some)]
    upper, lower = (emit.read(kind, f"{name}_normals[{place}]") for place in ("z - 128", "127 - z"))
    # Divisions of 16 bits take a third of the time of those of 32 on AVR, and so do shifts by constants
    places, n_bits = place_type(computed), "uint16_t" if width * n_blocks < 1 << 16 else "uint32_t"
    function = f"""static inline uint32_t {name}_mix(uint32_t z)
{{
    z = (z ^ (z >> 16)) * 0x7feb352du;
    z = (z ^ (z >> 15)) * 0x846ca68bu;
    return z ^ (z >> 16);
}}

static inline {text.TYPES[kind]} {name}_number({places} p)
{{
    const {places} block = ({places})(p % {n_blocks}u), place = ({places})(p / {n_blocks}u);
    const {n_bits} bit = ({n_bits})(({n_bits})block * {width}u);
    const uint32_t some = {" | ".join(some)};
    const uint32_t key = ((uint32_t)block << {width}) + ((some >> (bit % 8)) & {(1 << width) - 1}u);
    uint32_t z = {name}_mix({generator.small_state(layout.seed)}u + (key + 1) * 0x9e3779b9u);
    z = {name}_mix(z + ((uint32_t)place / 4 + 1) * 0x9e3779b9u);
    z = place & 2 ? z >> 16 : z;
    z = (place & 1 ? z >> 8 : z) & 255;
    return ({text.TYPES[kind]})(z < 128 ? -{lower} : {upper});
}}"""
    return Code([*arrays, function], packed.size + 128 * int(kind[1]), 0)


def place_type(computed: Computed) -> str:
    """Return the type of places in C."""
    return "uint16_t" if computed.layout.n_numbers < 1 << 16 else "uint32_t"


def step(computed: Computed, place: str, count: int) -> str:
    """Return the line that moves a place by a count of weights."""
    kind, total, moved = place_type(computed), computed.layout.n_numbers, computed.layout.place(count)
    return f"{place} = ({kind})({place} >= {total - moved}u ? {place} - {total - moved}u : {place} + {moved}u);"


def float_form(emit: Emitter, index: int, shape: tuple[int, int], computed: Computed) -> Form:
    """Return the loop of a layer in float arithmetic that computes its weights."""
    n_inputs, n_outputs = shape
    layout = computed.layout
    loop = [
        "size_t u;",
        f"{place_type(computed)} row = {layout.place(computed.start)}u;",
        f"for (u = 0; u < {n_inputs}; u++) {{",
        f"    float h = {emit.name}_input{index}(x, u);",
        "    if (h != 0.0f) {",
        f"        {place_type(computed)} p = row;",
        f"        h *= {text.number(computed.factor)};",
        f"        for (j = 0; j < {n_outputs}; j++) {{",
        f"            out[j] += h * {emit.name}_number(p);",
        f"            {step(computed, 'p', 1)}",
        "        }",
        "    }",
        f"    {step(computed, 'row', n_outputs)}",
        "}",
    ]
    return Form([], loop, 0, n_inputs * n_outputs)
