"""A tiny Dispider on disk in each layout, and what a stream of it holds."""

import numpy as np
import torch

from stc_lmms.models.dispider.memory import ClipMemory
from stc_lmms.models.dispider.model import Dispider
from stc_lmms.settings import resolve

LAYOUTS = ("v1", "v2")
FRAMES_PER_CLIP = 4


def settings(folder, **args):
    """Settings of a tiny checkpoint on the CPU, 4 frames a clip unless told otherwise."""
    defaults = {"pretrained": str(folder), "device": "cpu", "frames_per_clip": FRAMES_PER_CLIP}
    return resolve(defaults | args, environ={}, model="dispider")


def scene(count, seed=0):
    """`count` frames uint8 [count,60,80,3] of a noisy scene that drifts, another one every 8; 1 s apart."""
    rng = np.random.default_rng(seed)
    scenes = rng.integers(0, 255, (count // 8 + 1, 60, 120, 3))
    frames = [scenes[i // 8][:, 4 * (i % 8) :][:, :80] + rng.normal(0, 6, (60, 80, 3)) for i in range(count)]
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8), [float(i) for i in range(count)]


def play(model, frames, times, chunk=None):
    """A stream that has seen these frames, `chunk` at a time."""
    stream = model.open_stream()
    for at in range(0, len(frames), chunk or len(frames)):
        end = at + (chunk or len(frames))
        stream.observe(frames[at:end], times[at:end])
    return stream


def states(stream):
    """All that the complete clips hold, as one tensor."""
    parts = [x.flatten() for c in stream.clips for x in (c.tokens_FRC, c.memory_MD, c.indicator_D)]
    return torch.cat(parts)


def undecided(model, frames, times, question):
    """Turn the head so that the decisions on these frames go both ways."""
    net, words = model.net, model.words(question)
    clips = play(model, frames, times).clips
    with torch.no_grad():
        seen = torch.stack([net.query(ClipMemory(clips[:n]), words) for n in range(1, len(clips) + 1)])
        along = (seen - seen.mean(0))[-2]
        across = seen.mean(0)
        net.networks.silent_head.weight.copy_((along - across * (along @ across) / (across @ across))[None])


def fresh(folder, **args):
    """A model of its own, whose weights a test may change."""
    return Dispider(settings(folder, **args))
