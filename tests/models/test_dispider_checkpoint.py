"""What a wrong Dispider checkpoint or setting is refused with: one line, before minutes of loading."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from stc_lmms.errors import CheckpointError, SettingsError, StcError
from stc_lmms.models.dispider.config import DispiderSpec
from stc_lmms.models.dispider.model import Dispider
from tests.models.dispider_helpers import LAYOUTS, settings
from training.demo.dispider_checkpoint import build_dispider

COMPACT = "model.compressor.compressor."


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("dispider")
    return {layout: build_dispider(root / layout, layout=layout) for layout in LAYOUTS}


@pytest.fixture
def copy(built, tmp_path):
    """`copy(layout)`: a folder that the test may break."""

    def copy(layout="v2"):
        return shutil.copytree(built[layout], tmp_path / layout)

    return copy


def refusal(folder, act=Dispider.check, **args):
    with pytest.raises((CheckpointError, SettingsError)) as caught:
        act(settings(folder, **args))
    assert isinstance(caught.value, StcError) and "\n" not in str(caught.value)
    return str(caught.value)


def edit(path, **fields):
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def change_weights(folder, change):
    """`change(weights)` edits the state dict; all of it goes into one shard."""
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= load_file(path)
        path.unlink()
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_spec_is_read_under_the_names_of_either_release(built, layout):
    spec = DispiderSpec.from_dir(built[layout])
    assert spec.layout == layout
    assert (spec.select_layer, spec.tokens_per_frame, spec.slots_per_frame) == (-2, 16, 1)
    assert spec.grid == (8, 8) and spec.reaction.hidden_size == spec.decision.hidden_size == 32
    assert len(spec.eos_ids) == 2 and not spec.image_markers


def test_the_nested_folder_is_found_whatever_it_is_called(copy):
    folder = copy("v1")
    (folder / "stream_compressor").rename(folder / "elsewhere")
    assert DispiderSpec.from_dir(folder).decision_folder == folder / "elsewhere"
    shutil.rmtree(folder / "elsewhere")
    assert "has no folder perception_decision or stream_compressor" in refusal(folder)


def test_what_is_no_dispider_is_refused(tmp_path, copy):
    assert "not a local folder" in refusal("nobody/nothing")
    assert "config.json cannot be read" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert "is a 'qwen2' checkpoint, not Dispider" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert "holds no JSON object" in refusal(tmp_path)
    folder = copy()
    (folder / "perception_decision/config.json").write_text("{")
    assert "config.json cannot be read" in refusal(folder)


@pytest.mark.parametrize(
    ("where", "fields", "message"),
    [
        ("", {"decision_hidden_size": 48}, "joins a decision model of width 48, the one in"),
        ("", {"decision_projector_type": "linear"}, "is 'linear'; only 'mlp2x_gelu' is supported"),
        ("perception_decision/", {"perception_projector_type": "conv"}, "only 'pool' is supported"),
        ("perception_decision/", {"perception_select_feature": "cls_patch"}, "only 'patch' is supported"),
        (
            "perception_decision/",
            {"perception_select_layer": None},
            "its config has no mm_vision_select_layer or perception_select_layer",
        ),
        ("perception_decision/", {"resolution": "64"}, "resolution='64' must be of type int"),
        ("perception_decision/", {"pool_num": -1}, "pool_num=-1 must be at least 1"),
        ("perception_decision/", {"perception_select_layer": [1]}, "perception_select_layer=[1] must be of"),
        ("", {"decision_hidden_size": True}, "decision_hidden_size=True must be of type int"),
        ("", {"decision_projector_type": 2}, "decision_projector_type=2 must be of type str"),
        ("perception_decision/", {"pool_num": 9}, "pool_num=9 slots do not tile resolution=16 tokens"),
        ("perception_decision/", {"resolution": 10}, "pool_num=1 slots do not tile resolution=10 tokens"),
    ],
)
def test_fields_that_no_release_has_are_refused(copy, where, fields, message):
    folder = copy()
    edit(folder / f"{where}config.json", **fields)
    assert message in refusal(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_that_the_tower_does_not_have_is_refused_before_weights(copy, layout, monkeypatch):
    folder, name = copy(layout), {"v1": "mm_vision_select_layer", "v2": "perception_select_layer"}[layout]
    config = next(path for path in folder.glob("*/config.json") if name in path.read_text())
    edit(config, **{name: -30})
    monkeypatch.setattr("stc_lmms.models.dispider.weights.Networks", None)  # nothing is built
    assert "mm_vision_select_layer=-30 is out of range for a tower of " in refusal(folder, Dispider)


def test_methods_and_memories_that_do_not_fit_are_refused_before_weights(built):
    folder = built["v1"]
    assert "method=stc drops tokens of single frames" in refusal(folder, method="stc")
    assert "Dispider needs all 8x8; use method=stc_cacher" in refusal(folder, method="tome", token_budget=4)
    assert "8x8; use method=stc_cacher" in refusal(folder, method="downsample", token_budget=4)
    assert "granularity=group needs a tower that merges" in refusal(folder, granularity="group")
    assert "memory=rekv does not fit dispider" in refusal(folder, memory="rekv")
    assert "frames_per_clip=0 must be at least 1" in refusal(folder, frames_per_clip=0)
    assert "the decision model reads 32768; the released value is 16" in refusal(folder, frames_per_clip=4000)
    with pytest.raises(SettingsError, match="did you mean 'stream'"):
        settings(folder, retrieval="streem")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.clip_projector.2.bias"), "others: clip: 2.bias"),
        (lambda w: w.pop(f"{COMPACT}silent_head.weight"), "others: silent_head: weight"),
        (lambda w: w.update({"other.weight": torch.zeros(1)}), "other.weight is unexpected"),
        (
            lambda w: w.update({"model.layers.7.extra": torch.zeros(1)}),
            "reaction: model.layers.7.extra is unexpected",
        ),
        (
            lambda w: w.update({"model.compress_projector.0.weight": torch.zeros(3, 5)}),
            "compress: 0.weight (has [3, 5], needs [32, 32])",
        ),
    ],
)
def test_weights_are_told_before_any_is_read(copy, change, message):
    folder = copy()
    change_weights(folder, change)
    assert message in refusal(folder, Dispider)


def test_weights_of_another_tower_or_none_are_refused(copy, built):
    folder = copy("v1")
    name = f"{COMPACT}model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight"
    change_weights(folder, lambda w: w.update({name: torch.zeros(17, 64)}))
    assert "a tower of 16 patches does not give resolution=16 tokens" in refusal(folder, Dispider)
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors cannot be read" in refusal(folder, Dispider)
    (folder / "model.safetensors").unlink()
    assert "has no weights as safetensors files; fetch the whole checkpoint" in refusal(folder, Dispider)


def test_what_old_shards_carry_beside_the_weights_is_ignored(copy, built):
    folder = copy()
    vision = f"{COMPACT}model.vision_tower.vision_tower.vision_model."

    def change(weights):
        weights[f"{vision}embeddings.position_ids"] = torch.arange(65)
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        weights.pop(f"{COMPACT}lm_head.weight")

    change_weights(folder, change)
    found, expected = (vars(Dispider(settings(path)).net.networks) for path in (folder, built["v2"]))
    for part, network in expected.items():
        weights = found[part].state_dict()
        assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items()), part


def test_rows_added_for_new_tokens_are_taken_from_the_weights(copy):
    folder = copy()

    def change(weights):
        name = "model.embed_tokens.weight"
        for each in (name, "lm_head.weight"):
            weights[each] = torch.cat((weights[each], torch.zeros(5, 32)))

    rows = DispiderSpec.from_dir(folder).reaction.vocab_size
    change_weights(folder, change)
    assert Dispider(settings(folder)).spec.reaction.vocab_size == rows + 5

    def cut(weights):
        name = f"{COMPACT}model.embed_tokens.weight"
        weights[name] = weights[name][:50].clone()

    change_weights(folder, cut)
    assert "its model 50 embeddings" in refusal(folder, Dispider)


def test_a_missing_tokenizer_is_told(copy):
    folder = copy()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / "perception_decision" / name).unlink(missing_ok=True)
    assert "cannot load the tokenizer" in refusal(folder, Dispider)


def test_a_repetition_penalty_of_the_checkpoint_is_told(copy, caplog):
    folder = copy()
    edit(folder / "generation_config.json", repetition_penalty=1.1)
    Dispider(settings(folder))
    assert "repetition_penalty=1.1" in caplog.text
