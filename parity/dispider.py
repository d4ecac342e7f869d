"""Area `dispider`: every stage of small models run with the original classes, and their preprocessing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity.base import Case, CaseResult, distance, tensor_file, worst
from parity.networks import entries_of
from stc_lmms import compat_llm
from stc_lmms.engine.api import Generation
from stc_lmms.engine.decoding import greedy
from stc_lmms.memory.full import Full
from stc_lmms.models.checkpoint_io import qwen2_config
from stc_lmms.models.dispider.config import DispiderSpec
from stc_lmms.models.dispider.memory import ClipMemory, ClipState
from stc_lmms.models.dispider.net import DispiderNet, Words
from stc_lmms.models.dispider.pixels import pixel_values, squash
from stc_lmms.models.dispider.prompt import (
    clip_span,
    decision_question,
    reaction_prompt,
    released_sampling,
    time_sentence,
)
from stc_lmms.models.dispider.weights import load_networks
from stc_lmms.towers import open_tower

# Stated in the cases: absolute and relative; absolute for the logits.
ATOL, RTOL, LOGITS_ATOL = 2e-4, 1e-3, 5e-4
TIMES_ATOL, PIXELS_ATOL = 1e-9, 0.03


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Every recorded stage within tolerance; selections, triggers, token ids and texts equal."""
    kind = case["golden"]["kind"]
    if kind == "e2e":
        return _EndToEnd(case, case_path, dtype).result()
    if kind == "prep":
        return _prep(case, case_path)
    return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")


class _EndToEnd:
    def __init__(self, case: Case, case_path: Path, dtype: torch.dtype):
        self.case = case
        io, weights = (
            load_file(tensor_file(case_path.with_name(case[name]).with_suffix(".json")))
            for name in ("io_file", "weights_file")
        )
        self.expected, self.dtype = io, dtype
        vision, decision = case["vision_config"], case["decision_config"]
        spec = DispiderSpec(
            folder=case_path,
            decision_folder=case_path,
            layout="v1",
            reaction=qwen2_config(case["reaction_config"]),
            decision=qwen2_config(decision),
            vision={k: v for k, v in vision.items() if not k.startswith(("select", "model"))},
            select_layer=vision["select_layer"],
            tokens_per_frame=decision["resolution"],
            slots_per_frame=decision["pool_num"],
        )
        self.net = DispiderNet(spec, load_networks(spec, entries_of(weights), dtype))
        self.tower = open_tower(self.net.networks.vision, spec.select_layer)
        self.errors: list[float] = [0.0]
        self.problems: list[str] = []
        self.compared: set[str] = set()

    @torch.no_grad()
    def result(self) -> CaseResult:
        """Run every stage on the recorded inputs."""
        words = Words(
            *(
                self.net.embed(self.expected[f"in.{name}"][0])
                for name in ("question_ids", "todo_token_ids", "answer_token_ids")
            )
        )
        clips = self._perceive()
        query = self.net.offline_query(clips, words)
        offline = self._found("offline", clips, query, "offline")
        streamed = {}
        for scenario in self.case["stream_scenarios"]:
            at = scenario["insert_position"], scenario["ans_position"]
            query, prefix = self.net.query(clips, words, *at), scenario["prefix"]
            streamed[prefix] = self._found(prefix, clips, query, "stream")
            self._near(f"{prefix}.decision_logit", torch.tensor([self.net.logit(query)]))
        self._trigger(clips, words)
        self._reaction("reaction.offline", clips, offline)
        self._reaction("reaction.stream", clips, streamed["stream.ins0.ansnone"])
        recorded = {name for name in self.expected if not name.startswith(("in.", "sdpa_variant."))}
        self.problems += [f"{name} is missing in ours" for name in sorted(recorded - self.compared)]
        detail = "; ".join(self.problems[:3]) or (
            f"{len(clips)} clips, {len(streamed)} questions, trigger loop, all {len(recorded)} stages"
        )
        return CaseResult(worst(self.errors), ATOL, not self.problems, detail)

    def _perceive(self) -> ClipMemory:
        frames = self.expected["in.frames"].to(self.dtype)
        tower = self.tower.encode(frames.flatten(0, 1))
        tokens = self.net.merge(tower).unflatten(0, frames.shape[:2])
        self._near("vit.patch_features", tower[:, 1:])
        self._near("clip_features", tokens.flatten(1, 2))
        rows, roles, projected, clips = [], [], [], ClipMemory()
        for tokens_FRC, ids, mask in zip(
            tokens, self.expected["in.seqs"], self.expected["in.seqs_mask"], strict=True
        ):
            sentence = self.net.embed(ids[mask.bool()][:-1])  # the last id is the image slot
            projected.append(self.net.project(tokens_FRC))
            rows.append(torch.cat((sentence, projected[-1])))
            slots = len(tokens_FRC) * self.net.spec.slots_per_frame
            counts = [len(sentence), tokens_FRC[..., 0].numel(), slots, 1]
            roles.append(torch.repeat_interleave(torch.tensor([0, 2, 100, 200]), torch.tensor(counts)))
            memory, indicator = self.net.perceive(tokens_FRC, sentence)
            clips.append(ClipState(tokens_FRC, memory, indicator, 0.0, 0.0))
        self._near("projector.out", torch.stack(projected))
        pad = torch.nn.utils.rnn.pad_sequence
        self._near("decision.inputs_embeds", pad(rows, batch_first=True))
        self._equal("decision.indicators", pad(roles, batch_first=True))
        valid = [torch.ones(len(row), dtype=torch.uint8) for row in rows]
        self._equal("decision.attention_mask", pad(valid, batch_first=True))
        self._near("decision.clip_memory", torch.stack([clip.memory_MD for clip in clips]))
        self._near("decision.time_state", clips.indicators_ND)
        return clips

    def _found(self, prefix: str, clips: ClipMemory, query: Tensor, retrieval: str) -> tuple[int, ...]:
        found = self.net.find(clips, query, retrieval)
        self._near(f"{prefix}.similarity", found.weights_N)
        self._equal(f"{prefix}.selected", torch.tensor(found.clips))
        self._near(f"{prefix}.global_memory", self.net.summary(clips, 0, len(clips)))
        return found.clips

    def _trigger(self, clips: ClipMemory, words: Words) -> None:
        answered: list[int] = []
        scores = []
        for count in range(1, len(clips) + 1):
            scores.append(self.net.logit(self.net.query(ClipMemory(clips[:count]), words, 0, answered)))
            if scores[-1] > 0:
                answered.append(count)
        self._near("trigger.scores", torch.tensor(scores))
        self._equal("trigger.positions", torch.tensor(answered, dtype=torch.long))

    def _reaction(self, prefix: str, clips: ClipMemory, kept: Sequence[int]) -> None:
        llm = compat_llm.LanguageModel(self.net.networks.reaction)
        ids = self.expected["in.prompt_ids"][0]
        at = int((ids == self.case["image_token_index"]).nonzero())
        embeds = torch.cat((llm.embed(ids[:at]), self.net.visual(clips, kept), llm.embed(ids[at + 1 :])))
        self._near(f"{prefix}.inputs_embeds", embeds)
        logits = self.net.networks.reaction(inputs_embeds=embeds[None]).logits[0]
        self._near(f"{prefix}.logits", logits, atol=LOGITS_ATOL, rtol=0)
        expected = self.expected[f"{prefix}.greedy_ids"]
        with Full().open(llm).ask() as reader:
            decoded = greedy(reader, embeds, llm.embed, str, (), Generation(len(expected)))
        self._equal(f"{prefix}.greedy_ids", torch.tensor(decoded.token_ids))

    def _near(self, name: str, got: Tensor, atol: float = ATOL, rtol: float = RTOL) -> None:
        self.compared.add(name)
        expected, got = self.expected[name].double(), got.double()
        self.errors.append(distance(got, expected))
        if got.shape != expected.shape or not torch.allclose(got, expected, atol=atol, rtol=rtol):
            self.problems.append(f"{name} differs")

    def _equal(self, name: str, got: Tensor) -> None:
        self.compared.add(name)
        if got.tolist() != self.expected[name].tolist():
            self.problems.append(f"{name} differs")


