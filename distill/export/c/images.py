"""Images moved by their moments, as C, without memory beside the moved image."""

import numpy as np

from distill.export.c import text
from distill.export.c.floats import Code, Emitter
from distill.export.c.program import Images
from distill.runtime.moving import NO_VARIANCE, blur_weights


def images(emit: Emitter, index: int, stage: Images, kind: str) -> Code:
    """Return the function that moves images by their moments, ``{name}_layer{index}(x, out)``.

    Sums and places are in double: 1e-5 of a pixel's width shows in the fifth digit of a pixel at an edge.
    """
    step, name = stage.step, emit.name
    height, width, n_channels = step.shape
    call, declarations, n_bytes = f"{name}_input{index}", [], 0

    def value(place: str) -> str:
        return f"{call}(x, {place})"

    at = f"((size_t)r * {width} + (size_t)c) * {n_channels} + p"
    given = f"const {text.TYPES[kind]} *x, const float *least, long r, long c, size_t p"
    pixel = f"""static inline float {name}_pixel{index}({given})
{{
    return r < 0 || r >= {height} || c < 0 || c >= {width} ? 0.0f : {value(at)} - least[p];
}}"""
    whole = f"""static inline long {name}_whole{index}(double place, long size)
{{
    /* Also of NaN: beyond the image, where everything is zero */
    if (!(place > -2.0)) {{
        return -2;
    }}
    return place >= (double)size ? size : place < 0.0 ? (long)place - (place < (double)(long)place) : (long)place;
}}"""
    lines = f"""static inline void {name}_layer{index}(const {text.TYPES[kind]} *x, float *out)
{{
    float least[{n_channels}];
    double mass = 0.0, row = 0.0, column = 0.0, variance = 0.0, covariance = 0.0, skew = 0.0;
    size_t p, n;
    long r, c;
    for (p = 0; p < {n_channels}; p++) {{
        least[p] = {value("p")};
        for (n = 1; n < {height * width}; n++) {{
            const float h = {value(f"n * {n_channels} + p")};
            least[p] = h < least[p] ? h : least[p];
        }}
    }}
    for (r = 0; r < {height}; r++) {{
        for (c = 0; c < {width}; c++) {{
            for (p = 0; p < {n_channels}; p++) {{
                const double g = (double){name}_pixel{index}(x, least, r, c, p);
                mass += g;
                row += g * (double)r;
                column += g * (double)c;
            }}
        }}
    }}
    mass = mass > 0.0 || mass < 0.0 ? mass : 1.0;
    row /= mass;
    column /= mass;
    SECOND
    for (r = 0; r < {height}; r++) {{
        const double y = Y;
        const long above = {name}_whole{index}(y, {height});
        const float down = (float)(y - (double)above);
        for (c = 0; c < {width}; c++) {{
            const double at = X;
            const long left = {name}_whole{index}(at, {width});
            const float right = (float)(at - (double)left);
            for (p = 0; p < {n_channels}; p++) {{
                float a = {name}_pixel{index}(x, least, above, left, p);
                float b = {name}_pixel{index}(x, least, above, left + 1, p);
                a += ({name}_pixel{index}(x, least, above + 1, left, p) - a) * down;
                b += ({name}_pixel{index}(x, least, above + 1, left + 1, p) - b) * down;
                out[((size_t)r * {width} + (size_t)c) * {n_channels} + p] = a + (b - a) * rightPLUS;
            }}
        }}
    }}
}}"""
    second = (
        f"""for (r = 0; r < {height}; r++) {{
        for (c = 0; c < {width}; c++) {{
            for (p = 0; p < {n_channels}; p++) {{
                const double g = (double){name}_pixel{index}(x, least, r, c, p);
                variance += g * ((double)r - row) * ((double)r - row);
                covariance += g * ((double)r - row) * ((double)c - column);SPREAD
            }}
        }}
    }}"""
        if step.deskew or step.scale
        else "(void)variance;\n    (void)covariance;"
    )
    if step.deskew:
        second += f"\n    skew = variance > {NO_VARIANCE!r} * mass ? covariance / variance : 0.0;"
    middle = (f"{(height - 1) / 2!r}", f"{(width - 1) / 2!r}") if step.centre else ("row", "column")
    factor = ""
    if step.scale:
        lines = lines.replace("skew = 0.0;", "skew = 0.0, spread = 0.0, factor;", 1)
        second = second.replace(
            "SPREAD", "\n                spread += g * ((double)c - column) * ((double)c - column);"
        )
        second += (
            f"\n    factor = sqrt({32 / 3!r} * ((variance / mass + {1 / 12!r}) * {float(height) ** -2!r} +\n"
            f"                         ((spread - skew * covariance) / mass + {1 / 12!r}) * {float(width) ** -2!r}));"
        )
        factor = "factor * "
    lines = lines.replace("SECOND", second.replace("SPREAD", ""))
    lines = lines.replace("double y = Y;", f"double y = row + {factor}((double)r - {middle[0]});")
    lines = lines.replace(
        "double at = X;", f"double at = column + {factor}((double)c - {middle[1]}) + skew * (y - row);"
    )
    weights = blur_weights(step.blur)
    if not weights:
        lines = lines.replace("PLUS", " + least[p]")
    else:
        lines = lines.replace("PLUS", "")
        declarations.append(emit.array(f"blur{index}", np.array(weights), "f4"))
        n_bytes += 4 * len(weights)
        lines = lines[:-1] + _blur(emit, index, step.shape, len(weights)) + "}"
    n_operations = height * width * n_channels * (10 + 4 * len(weights))
    n_scratch = 4 * n_channels + (4 * max(height, width) if weights else 0)
    return Code([*declarations, pixel, whole, lines], n_bytes, n_operations, n_scratch)


def _blur(emit: Emitter, index: int, shape: tuple[int, int, int], n_weights: int) -> str:
    """Return the lines that blur `out` along columns, then along rows, through a copy of each of these lines."""
    height, width, n_channels = shape
    made = f"    {{\n        float line[{max(height, width)}];\n        size_t first, s;\n"
    for size, count, step, start in (
        (height, width * n_channels, width * n_channels, "first"),
        (width, height * n_channels, n_channels, f"first / {n_channels} * {width * n_channels} + first % {n_channels}"),
    ):
        last = size == width and step == n_channels
        made += f"""        for (first = 0; first < {count}; first++) {{
            float *at = out + ({start});
            for (n = 0; n < {size}; n++) {{
                line[n] = at[n * {step}];
            }}
            for (n = 0; n < {size}; n++) {{
                float sum = {emit.read("f4", f"{emit.name}_blur{index}[0]")} * line[n];
                for (s = 1; s < {n_weights}; s++) {{
                    const float w = {emit.read("f4", f"{emit.name}_blur{index}[s]")};
                    sum += w * (n + s < {size} ? line[n + s] : 0.0f);
                    sum += w * (n >= s ? line[n - s] : 0.0f);
                }}
                at[n * {step}] = sum{f" + least[first % {n_channels}]" if last else ""};
            }}
        }}
"""
    return made + "    }\n"
