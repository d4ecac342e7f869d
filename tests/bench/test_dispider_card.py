"""The latency card of Dispider: the real command on a tiny model of random weights."""

import json

from stc_lmms.cli.main import main
from stc_lmms.models.dispider import bench
from training.demo.dispider_checkpoint import build_dispider

LLM = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}
TINY = bench.DispiderEntry(
    sizes={"7b": LLM | {"vocab_size": 400}},
    decision=LLM | {"hidden_size": 32, "vocab_size": 300},
    vision={
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
    },
)


def card(capsys, options):
    assert main(["bench", "--model", "dispider", "--device", "cpu", *options.split()]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_card_with_random_weights(monkeypatch, capsys):
    monkeypatch.setattr(bench, "ENTRY", TINY)
    found = card(capsys, "--frames 4,20 --repeats 2 --warmup 1 --interval 4")
    assert found["method"] == "stc_cacher" and found["settings"]["memory"] == "clips"
    # The last of 3 layers leads nowhere; 64 patches and the class token.
    assert found["shape"]["tower"] == {"layers": 2, "tokens": 65, "width": 48, "mlp": 80, "patch": 8}
    few, more = found["rows"]
    assert more["sizes"]["method"]["tower_tokens_recomputed"] == 5 * 65 + 15 * 16
    assert more["sizes"]["method"]["tower_reference_bytes"] == found["reference_bytes"]
    assert (
        more["sizes"]["dense"]["kv_bytes_per_frame"] == 17 * 32 * 4 / 20
    )  # one full clip: 16 slots, indicator
    assert more["arithmetic_bound"]["vit_ms"] < 0.6 and "project_ms" not in more["bound"]
    assert more["bound"]["prefill_ms"] == more["bound"]["ttft_ms"] == 1
    # A clip that is not full is read with the question.
    assert few["work"]["dense"]["prefill_ms"]["flops"] == 0 < more["work"]["dense"]["prefill_ms"]["flops"]
    assert all(row["summary_ms"]["dense"]["ttft_ms"]["min"] > 0 for row in (few, more))


def test_card_of_a_checkpoint(tmp_path, capsys):
    folder = build_dispider(tmp_path / "d")
    found = card(capsys, f"--pretrained {folder} --frames 2 --repeats 1 --warmup 0 --protocol official")
    assert found["shape"]["tower"]["tokens"] == 65 and found["prefill_frames"] == 1
    assert found["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4


def test_what_does_not_fit_is_one_line(capsys):
    for options, message in (
        ("--method stc", "method=stc drops tokens of single frames"),
        ("--size 0.5b", "unknown size '0.5b'"),
        ("--layers 99", "99 layers are more than the 24 of the model"),
    ):
        assert main(["bench", "--model", "dispider", "--device", "cpu", *options.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
