"""The trained parameters as a plain Hugging Face checkpoint: the last step of `training.demo.train`."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stc_lmms.demo.pretrained import CARD, CHECKSUMS
from training.demo import model as blueprint
from training.demo import tower
from training.demo.checkpoint import save_processor
from training.demo.learn import load_values, named_parameters
from training.demo.tokenizer import build_tokenizer
from training.demo.world import SIDE


def export(folder: Path, out: Path, seed: int) -> None:
    """Write float16 safetensors, config, tokenizer and processor to `out`."""
    tokenizer = build_tokenizer()
    stock = blueprint.build(seed, len(tokenizer), tokenizer.get_vocab())
    tower.train(stock, folder, seed)  # only loads, because it is finished
    tower.level(stock, seed)
    state = torch.load(folder / "language.pt", weights_only=True)
    load_values(named_parameters(stock), state)
    out.mkdir(parents=True, exist_ok=True)
    stock.generation_config.eos_token_id = tokenizer.eos_token_id
    stock.generation_config.pad_token_id = tokenizer.pad_token_id
    stock.to(torch.float16).save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    save_processor(out, SIDE, (SIDE // blueprint.PATCH) ** 2)
    _readable_by_all(out)
    listed = write_checksums(out)
    size = (out / "model.safetensors").stat().st_size / 1e6
    print(f"{out}: step {state['step']}, {size:.1f} MB, sha256 of SHA256SUMS {listed}")


def write_checksums(folder: Path) -> str:
    """Write the checksums of all files that are loaded from a folder.

    Returns:
        The checksum of the list, for `stc_lmms.demo.pretrained.VARIANTS`.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    loaded = [name for name in names if name not in (CHECKSUMS, CARD)]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in loaded]
    (folder / CHECKSUMS).write_bytes("".join(lines).encode())
    return hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()


def _readable_by_all(out: Path) -> None:
    """Rewrite what transformers 5 saved so that 4.56 can read it too."""
    path = out / "model.safetensors"
    weights = {_old_name(name): weight for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    path = out / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    fields.pop("backend", None)
    path.write_text(json.dumps(fields, indent=2) + "\n")
    path = out / "config.json"
    fields = json.loads(path.read_text())
    fields["text_config"]["rope_theta"] = fields["text_config"]["rope_parameters"]["rope_theta"]
    path.write_text(json.dumps(fields, indent=2) + "\n")
    for path in out.iterdir():
        path.chmod(0o644)


def _old_name(name: str) -> str:
    # transformers 5 dropped a level of the tower's names, and reads both
    return name.replace("vision_tower.", "vision_tower.vision_model.")
