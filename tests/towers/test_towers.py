"""Tower adapters against the stock vision models."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from stc_lmms.errors import CheckpointError
from stc_lmms.towers import TOWERS, open_tower
from tests.methods.towers import SIZES, drifting_frames, tiny_tower

families = pytest.mark.parametrize("kind", ["siglip", "clip"])


@families
@pytest.mark.parametrize("layer", [-1, -2, 0, 2])
def test_features_are_the_stock_hidden_states(kind, layer):
    tower = tiny_tower(kind)
    frames = drifting_frames(3)
    with torch.no_grad():
        stock = tower.model(frames, output_hidden_states=True)
    features = open_tower(tower.model, layer).encode(frames)
    assert (features - stock.hidden_states[layer]).abs().max() < 1e-5
    if layer == -1:
        assert (tower.finish(features) - stock.last_hidden_state).abs().max() < 1e-5


@families
def test_parts_of_a_block_make_the_stock_layer(kind):
    tower = tiny_tower(kind)
    with torch.no_grad():
        h = tower.embed(drifting_frames(2))
        assert h.shape == (2, tower.num_tokens, SIZES["hidden_size"])
        for block in tower.blocks:
            x = block.norm1(h)
            step = h + block.out(block.attend(block.q(x), block.k(x), block.v(x)))
            step = step + block.mlp(block.norm2(step))
            assert (step - block.dense(h)).abs().max() < 1e-5
            h = step


@families
def test_layers_beyond_the_feature_are_not_run(kind):
    tower = tiny_tower(kind)
    assert [len(open_tower(tower.model, layer).blocks) for layer in (-1, -2, 3, 1, 0)] == [3, 2, 3, 1, 0]
    with pytest.raises(ValueError, match="vision_feature_layer=4 is out of range for 3 layers"):
        open_tower(tower.model, 4)


def test_unsupported_tower_names_the_supported():
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    )
    with pytest.raises(CheckpointError, match="'dinov2' is not supported"):
        open_tower(model)
    assert set(TOWERS) == {"siglip_vision_model", "clip_vision_model"}
