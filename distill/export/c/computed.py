"""Weights that a device computes from the codes of a small random code, one by one; see docs/format.md, section 21.

In flash are the codes, half of the table of 256 normal numbers, and no weights. A weight costs two hashes of 32 bits,
about 60 instructions of a Cortex-M3 and 600 cycles of an AVR.
"""

import numpy as np

from distill.codecs import bits, generator
from distill.export.c import text
from distill.export.c.floats import Code, Emitter
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
    # Three bytes more: a code is read from four
    packed = np.append(np.frombuffer(bits.pack(computed.codes, width), np.uint8), np.zeros(3, np.uint8))
    arrays = [emit.array("codes", packed, "u1"), emit.array("normals", table[128:], kind)]
    at = [emit.read("u1", f"{name}_codes[bit / 8{more}]") for more in ("", " + 1", " + 2", " + 3")]
    upper, lower = (emit.read(kind, f"{name}_normals[{place}]") for place in ("z - 128", "127 - z"))
    function = f"""static inline uint32_t {name}_mix(uint32_t z)
{{
    z = (z ^ (z >> 16)) * 0x7feb352du;
    z = (z ^ (z >> 15)) * 0x846ca68bu;
    return z ^ (z >> 16);
}}

static inline {text.TYPES[kind]} {name}_number(uint32_t p)
{{
    const uint32_t block = p % {n_blocks}u, place = p / {n_blocks}u, bit = block * {width}u;
    const uint32_t four = (uint32_t){at[0]} | (uint32_t){at[1]} << 8 |
                          (uint32_t){at[2]} << 16 | (uint32_t){at[3]} << 24;
    const uint32_t key = (block << {width}) + ((four >> (bit % 8)) & {(1 << width) - 1}u);
    uint32_t z = {name}_mix({generator.small_state(layout.seed)}u + (key + 1) * 0x9e3779b9u);
    z = {name}_mix(z + (place / 4 + 1) * 0x9e3779b9u) >> (8 * (place % 4)) & 255;
    return ({text.TYPES[kind]})(z < 128 ? -{lower} : {upper});
}}"""
    return Code([*arrays, function], packed.size + 128 * int(kind[1]), 0)
