"""The shipped checkpoint is a plain Hugging Face one: stock classes alone load it, and answer right."""

import numpy as np
import torch
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

from stc_lmms.demo.pretrained import demo_folder
from stc_lmms.engine.api import Generation
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from training.demo.questions import ask
from training.demo.world import make_world, render


def test_stock_classes_load_it_and_answer_as_the_stream_does():
    model, report = LlavaOnevisionForConditionalGeneration.from_pretrained(
        demo_folder(), dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    processor = AutoProcessor.from_pretrained(demo_folder())
    settings = resolve({"pretrained": "demo", "method": "none", "device": "cpu"}, environ={})
    ours, right = LlavaOnevision(settings), 0
    rng = np.random.default_rng(5)
    for number in range(6):
        world = make_world(31, number, 8)
        asked = ask(world, ("OCR", "ATR", "OJR")[number % 3], 7, rng)
        content = [{"type": "video"}, {"type": "text", "text": asked.prompt}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(
            text=text, videos=[torch.from_numpy(render(world)).permute(0, 3, 1, 2)], return_tensors="pt"
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        stock = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        stream = ours.open_stream()
        stream.observe(render(world), [2.0 * f for f in range(8)])
        assert stream.ask(asked.prompt, Generation(max_new_tokens=4)).text.strip() == stock
        right += stock == asked.gold
    assert right >= 5
