"""The archive: exact bytes, what is written is read, the cap, the files; and ReKV's use of it."""

import errno
import os

import pytest
import torch

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.memory.archive import Archive
from stc_lmms.memory.rekv import ReKV
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from tests.fake_cuda import FakeCuda

LAYERS, GROUPS, WIDTH = 2, 2, 4
TOKEN = LAYERS * 2 * GROUPS * WIDTH * 4
BLOCK = LAYERS * GROUPS * WIDTH * 4  # mean keys


def archive(**options):
    return Archive(LAYERS, GROUPS, WIDTH, torch.float32, torch.device("cpu"), **options)


def add(store, lengths, seed=0):
    """Write blocks of random keys and values; returns them as [layers][blocks] pairs."""
    generator = torch.Generator().manual_seed(seed)
    places, written, means = store.reserve(lengths), [], []
    for layer in range(LAYERS):
        k, v = torch.randn(2, GROUPS, sum(lengths), WIDTH, generator=generator)
        store.write(layer, places, k, v)
        written.append(list(zip(k.split(lengths, 1), v.split(lengths, 1))))
        means.append(torch.stack([x.mean(1).flatten() for x in k.split(lengths, 1)]))
    store.commit(places, torch.stack(means))
    return written


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_was_written_is_read_and_bytes_are_exact(tmp_path, on_disk):
    store = archive(folder=str(tmp_path) if on_disk else None)
    blocks, total = [[], []], 0
    for i, lengths in enumerate([[3, 1, 2], [700] * 4, [1], [2], [900, 900]]):
        for layer, new in enumerate(add(store, lengths, i)):
            blocks[layer] += new
        total += sum(lengths)
        assert store.nbytes == total * TOKEN + store.count * BLOCK
    for picked in ([0], [4, 5, 6], [1, 2, 3, 8, 10], range(11)):
        for layer in range(LAYERS):
            got = store.load(layer, list(picked))
            assert torch.equal(got.k_GSd, torch.cat([blocks[layer][b][0] for b in picked], 1))
            assert torch.equal(got.v_GSd, torch.cat([blocks[layer][b][1] for b in picked], 1))
            query = torch.randn(GROUPS * WIDTH)
            wanted = torch.stack([k.mean(1).flatten() @ query for k, _ in blocks[layer]])
            assert torch.allclose(store.scores(layer, query), wanted, atol=1e-6)
    assert len(store.load(0, [])) == 0
    store.close()
    assert store.nbytes == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_cap_forgets_the_oldest(tmp_path, caplog, on_disk):
    cap = 400 * TOKEN
    store = archive(folder=str(tmp_path) if on_disk else None, cap_bytes=cap)
    written = [[], []]
    for i in range(60):
        for layer, new in enumerate(add(store, [20, 17], i)):
            written[layer] += new
        assert store.nbytes - (store.count - store.first) * BLOCK <= cap
        on_disk_now = sum(f.stat().st_size for f in tmp_path.rglob("slab*"))
        assert 0 < on_disk_now <= cap if on_disk else on_disk_now == 0
    assert store.count == 120 and 90 < store.first < 105
    alive = list(range(store.first, store.count))
    for layer in range(LAYERS):
        wanted = torch.cat([written[layer][b][0] for b in alive], 1)
        assert torch.equal(store.load(layer, alive).k_GSd, wanted)
        assert len(store.scores(layer, torch.zeros(GROUPS * WIDTH))) == len(alive)
    assert caplog.text.count("the oldest frames of the stream are being forgotten") == 1
    with pytest.raises(StcError, match=r"archive_cap_gib allows 400 tokens.*lower prefill_frames"):
        store.reserve([40] * 12)


def test_means_are_few_pieces_and_let_go_under_a_cap():
    store = archive(cap_bytes=8000 * TOKEN)
    for _ in range(5000):
        places = store.reserve([4])
        store.commit(places, torch.zeros(LAYERS, 1, GROUPS * WIDTH))
    assert len(store._means) < 16
    assert sum(m.shape[1] for m in store._means) < 2000 + 1100


def test_restore_takes_blocks_back(tmp_path):
    store = archive(folder=str(tmp_path))
    first = add(store, [5, 6])
    mark, size = store.snapshot(), store.nbytes
    add(store, [3000, 3000], 1)
    store.restore(mark)
    assert (store.count, store.nbytes) == (2, size) and len(list(tmp_path.rglob("slab*"))) == 1
    second = add(store, [7], 2)
    assert torch.equal(store.load(1, [0, 2]).v_GSd, torch.cat((first[1][0][1], second[1][0][1]), 1))


def test_a_reservation_that_failed_is_made_again():
    store = archive()
    store.reserve([5, 5])
    written = add(store, [5, 4])
    assert store.count == 2 and torch.equal(store.load(0, [1]).k_GSd, written[0][1][0])


