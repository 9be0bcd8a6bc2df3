"""Nothing is trained twice: what makes two train.py the same program; and their constants."""

import pytest
from conftest import STARTER

from harness.agents.program import constants, digest, with_values

SOURCE = b'''
"""A program."""
RATE = 0.1 * 2
SIZES = (4, 0.5)
if ON_GPU:
    WIDTH = 512
else:
    WIDTH = 64  # small

def f(x, scale=2):
    """Doc."""
    y = x * scale * RATE + SIZES[0]  # why
    def g(z):
        w = y + z
        return w
    return g(y)
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"# why", b"# because"),
        (b'    """Doc."""\n', b""),
        (b"0.1 * 2", b"0.2"),
        (b"y", b"hidden"),
        (b"w", b"inner"),
        (b"\n\n", b"\n\n\n"),
        (b"512", b"2 ** 9"),
        (b"RATE = ", b"RATE: float = "),
        (b"RATE = 0.1 * 2\nSIZES = (4, 0.5)\n", b"SIZES = (4, 0.5)\nRATE = 0.1 * 2\n"),
        (b"SIZES = ", b"UNUSED = 3\nSIZES = "),
        (b"    y = ", b"    y: float = "),
        (
            b'def f(x, scale=2):\n    """Doc."""\n    y = x * scale * RATE',
            b"LR = RATE\ndef f(x, scale=2):\n    y = x * scale * LR",
        ),
    ],
)
def test_what_trains_the_same_is_the_same_program(old, new):
    assert old in SOURCE
    assert digest(SOURCE.replace(old, new)) == digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0.1 * 2", b"0.3"),
        (b"64", b"65"),
        (b"scale=2", b"factor=2"),
        (b"x * scale", b"scale"),
        (b"y + z", b"z + z"),
        (b"y + z", b"w + z"),
        (b"g(y)", b"g(x)"),
        (b"RATE = 0.1 * 2", b"RATE = 0.2\nRATE = 0.3"),
        (b"def f", b"LR = RATE\nLR = 2\ndef f"),
        (b"SIZES = ", b"MADE = make()\nSIZES = "),
        (b"y = x", b"y = globals() and x"),
    ],
)
def test_what_trains_otherwise_is_another_program(old, new):
    assert old in SOURCE
    assert digest(SOURCE.replace(old, new)) != digest(SOURCE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "LR = 1\nprint({k: v for k, v in globals().items() if k.isupper()})",
            "LR = 7\nprint({k: v for k, v in globals().items() if k.isupper()})",
        ),
        ("LR = 1\nexec('print(LR)')", "LR = 7\nexec('print(LR)')"),
        ("import sys\nLR = 1\nprint(sys.modules)", "import sys\nLR = 2\nprint(sys.modules)"),
        ("from math import *\ne = 3\nprint(e)", "e = 3\nfrom math import *\nprint(e)"),
        ("from math import pi as LR\nLR = 3\nprint(LR)", "LR = 3\nfrom math import pi as LR\nprint(LR)"),
        (
            "def f(): return 1\ng = f\ndef f(): return g() + 1\nprint(g())",
            "def f(): return 1\ng = f\ndef f(): return g() + 1\nprint(f())",
        ),
        ("A = 1\nB = A\ndef f(A): return B\nprint(f(2))", "A = 1\nB = A\ndef f(A): return A\nprint(f(2))"),
        ("x = round(2.6)\nround = None\nprint(x)", "round = None\nx = round(2.6)\nprint(x)"),
    ],
)
def test_what_looks_names_up_or_gives_them_twice_is_taken_as_it_stands(one, other):
    assert digest(one.encode()) != digest(other.encode())


def test_constants_are_those_of_the_device():
    def values(on_gpu):
        return {c.name: c.value for c in constants(SOURCE, on_gpu)}

    assert values(True) == {"SIZES[0]": 4, "SIZES[1]": 0.5, "WIDTH": 512}
    assert values(False)["WIDTH"] == 64


def test_a_changed_constant_changes_nothing_else():
    by_name = {c.name: c for c in constants(SOURCE, False)}
    changed = with_values(SOURCE, {by_name["WIDTH"]: 128, by_name["SIZES[0]"]: 16, by_name["SIZES[1]"]: 0.25})
    expected = SOURCE.replace(b"(4, 0.5)", b"(16, 0.25)").replace(b"64", b"128")
    assert changed == expected


def test_the_starter_has_constants_to_search_on_either_device():
    source = STARTER.encode()
    for on_gpu in (False, True):
        names = {c.name for c in constants(source, on_gpu)}
        assert {"DEPTH", "WIDTH", "MATRIX_LR", "ADAM_BETAS[1]", "WARMDOWN_RATIO"} <= names