def _prep(case: Case, case_path: Path) -> CaseResult:
    """Frame numbers, sentences, prompts and squares equal; times and pixel values within tolerance."""
    problems = [*_sampling_problems(case), *_prompt_problems(case)]
    tensors = load_file(tensor_file(case_path.with_name(case["resize"]["file"]).with_suffix(".json")))
    errors = [0.0]
    for resize in case["resize"]["cases"]:
        prefix, size = resize["prefix"], resize["clip_size"]
        raw = tensors[f"{prefix}.raw_uint8"]
        square = squash(raw.permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1)
        if not torch.equal(square.byte(), tensors[f"{prefix}.square_uint8"]):
            problems.append(f"{prefix}: squares differ")
        pixels = pixel_values(raw.numpy(), size, torch.device("cpu"), torch.float32)
        errors.append(distance(pixels, tensors[f"{prefix}.pixel_values"]))
        if not errors[-1] <= PIXELS_ATOL:
            problems.append(f"{prefix}: pixel values differ")
    detail = "; ".join(problems[:3]) or "frame numbers, sentences, prompts and pixel values"
    return CaseResult(worst(errors), PIXELS_ATOL, not problems, detail)


def _sampling_problems(case: Case) -> Iterator[str]:
    for row in [*case["sampling"], *case["videomme_variant"]]:
        rate = row["avg_fps"]
        length, limits = row["frames_per_clip"], (row["max_clips"], row.get("min_clips", 1))
        got = released_sampling(row["total_frames"], rate, None, length, *limits)
        about = f"{row['total_frames']} frames at {rate:g} fps"
        if got != row["frame_indices"] or len(got) != length * row["num_clips"]:
            yield f"{about}: frame numbers differ"
            continue
        times_s = [index / rate for index in got]
        spans = [clip_span(times_s[i : i + length], 1 / rate) for i in range(0, len(got), length)]
        expected = zip(row["time_start_s"], row["time_end_s"], strict=True)
        if distance(torch.tensor(spans), torch.tensor([*expected])) > TIMES_ATOL:
            yield f"{about}: times differ"
        if [time_sentence(*span) for span in spans] != row["sentences"]:
            yield f"{about}: sentences differ"


def _prompt_problems(case: Mapping) -> Iterator[str]:
    for row in case["prompts"]:
        if "<image>".join(reaction_prompt(row["question"])) != row["reaction_prompt"]:
            yield "reaction prompt differs"
        if decision_question(row["question"]) != row["decision_question"]:
            yield "decision question differs"
