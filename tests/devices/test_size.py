"""Flash, RAM and stack of small headers whose sizes are known, and the errors of evaluate_size."""

import pytest
import simulators
from simulators import header_function
from tools import need

import distill
from distill.export import size as size_module
from distill.export import toolchain

TABLE = 1000
HEADER = """\
#ifndef TOY_H
#define TOY_H
#include <stdint.h>
#ifdef __AVR__
#include <avr/pgmspace.h>
#else
#define PROGMEM
#define pgm_read_byte(address) (*(address))
#endif
#define TOY_N_FEATURES 4
#define TOY_N_OUTPUTS 3
#define TOY_N_CLASSES 3
typedef uint8_t toy_input;
static const uint8_t toy_table[%(table)s] PROGMEM = {1, 2, 3};
static const uint8_t toy_more[%(more)s] PROGMEM = {1, 2, 3};
static inline int toy_predict(const toy_input *x)
{
    uint8_t copy[100];
    for (int i = 0; i < 100; i++) copy[i] = (uint8_t)(x[i %% 4] + pgm_read_byte(&toy_table[(i * 37) %% %(table)s]));
    copy[1] = pgm_read_byte(&toy_more[x[2] %% %(more)s]);
    return copy[x[0] %% 100];
}
static inline void toy_decision_function(const toy_input *x, float *out)
{
    for (int i = 0; i < 3; i++) out[i] = x[i] %(floats)s;
}
#endif
"""
TARGETS = {
    "host": ["gcc", "objdump"], "cortex-m3": ["arm-none-eabi-gcc"], "cortex-m0": ["arm-none-eabi-gcc"],
    "atmega328p": ["avr-gcc"],
}  # fmt: skip


@pytest.fixture
def header(tmp_path):
    """Write a header and return its path."""

    def write(text=HEADER, table=TABLE, more=5, floats="* 0.25f"):
        path = tmp_path / "toy.h"
        path.write_text(text % {"table": table, "more": more, "floats": floats} if "%(more)" in text else text)
        return path

    return write


@pytest.mark.parametrize("target", TARGETS)
def test_sizes_of_tables_arrays_and_rows(header, target):
    need(*TARGETS[target])
    size = distill.evaluate_size(header(), target)
    assert (size.name, size.target, size.function) == ("toy", target, "predict")
    assert list(size.functions) == ["predict", "decision_function"]
    assert TABLE + 5 <= size.constants <= TABLE + 64
    assert 20 < size.code < (1000 if target == "cortex-m0" else 400)  # a Cortex-M0 has no division
    assert size.flash == size.code + size.constants
    assert size.static_ram == 0
    assert 100 <= size.stack <= 160
    assert (size.input_bytes, size.output_bytes) == (4, 0)
    assert size.ram == size.stack + 4
    assert size.image_flash > size.flash
    assert size.image_static_ram >= 4
    other = size.functions["decision_function"]
    assert other.constants < 200  # a program with this function alone contains no table of the other
    assert other.output_bytes == 12
    assert other.ram == other.stack + 4 + 12
    assert "gcc" in size.compiler.lower()
    assert "-Os" in size.flags


def test_variables_count_as_static_memory(header):
    need("arm-none-eabi-gcc")
    text = HEADER.replace("uint8_t copy[100];", "static uint8_t copy[100];")
    size = distill.evaluate_size(header(text), "cortex-m3")
    assert 100 <= size.static_ram <= 104
    assert size.stack < 60


@pytest.mark.parametrize("target", ["cortex-m3", "atmega328p"])
@pytest.mark.parametrize("function", ["predict", "decision_function"])
def test_the_stack_is_a_close_bound_of_what_a_simulator_finds(header, target, function):
    """Also where library functions are called, whose frames no compiler reports."""
    need(*TARGETS[target], *(["qemu-system-arm"] if target == "cortex-m3" else []))
    path = header(floats="/ (x[3] + 0.5f)")
    found = simulators.RUNNERS[target](header_function(path, function), [[3, 4, 5, 250], [99, 1, 0, 0]])
    bound = distill.evaluate_size(path, target).functions[function].stack
    assert found.stack <= bound <= found.stack + 24


@pytest.mark.parametrize("flags", [("-O2",), ("-O3", "-funroll-loops")])
def test_flags_are_those_of_the_compiler(header, flags):
    need("gcc", "objdump")
    small, large = distill.evaluate_size(header()), distill.evaluate_size(header(), flags=flags)
    assert large.flags[-len(flags) :] == flags
    assert distill.evaluate_size(header(), flags=" ".join(flags)) == large
    assert small.code < large.code


