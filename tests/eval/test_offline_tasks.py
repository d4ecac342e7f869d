"""`mlvu_stream`, `egoschema_stream`, `videomme_stream` in the real evaluator, on stand-in data."""

import json
from argparse import Namespace

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from parity.rules import rekv_prompt
from stc_lmms.benchmarks.registry import BENCHMARKS
from stc_lmms.eval.dialogue import RequestDialogue
from stc_lmms.eval.lmms_eval import LlavaOvStc
from stc_lmms.models.llava_onevision.model import LlavaOnevisionStream
from stc_lmms.resources import tasks_root
from tests.media import encode_video, moving_square_frames
from tests.methods.streams import prompt_embeds
from tests.runs import recorded

SETS = [benchmark for benchmark in BENCHMARKS.values() if not benchmark.timed]
CHOICES = ["Red", "Blue", "Green", "White"]
ANSWERS = {"mlvu": "Blue", "egoschema": 1, "videomme": "B"}


def entry(benchmark, name):
    asked = [
        {"question": q, "choices": CHOICES, "answer": ANSWERS[benchmark]} for q in ("Which?", "And then?")
    ]
    return {
        "video_id": name,
        "video_path": f"data/{benchmark}/videos/{name}.mp4",
        "duration": "short",
        "question_type": "plotQA",
        "conversations": asked,
    }


@pytest.fixture(scope="module")
def asked(checkpoint, tmp_path_factory):
    """The results of one run, and all that the streams were asked."""
    root, output, said = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("out"), []
    (root / "videos").mkdir()
    for name, seconds in (("a", 6), ("b", 9)):
        frames = moving_square_frames(seconds * 8, 64, 64)
        encode_video(root / "videos" / f"{name}.mp4", frames, fps=8)
    original = LlavaOnevisionStream.ask

    def ask(self, question, generation, *, search=None):
        said.append((question, generation, search, len(self.times_s)))
        return original(self, question, generation, search=search)

    with pytest.MonkeyPatch.context() as patch:
        for benchmark in SETS:
            patch.setenv(benchmark.source.variable, str(root))
            (portion,) = benchmark.source.portions.values()
            entries = [entry(benchmark.name, name) for name in "ab"]
            (root / portion.questions).write_text(json.dumps(entries))
        patch.setattr(LlavaOnevisionStream, "ask", ask)
        lm = LlavaOvStc(
            pretrained=str(checkpoint),
            device="cpu",
            method="none",
            memory="rekv",
            retrieve_size=2,
            prompt="rekv",
        )
        results = simple_evaluate(
            model=lm,
            tasks=[benchmark.task_name() for benchmark in SETS],
            task_manager=TaskManager(include_path=str(tasks_root()), include_defaults=False),
            cli_args=Namespace(output_path=str(output), process_with_media=False),
            bootstrap_iters=0,
        )
    return results, said, output


def test_all_questions_are_asked_at_the_end_of_one_encode(asked):
    results, said, output = asked
    assert len(said) == 12 and {seen for *_, seen in said} == {3, 5}
    cost = results["config"]["resolved_cli_args"]["stc_efficiency"]
    assert cost["frames_encoded"] == 3 + 5  # three tasks, four questions on each video
    for benchmark in SETS:
        found = results["results"][benchmark.task_name()]
        assert found["n,none"] == 4 and found["n_failed,none"] == found["n_past_end,none"] == 0
        (run,) = recorded(output)
        assert run["benchmarks"][benchmark.name]["headline"] == "micro"


def test_prompt_search_and_opening_are_those_of_the_drivers(asked):
    _, said, _ = asked
    for question, generation, search, _ in said:
        assert search in ("Which?", "And then?")
        assert generation.opening == "Best option: (" and generation.max_new_tokens == 16
        assert f"\n{question}<|im_end|><|im_start|>assistant\n{generation.opening}" == rekv_prompt(
            search, CHOICES
        )


def test_the_opening_is_part_of_what_the_model_reads(load):
    stream = load(method="none", prompt="rekv").open_stream()
    whole = stream.model.embed_text(rekv_prompt("Which?", CHOICES))
    question = rekv_prompt("Which?", CHOICES)[1:].partition("<|im_end|>")[0]
    assert prompt_embeds(stream, question, "Best option: (").equal(whole)


def test_other_tasks_have_neither(tmp_path):
    request = Namespace(
        request_type="generate_until",
        task_name="t",
        doc_id=0,
        args=("What?", {}, lambda doc: [{"type": "video", "path": "a.mp4"}], 0, "t", "test"),
    )
    asked = RequestDialogue(request, {}).next
    assert asked.search is None and asked.opening == ""
