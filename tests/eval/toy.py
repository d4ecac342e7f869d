"""A second streaming model, in full: it answers with the mean brightness of the frames it has seen.

Its checkpoint is a folder with `toy.json`, which holds the unit of the answer. It stands for what other
models differ in: an option of their own, other defaults, and for `forgetful` a memory of their own.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from stc_lmms.config import Settings
from stc_lmms.engine.api import Answer, Generation, Progress, Stream, StreamingModel, check_frames
from stc_lmms.engine.timers import Efficiency
from stc_lmms.errors import CheckpointError, SettingsError
from stc_lmms.eval.lmms_eval import Harness
from stc_lmms.models.registry import Model

HERE = "tests.eval.toy"


@dataclasses.dataclass(frozen=True)
class ToyOptions:
    """Arguments of the toy alone.

    Attributes:
        digits: digits of the answer.
        style: how it is worded.
    """

    digits: int = 1
    style: Literal["bare", "polite"] = "bare"

    def __post_init__(self):
        if self.digits < 0:
            raise SettingsError(f"digits={self.digits} must be 0 or more")


TOY = Model(
    "toy",
    "mean brightness",
    f"{HERE}.Toy",
    "nobody/toy",
    options=f"{HERE}.ToyOptions",
    defaults={"fps": 1.0, "method": "stc_pruner", "token_budget": 3},
)
FORGETFUL = dataclasses.replace(TOY, name="forgetful", own_memory="last_frame")


class Toy(StreamingModel):
    """The toy."""

    loads = 0  # how often "weights" were loaded

    def __init__(self, settings):
        self.check(settings)
        type(self).loads += 1
        self.settings, self.options = settings, settings.built_model_options
        self.unit = json.loads((Path(settings.pretrained) / "toy.json").read_text())["unit"]

    @classmethod
    def check(cls, settings: Settings) -> None:
        if not (Path(settings.pretrained) / "toy.json").is_file():
            raise CheckpointError(f"{settings.pretrained!r} has no toy.json")
        token = settings.built_method.token
        if token is not None:
            token.check(5)

    def with_settings(self, settings):
        other = object.__new__(type(self))
        other.settings, other.options, other.unit = settings, settings.built_model_options, self.unit
        return other

    def open_stream(self):
        return ToyStream(self)

    def describe(self):
        return {"dtype": "uint8", "launch": "eager", "launch_reason": "", "environment": {}}


class ToyStream(Stream):
    """Sums of brightness."""

    def __init__(self, model):
        self.model = model
        self.reset()

    @property
    def position_s(self):
        return self.times_s[-1] if self.times_s else float("-inf")

    @property
    def nbytes(self):
        return 8 * len(self.means)

    @property
    def progress(self):
        return Progress(len(self.means), 5.0, 1.0)

    def observe(self, frames, times_s):
        check_frames(frames, times_s, self.position_s)
        self.times_s += times_s
        self.means += [float(frame.mean()) for frame in frames]

    def ask(self, question, generation=Generation(), *, search=None):
        options = self.model.options
        seen = self.means[-1:] if self.model.settings.built_memory is None else self.means
        text = f"{sum(seen) / len(seen):.{options.digits}f} {self.model.unit}"
        text += ", please" if options.style == "polite" else ""
        return Answer(text, (1,), Efficiency(frames_seen=len(self.means), new_tokens=1))

    def reset(self):
        self.times_s, self.means = [], []


class ToyStc(Harness):
    """`--model toy_stc`."""

    registered = "toy"