def test_recursion_and_pointers_have_no_bound(header):
    need("gcc", "objdump")
    text = """
    #define TOY_N_FEATURES 1
    #define TOY_N_OUTPUTS 1
    typedef float toy_input;
    __attribute__((noinline)) static int toy_again(const toy_input *x, int n) {
        volatile int kept = n;
        return n > 9 ? (int)x[0] : toy_again(x, n + 1) + kept;
    }
    static inline int toy_predict(const toy_input *x) { return toy_again(x, (int)x[0]); }
    static inline void toy_transform(const toy_input *x, float *out) { out[0] = x[0]; }
    """
    size = distill.evaluate_size(header(text))
    assert size.stack is None
    assert size.ram is None
    assert size.functions["transform"].stack < 40


def test_a_model_beyond_the_flash_says_by_how_much(header):
    need("avr-gcc")
    path = header(table=20000, more=12000)
    fits = distill.evaluate_size(path, "atmega328p")
    assert fits.image_flash < 32768
    room = 32768 - fits.image_flash
    path = header(table=20000, more=12000 + room + 100)
    with pytest.raises(ValueError, match=r" 100 more than the 32768 of target='atmega328p'.*int8"):
        distill.evaluate_size(path, "atmega328p")
    assert distill.evaluate_size(path, "atmega328p", check_limits=False).image_flash == 32868
    # The compiler takes no tables from 32768 bytes on, and its message has no sizes
    path = header(table=40000)
    with pytest.raises(ValueError, match=r"alone have 40\d\d\d bytes, 7\d\d\d more than the 32768 of flash"):
        distill.evaluate_size(path, "atmega328p")
    need("arm-none-eabi-gcc")
    assert 40005 <= distill.evaluate_size(path, "cortex-m3").constants <= 40069


def test_a_row_beyond_the_memory_says_by_how_much(header):
    need("avr-gcc")
    text = """
    #define TOY_N_FEATURES 784
    typedef float toy_input;
    static inline int toy_predict(const toy_input *x) { return x[0] > x[5]; }
    """
    with pytest.raises(ValueError, match=r"RAM \(3136 of them for a row.*\), 1\d\d\d more than the 2048"):
        distill.evaluate_size(header(text), "atmega328p")


def test_one_of_several_models_is_chosen_by_its_name(header):
    need("gcc", "objdump")
    text = """
    #define ONE_N_FEATURES 1
    typedef float one_input;
    static inline int one_predict(const one_input *x) { return x[0] > 0; }
    #define TWO_N_FEATURES 2
    typedef int8_t two_input;
    static inline int two_predict(const two_input *x) { return x[0] > x[1]; }
    """
    path = header("#include <stdint.h>\n" + text)
    assert distill.evaluate_size(path, name="two").input_bytes == 2
    with pytest.raises(ValueError, match="2 lines `typedef"):
        distill.evaluate_size(path)
    with pytest.raises(ValueError, match=r"name='three'.*'one', 'two'"):
        distill.evaluate_size(path, name="three")


def test_errors_of_the_compiler_are_shown(header):
    need("gcc", "objdump")
    path = header(floats="* undeclared")
    with pytest.raises(ValueError, match=r"toy\.h.*does not compile for target='host'(.|\n)*undeclared"):
        distill.evaluate_size(path)


def test_other_errors_name_what_is_missing(header, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"target='esp32' is unknown; one of 'host', 'cortex-m3'"):
        distill.evaluate_size(header(), "esp32")
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match="target='host' reads programs in the format ELF"),
    ):
        patch.setattr(toolchain.sys, "platform", "darwin")
        distill.evaluate_size(header())
    monkeypatch.setenv("PATH", str(tmp_path))
    for target, package in [("cortex-m3", "gcc-arm-none-eabi"), ("atmega328p", "gcc-avr avr-libc")]:
        with pytest.raises(FileNotFoundError, match=f"target='{target}' needs .*gcc.*apt-get install {package}"):
            distill.evaluate_size(header(), target)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: name)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        distill.evaluate_size(tmp_path / "nowhere.h")
    with pytest.raises(ValueError, match="no header of one model"):
        distill.evaluate_size(header("int main(void) { return 0; }"))
    (tmp_path / "binary.h").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="no header of one model"):
        distill.evaluate_size(tmp_path / "binary.h")
    with pytest.raises(ValueError, match="has none of the functions toy_predict"):
        distill.evaluate_size(header("typedef float toy_input;\n"))


def test_programs_are_built_in_a_temporary_folder(header, tmp_path, monkeypatch):
    need("gcc", "objdump")
    path = header()
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    distill.evaluate_size(path)
    assert list(folder.iterdir()) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy.h", "empty"] or len(list(tmp_path.iterdir())) == 2
    assert size_module.read_interface(path).calls["predict"].statements == "return toy_predict(row);"
