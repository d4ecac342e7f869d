"""Wrong options of `stc-lmms bench` are one line and status 2, before any weight is made."""

import pytest
import torch

from stc_lmms import compat
from stc_lmms.cli.main import main


@pytest.fixture
def refused(capsys, monkeypatch):
    """`refused(arguments)` runs the command and gives its only line."""

    def run(arguments):
        for name in ("random_weights", "load_weights"):
            monkeypatch.setattr(compat, name, lambda *_, **__: pytest.fail("weights were made"))
        assert main(["bench", *arguments.split(" ")]) == 2
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert out == "" and line.startswith("stc-lmms: error: ")
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model lava_ov", "did you mean 'llava_ov'?"),
        ("--method stcc", "did you mean 'stc'?"),
        ("--protocol groupd", "did you mean 'grouped'?"),
        ("--size 8b", "did you mean '7b'?"),
        ("--dtype bf16", "did you mean 'bfloat16'?"),
        ("--selection layer", "did you mean 'per_layer'?"),
        ("--ratio 1.5", "update_ratio=1.5 must be in (0, 1]"),
        ("--ratio half", "update_ratio='half' is not a valid float"),
        ("--budget 197", "token_budget=197 is more than the 196 tokens a frame has"),
        ("--interval 0", "cache_interval=0 must be at least 1"),
        ("--frames 4,0", "--frames 0 is not a whole number of at least 1"),
        ("--frames 4,", "--frames  is not a whole number"),
        ("--frames 2.5", "--frames 2.5 is not a whole number"),
        ("--repeats -1", "--repeats -1 is not a whole number of at least 1"),
        ("--layers 27", "27 layers are more than the 26"),
        ("--pretrained demo --size 7b", "leave out --pretrained"),
        ("--device gpu", "device='gpu' is not a device; use auto, cpu, cuda or cuda:0"),
        ("--video nowhere.mp4", "--video nowhere.mp4 is not a file"),
        ("--output no/where.json", "there is no folder"),
        pytest.param(
            "--device cuda",
            "torch sees no CUDA device; use device=cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_one_line_before_weights(refused, arguments, message):
    assert message in refused(arguments)


def test_budget_is_checked_against_the_checkpoint(refused, checkpoint):
    assert "token_budget=37 is more than the 36 tokens" in refused(f"--pretrained {checkpoint} --budget 37")