def test_a_gpu_waits_for_the_means_alone():
    gpu = FakeCuda()
    k, means = gpu.tensor(torch.zeros(GROUPS, 7, WIDTH)), gpu.tensor(torch.zeros(LAYERS, 2, GROUPS * WIDTH))
    with gpu:
        store = Archive(LAYERS, GROUPS, WIDTH, torch.float32, torch.device("cuda"))
        places = store.reserve([3, 4])
        store.write(1, places, k, k)
        assert gpu.copies == {"archive:Archive.write"} and not gpu.waits
        store.commit(places, means)
        assert gpu.waits == {"archive:Archive.commit"}
        gpu.waits.clear()
        store.load(1, [0, 1])
        assert "archive:Archive.load" in gpu.copies and not gpu.waits
        slab = store._slabs[0]  # token after token it would wait
        store._slabs[0] = slab.transpose(0, 1).contiguous().transpose(0, 1)
        store.write(1, places, k, k)
        store.load(1, [0, 1])
        assert gpu.waits == {"archive:Archive.write", "archive:Archive.load"}


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = archive(folder=str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StcError, match=r"no room for .* MiB more .*No space left.*archive_cap_gib") as caught:
        store.reserve([4])
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("slab*"))


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StcError, match=r"archive_dir='.*file' cannot be written to"):
        archive(folder=str(tmp_path / "file"))


def test_files_go_with_the_object(tmp_path):
    store = archive(folder=str(tmp_path))
    add(store, [4])
    assert len(list(tmp_path.rglob("slab*"))) == 1
    del store
    assert list(tmp_path.iterdir()) == []


def test_a_long_stream_keeps_the_device_flat_and_the_archive_exact(load, tmp_path):
    """An hour at 0.5 fps; and the same through files under a cap."""
    llm = load(method="none").llm
    frames, tokens = 1800, 4
    per_frame = llm.layers * llm.kv_heads * llm.head_dim * (2 * tokens + 1) * 4
    plain = ReKV(n_local=64, retrieve_size=8).open(llm)
    cap_gib = 200 * tokens * plain.archive.token_nbytes / 2**30
    capped = ReKV(64, 8, archive_dir=str(tmp_path), archive_cap_gib=cap_gib).open(llm)
    generator = torch.Generator().manual_seed(0)
    sizes = []
    with torch.no_grad():
        for memory in (plain, capped):
            memory.begin(llm.embed(torch.arange(6)))
        for start in range(0, frames, 60):
            embeds = torch.randn(60 * tokens, 64, generator=generator) / 50
            for memory in (plain, capped):
                for i in range(0, 60, 20):
                    memory.append(embeds[i * tokens : (i + 20) * tokens], [tokens] * 20)
            assert plain.archive_nbytes == (start + 60) * per_frame
            assert sum(f.stat().st_size for f in tmp_path.rglob("slab*")) <= cap_gib * 2**30
            sizes.append(plain.nbytes)
        assert set(sizes) == {(6 + 64) * llm.layers * llm.kv_heads * llm.head_dim * 2 * 4}
        assert plain.nbytes == capped.nbytes and plain.archive.first == 0 < 1600 <= capped.archive.first
        question = llm.embed(torch.arange(20, 25))
        with plain.ask(question) as reader, capped.ask(question) as short:
            for r in (reader, short):
                r.next_logits(question)
            assert all(len(blocks) == 8 for blocks in reader.retrieved + short.retrieved)
            assert all(block >= capped.archive.first for blocks in short.retrieved for block in blocks)
    capped.close()
    assert list(tmp_path.iterdir()) == []


def refusal(checkpoint, **args):
    with pytest.raises(SettingsError) as caught:
        LlavaOnevision.check(resolve({"pretrained": str(checkpoint), "method": "none"} | args, environ={}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_work_is_refused_before_weights(checkpoint, tmp_path):
    assert "n_local=35 is too small: a frame has 36 tokens" in refusal(checkpoint, memory="rekv", n_local=35)
    assert "decode_prune_layer=3 is beyond the last of 2 layers" in refusal(checkpoint, decode_prune=0.7)
    message = refusal(checkpoint, memory="rekv", retrieve_size=5, retrieve_chunk=2)
    assert message == "retrieve_size=5 is no multiple of retrieve_chunk=2"
    message = refusal(checkpoint, memory="recent", attn_implementation="eager")
    assert "cannot be used with memory=recent" in message
    assert "attn_implementation" in refusal(checkpoint, decode_prune=0.5, attn_implementation="eager")


def test_a_decoder_of_another_kind_is_refused_before_weights(checkpoint, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    text["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}
    if "rope_parameters" in text:
        text["rope_parameters"] |= text.pop("rope_scaling")
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(folder, memory="rekv")
    assert "memory=rekv cannot run the attention of this model: its RoPE is of type 'linear'" in message
    LlavaOnevision.check(resolve({"pretrained": str(folder), "method": "none"}, environ={}))  # full can
    config["text_config"] = text | {"layer_types": ["full_attention", "sliding_attention"]}
    for name in ("rope_parameters", "rope_scaling"):
        config["text_config"].pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert "their own sliding window" in refusal(folder, memory="recent")


def test_what_only_the_stream_shows_is_one_line(load):
    llm = load(method="none").llm
    memory = ReKV(n_local=10).open(llm)
    with pytest.raises(StcError, match="n_local=10 is too small: the text before the video has 11 tokens"):
        memory.begin(torch.zeros(11, 64))
    with pytest.raises(StcError, match="n_local=10 is too small: a frame has 11 tokens"):
        memory.append(torch.zeros(13, 64), [2, 11])
    assert memory.length == memory.archive_nbytes == 0
