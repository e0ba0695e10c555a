"""Headers compiled into one C program, which reads rows and writes what the functions return."""

import re
import subprocess
from pathlib import Path

import numpy as np
from tools import need

WARNINGS = (
    "-std=c99 -Wall -Wextra -Werror -pedantic -Wconversion -Wdouble-promotion -Wshadow -Wstrict-prototypes".split()
)
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
_TYPES = {"float": "f4", "double": "f8", "uint8_t": "u1", "int8_t": "i1", "int16_t": "i2"}
_MAIN = """
int main(int count, char **arguments)
{
    const char *wanted = count > 1 ? arguments[1] : "";
CASES
    return 99;
}
"""
_CASE = """
    if (strcmp(wanted, "NAME") == 0) {
        static NAME_input x[UPPER_N_FEATURES];
        if (NAME_selftest() != 0) {
            return 98;
        }
        while (fread(x, sizeof x[0], UPPER_N_FEATURES, stdin) == UPPER_N_FEATURES) {
CALLS
        }
        return 0;
    }
"""


class CProgram:
    """A program of some headers.

    Parameters
    ----------
    folder : Path
    headers : dict of str to str
        The text of the header of each name.
    flags : list of str
    compiler : str
    """

    def __init__(self, folder: Path, headers: dict[str, str], flags=("-O1",), compiler="gcc"):
        (path,) = need(compiler)
        self.headers, self._program = headers, folder / "program"
        includes, cases = ["#include <stdio.h>", "#include <string.h>"], []
        for name, text in headers.items():
            (folder / f"{name}.h").write_text(text, "utf-8")
            includes.append(f'#include "{name}.h"')
            calls = [self._call(name, method, length) for method, length in self.methods(name).items()]
            case = _CASE.replace("CALLS", "\n".join(calls)).replace("UPPER", name.upper()).replace("NAME", name)
            cases.append(case)
        source = folder / "main.c"
        source.write_text("\n".join(includes) + _MAIN.replace("CASES", "".join(cases)), "utf-8")
        command = [path, *WARNINGS, *flags, source, "-o", self._program, "-lm"]
        compiled = subprocess.run(command, capture_output=True, text=True)
        assert compiled.returncode == 0, compiled.stderr[:4000]

    def methods(self, name: str) -> dict[str, int]:
        """Return the functions of a header, and the number of values that each writes (0: it returns a label)."""
        text, found = self.headers[name], {}
        n_outputs = int(re.search(rf"#define {name.upper()}_N_OUTPUTS (\d+)", text)[1])
        methods = "predict|predict_proba|transform|decision_function"
        for returned, method, out in re.findall(
            rf"static inline (\w+) {name}_({methods})\(const {name}_input \*x(, )?", text
        ):
            classes = re.search(rf"#define {name.upper()}_N_CLASSES (\d+)", text)
            found[method] = 0 if returned != "void" else int(classes[1]) if method == "predict_proba" else n_outputs
            assert bool(out) == (returned == "void")
        return found

    def input_type(self, name: str) -> np.dtype:
        """Return the type of the inputs."""
        return np.dtype(_TYPES[re.search(rf"typedef (\w+) {name}_input;", self.headers[name])[1]])

    def _call(self, name: str, method: str, length: int) -> str:
        if not length:
            return (
                f"            const double label = (double)NAME_{method}(x);\n            fwrite(&label, 8, 1, stdout);"
            )
        kind = "float" if method == "predict_proba" else "NAME_output"
        lines = [
            f"{kind} {method}[{length}];",
            f"NAME_{method}(x, {method});",
            "int i;",
            f"for (i = 0; i < {length}; i++) {{",
        ]
        lines += [f"    const double value = (double){method}[i];", "    fwrite(&value, 8, 1, stdout);", "}"]
        return "\n".join(["            {", *(f"                {line}" for line in lines), "            }"])

    def __call__(self, name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return what each function returns for rows; its self-test is run first."""
        rows = np.ascontiguousarray(rows, self.input_type(name))
        run = subprocess.run([self._program, name], input=rows.tobytes(), capture_output=True)
        assert run.returncode == 0, f"{name}: status {run.returncode}, {run.stderr.decode()[:2000]}"
        methods = self.methods(name)
        widths = [max(length, 1) for length in methods.values()]
        values = np.frombuffer(run.stdout).reshape(len(rows), sum(widths))
        parts = np.split(values, np.cumsum(widths)[:-1], axis=1)
        return {method: part if methods[method] else part[:, 0] for method, part in zip(methods, parts)}
