"""The simulated devices count what they claim: loops of known length, known stacks, and numbers bit for bit."""

import numpy as np
import pytest
import simulators
from simulators import Function
from tools import absent, need

DEVICES = ["cortex-m3", "atmega328p"]
ROWS = np.array([[0], [1], [7], [200]])


@pytest.fixture(params=DEVICES)
def run(request):
    """Run a function on a simulated device; skipped where it cannot be simulated."""
    need_device(request.param)
    return simulators.RUNNERS[request.param]


def need_device(name):
    need(*{"cortex-m3": ["arm-none-eabi-gcc", "qemu-system-arm"], "atmega328p": ["avr-gcc"]}[name])
    if name == "atmega328p" and not simulators.has_avr_simulator():
        absent("the library of simavr is not found (Debian: apt-get install libsimavr-dev)")


def test_instructions_of_a_loop_are_counted():
    need_device("cortex-m3")
    # Two instructions in each turn, and one in front
    loop = """
    static inline void turns(uint32_t n) {
        __asm__ volatile("add %0, #1\\n1: subs %0, #1\\n bne 1b" : "+r"(n) : : "cc");
    }
    """
    function = Function("#include <stdint.h>" + loop, "turns(1000u * row[0]); return 0;", "uint8_t", 1)
    run = simulators.run_cortex_m3(function, ROWS, ["-Os", "-std=gnu99"])
    cost = run.cost - run.cost[0]
    assert cost.tolist() == [0, 2000, 14000, 400000]
    assert 2 <= run.cost[0] <= 12  # of the product, the return and the turn for 0


def test_cycles_of_a_loop_are_counted():
    need_device("atmega328p")
    # avr-libc's loop of four cycles a turn, whose length its manual states
    function = Function(
        "#include <util/delay_basic.h>", "_delay_loop_2((uint16_t)(100u * row[0] + 1)); return 0;", "uint8_t", 1
    )
    run = simulators.run_atmega328p(function, ROWS, ["-Os", "-std=gnu99"])
    assert (run.cost - run.cost[0]).tolist() == [0, 400, 2800, 80000]
    assert 4 <= run.cost[0] <= 20


def test_cycles_of_instructions_are_those_of_the_data_sheet():
    need_device("atmega328p")
    # A product takes two cycles, and reading from flash three
    function = Function(
        "static const unsigned char table[2] __attribute__((progmem)) = {5, 3};",
        """
        unsigned char value = 0;
        if (row[0]) __asm__ volatile("mul r24, r24\\n mul r24, r24\\n clr r1\\n lpm %0, Z" : "=r"(value) : "z"(table));
        else __asm__ volatile("clr r1\\n ldi %0, 5" : "=d"(value) : "z"(table));
        return value;
        """,
        "uint8_t",
        1,
    )
    run = simulators.run_atmega328p(function, np.array([[0], [1]]), ["-Os", "-std=gnu99"])
    assert run.labels.tolist() == [5, 5]
    # 2 + 2 + 1 + 3 and 1 + 1, and a branch of the one or the other kind
    assert abs(int(run.cost[1] - run.cost[0]) - 6) <= 3


def test_the_stack_is_what_the_function_uses(run):
    # The array is filled through a volatile pointer, so that it is there in full
    function = Function(
        "", "volatile unsigned char used[300]; for (int i = 0; i < 300; i++) used[i] = row[0]; return used[5];",
        "uint8_t", 1,
    )  # fmt: skip
    found = run(function, ROWS)
    assert found.labels.tolist() == ROWS[:, 0].tolist()
    assert 300 <= found.stack <= 330


def test_results_come_back_bit_for_bit(run):
    rows = np.array([[1.5, -0.0], [np.inf, np.nan], [1e-42, -3.4e38]], np.float32)
    function = Function(
        "", "results[0] = row[1]; results[1] = row[0]; results[2] = row[0] * 3.0f; return -7;", "float", 2, 3
    )
    found, expected = run(function, rows), simulators.run_host(function, rows)
    assert found.labels.tolist() == expected.labels.tolist() == [-7, -7, -7]
    assert np.array_equal(found.outputs[:, :2].view("u4"), rows[:, ::-1].view("u4"))
    assert np.array_equal(found.outputs[:2], expected.outputs[:2], equal_nan=True)


def test_an_overflowing_stack_is_an_error():
    need_device("atmega328p")
    source = "volatile unsigned char used[1990]; for (int i = 0; i < 1990; i++) used[i] = row[0]; return used[5];"
    with pytest.raises(AssertionError, match="stack has reached the variables"):
        simulators.run_atmega328p(Function("", source, "uint8_t", 50), np.ones((1, 50)))


def test_an_error_of_memory_ends_a_run_with_sanitizers():
    need("gcc")
    function = Function("static const int table[3] = {1, 2, 3};", "return table[row[0]];", "uint8_t", 1)
    assert simulators.run_host(function, np.array([[2]]), simulators.SANITIZERS).labels.tolist() == [3]
    with pytest.raises(AssertionError, match="out of bounds"):
        simulators.run_host(function, np.array([[3]]), simulators.SANITIZERS)
