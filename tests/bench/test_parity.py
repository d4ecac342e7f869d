"""The parity script tells everything it can, whatever goes wrong in between."""

import json
import math
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_parity.py"


@pytest.fixture
def parity(monkeypatch, tmp_path):
    """`parity(**parts)` runs the script with these instead of its own: status, and the JSON it wrote."""

    def run(**parts):
        script, output = runpy.run_path(str(SCRIPT)), tmp_path / "parity.json"
        main = script["main"]
        for name, part in parts.items():
            monkeypatch.setitem(main.__globals__, name, part(script["Check"]))
        monkeypatch.setattr(sys, "argv", ["gpu_parity", "--device", "cpu", "--output", str(output)])
        status = main()
        return status, json.loads(output.read_text(), parse_constant=lambda name: pytest.fail(name))

    return run


def checks(*errors):
    """A part that yields a check for every error; an exception is raised."""

    def make(check):
        def part(*_):
            for error in errors:
                if isinstance(error, Exception):
                    raise error
                yield check(f"of {error}", error, 1.0, error <= 1.0, "")

        return part

    return make


def test_an_exception_is_a_failed_check_and_the_other_parts_go_on(parity, capsys):
    status, found = parity(
        golden_float32=checks(0.5, RuntimeError("no kernel image\nis available"), 0.5),
        golden_bfloat16=checks(ValueError()),
        grouped_equals_frame_by_frame=checks(0.25),
    )
    assert (status, found["passed"], found["failed"]) == (1, 2, 2)
    told = [(c["name"], c["error"], c["passed"], c["detail"]) for c in found["checks"]]
    assert told == [
        ("of 0.5", 0.5, True, ""),
        ("golden float32", None, False, "RuntimeError: no kernel image"),
        ("golden bfloat16", None, False, "ValueError: ValueError"),
        ("of 0.25", 0.25, True, ""),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["pass", "FAIL", "FAIL", "pass"]
    assert json.loads(lines[-1]) == found


def test_nan_fails_and_is_null(parity):
    status, found = parity(
        golden_float32=checks(math.nan), golden_bfloat16=checks(), grouped_equals_frame_by_frame=checks()
    )
    (check,) = found["checks"]
    assert status == 1 and check["error"] is None and not check["passed"]
