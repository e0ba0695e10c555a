"""The programs of examples/arduino and examples/c: they compile, pass their self-test, and print Python's label."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tools import absent, need

from distill import to_c
from distill.export.toolchain import WARNINGS

EXAMPLES = Path(__file__).parents[2] / "examples"
SKETCH = EXAMPLES / "arduino" / "digits"
SHIM = Path(__file__).parent / "arduino"
# Debian's package arduino-core-avr
CORE = Path("/usr/share/arduino/hardware/arduino/avr")
# As the Arduino IDE compiles
AVR = ["-mmcu=atmega328p", "-DF_CPU=16000000L", "-Os", "-ffunction-sections", "-fdata-sections"]
CPP = ["-std=gnu++11", "-fno-exceptions", "-fno-threadsafe-statics", "-Wno-error=narrowing"]


def check(command, folder, **options):
    result = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, errors="replace", timeout=120,
        check=False, **options,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def as_cpp(sketch, folder):
    """Write a sketch as the Arduino IDE gives it to the compiler."""
    path = folder / "sketch.cpp"
    path.write_text(f'#include <Arduino.h>\n#line 1 "{sketch.name}"\n{sketch.read_text(encoding="utf-8")}')
    return path


@pytest.fixture(scope="module")
def image():
    """The image in the sketch."""
    text = (SKETCH / "digits.ino").read_text(encoding="utf-8")
    return np.array(re.findall(r"\d+", re.search(r"PROGMEM = \{(.*?)\}", text, re.DOTALL)[1]), int)


def test_the_image_is_a_held_out_one(image):
    assert (load_digits().data[1200] == image).all()


def test_the_sketch_runs_on_an_atmega328p(tmp_path):
    need("avr-gcc", "simavr")
    program = as_cpp(SKETCH / "digits.ino", tmp_path)
    sources = [program, SHIM / "core.cpp"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    check(["avr-g++", *AVR, *CPP, *warnings, f"-I{SHIM}", f"-I{SKETCH}", *sources, "-o", "sketch.elf"], tmp_path)
    printed = check(["simavr", "-m", "atmega328p", "-f", "16000000", "sketch.elf"], tmp_path, stdin=subprocess.DEVNULL)
    assert re.search(r"self-test, 0 if all is well: 0\b", printed), printed
    found = re.search(r"group (\d+) in (\d+) microseconds", printed)
    assert found, printed
    assert int(found[1]) == group_of_the_header(tmp_path)
    assert 500 < int(found[2]) < 5000


def group_of_the_header(folder):
    """Return the label of the image by the header on this machine."""
    need("gcc")
    check(["gcc", "-std=c99", *WARNINGS, f"-I{SKETCH}", EXAMPLES / "c" / "digits.c", "-lm", "-o", "digits"], folder)
    numbers = " ".join(str(int(value)) for value in load_digits().data[1200])
    return int(check([folder / "digits"], folder, input=numbers))


def test_the_sketch_compiles_with_the_core_of_arduino(tmp_path):
    need("avr-gcc", "avr-size")
    if not CORE.exists():
        absent("Arduino's core is not found (Debian: apt-get install arduino-core-avr)")
    folders = [f"-I{CORE / 'cores' / 'arduino'}", f"-I{CORE / 'variants' / 'standard'}", f"-I{SKETCH}"]
    options = [*AVR, "-DARDUINO=10819", "-DARDUINO_AVR_UNO", "-DARDUINO_ARCH_AVR", *folders]
    core = CORE / "cores" / "arduino"
    check(["avr-gcc", *options, "-std=gnu11", "-c", *sorted(core.glob("*.c"))], tmp_path)
    # What a sketch with a serial port needs of it
    names = ["main", "HardwareSerial", "HardwareSerial0", "Print", "new", "abi"]
    program = as_cpp(SKETCH / "digits.ino", tmp_path)
    check(["avr-g++", *options, *CPP, "-c", program, *(core / f"{name}.cpp" for name in names)], tmp_path)
    objects = sorted(tmp_path.glob("*.o"))
    check(["avr-g++", *options, "-Wl,--gc-sections", *objects, "-lm", "-o", "sketch.elf"], tmp_path)
    sizes = check(["avr-size", "-A", "sketch.elf"], tmp_path)
    flash = sum(int(re.search(rf"^\.{name}\s+(\d+)", sizes, re.MULTILINE)[1]) for name in ("text", "data"))
    assert 3000 < flash < 9000


def test_the_program_in_c_reads_images(tmp_path, student, train_rows):
    need("gcc")
    to_c(student, tmp_path / "digits.h", name="digits", arithmetic="int8", calibration=train_rows, input_scale=1 / 16,
         input_type="uint8")  # fmt: skip
    check(["gcc", "-std=c99", *WARNINGS, f"-I{tmp_path}", EXAMPLES / "c" / "digits.c", "-lm", "-o", "digits"], tmp_path)
    X = load_digits().data[1200:1400]
    text = "\n".join(" ".join(str(int(value)) for value in row) for row in X)
    labels = np.array(check([tmp_path / "digits"], tmp_path, input=text).split(), int)
    assert len(labels) == 200
    assert (labels == student.predict(X / 16)).mean() >= 0.98
    for bad, message in [("1 2 3", "3 numbers after the last image"), ("17", "a pixel is 17"), ("1 x", "1 numbers")]:
        result = subprocess.run([tmp_path / "digits"], input=bad, capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert message in result.stderr
