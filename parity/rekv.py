"""Area `rekv`: a tiny LLaVA-OneVision with its weights, a stream of frames, and questions in between."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity import networks
from parity.base import Case, CaseResult, distance, tensor_file, worst
from stc_lmms import compat_llm
from stc_lmms.memory.rekv import ReKV, ReKVMemory, ReKVReader, chunk_means
from stc_lmms.towers import open_tower

TOLERANCE = 2e-4  # stated in the cases' text


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Retrieved blocks and greedy tokens equal; embeddings, scores and all logits within tolerance."""
    kind = case["golden"]["kind"]
    if kind != "stream":
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")
    tensors = load_file(tensor_file(case_path))
    model = _model(case, tensors, dtype)
    llm = compat_llm.LanguageModel(model)
    memory = ReKV(
        n_local=case["n_local"], retrieve_size=case["topk"], retrieve_chunk=case["retrieve_chunk_size"]
    ).open(llm)
    embeds = _embed_frames(model, tensors["frames"].to(dtype))
    errors = {"frame embeddings": distance(embeds, tensors["frame_embeds"])}
    memory.begin(llm.embed(tensors["init_ids"]))

    wrong: list[str] = []
    frame = asked = 0
    stream_logits = []
    for step, *count in case["schedule"]:
        if step == "enc":
            group = embeds[frame : frame + count[0]]
            hidden = memory.prefill(group.flatten(0, 1), [group.shape[1]] * len(group))
            stream_logits += [llm.head(h) for h in hidden.unflatten(0, group.shape[:2])[:, -1]]
            frame += len(group)
        else:
            prefix = f"qa{asked}."
            qa = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            before = memory.nbytes, memory.archive_nbytes, memory.length
            found, mistakes = _ask(memory, qa)
            errors |= {f"question {asked} {name}": error for name, error in found.items()}
            wrong += [f"question {asked}: {mistake}" for mistake in mistakes]
            if (memory.nbytes, memory.archive_nbytes, memory.length) != before:
                wrong.append(f"question {asked} changed the stream")
            asked += 1
    errors["stream logits"] = distance(torch.stack(stream_logits), tensors["stream_logits"])
    problems = wrong + [f"{name} differ" for name, error in errors.items() if not error <= TOLERANCE]
    detail = "; ".join(problems) or f"{frame} frames, {asked} questions, blocks and answers equal"
    return CaseResult(worst(errors.values()), TOLERANCE, not problems, detail)


def _ask(memory: ReKVMemory, qa: dict[str, Tensor]) -> tuple[dict[str, float], list[str]]:
    """Errors by name, and differences, for one question."""
    llm, wrong = memory.llm, []
    logits, ids = [], []
    with memory.ask(llm.embed(qa["question_ids"])) as reader:
        embeds = llm.embed(qa["prompt_ids"])
        for _ in range(len(qa["generated"])):
            logits.append(reader.next_logits(embeds))
            ids.append(int(logits[-1].argmax()))
            embeds = llm.embed(torch.tensor(ids[-1:]))
    if ids != qa["generated"].tolist():
        wrong.append(f"answer {ids} instead of {qa['generated'].tolist()}")
    blocks = [[block for block in row if block >= 0] for row in qa["retrieved_blocks"].tolist()]
    if reader.retrieved != blocks:
        wrong.append(f"blocks {reader.retrieved} instead of {blocks}")
    question = llm.head(reader.question_hidden_LD[-1])
    errors = {
        "logits": distance(torch.stack(logits), qa["logits"]),
        "retrieval logits": distance(question, qa["question_pass_logits"]),
    }
    return errors | _score_errors(reader, qa, memory.options.retrieve_chunk), wrong


def _score_errors(reader: ReKVReader, qa: dict[str, Tensor], chunk: int) -> dict[str, float]:
    """Scores are sums over the channels of all heads, so their error is relative to the largest."""
    if "block_scores" not in qa:
        return {}
    expected, got = qa["block_scores"], torch.stack(reader.scores)
    if got.shape != expected.shape:  # recorded per chunk of blocks
        got = torch.stack([chunk_means(scores, chunk) for scores in reader.scores])
    return {"block scores": distance(got, expected) / float(expected.abs().max())}


def _model(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> torch.nn.Module:
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    names = ("vision_feature_layer", "vision_feature_select_strategy", "projector_hidden_act")
    options = {name: case[name] for name in names}
    return networks.tiny_llava_onevision(case["vision_config"], case["text_config"], options, weights, dtype)


def _embed_frames(model: torch.nn.Module, frames_FCHW: Tensor) -> Tensor:
    """Frames to LLM tokens [F,N,D], frame by frame as the originals do."""
    core = model.model
    tower = open_tower(core.vision_tower, model.config.vision_feature_layer)
    one_by_one = [
        core.apply_pooling(core.multi_modal_projector(tower.encode(frame[None]))) for frame in frames_FCHW
    ]
    return torch.cat(one_by_one)
