"""Pictures of what a method does to frames: which patches were recomputed, which LLM tokens were kept.

Pure functions on arrays. A picture has one row per frame: the frame, its recomputed patches, its kept tokens.

Shapes: H x W pixels, R x C cells of a grid that covers the whole frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 324  # pixels of one column: 12 for each of SigLIP's 27 patches
GAP = 8
DROPPED, KEPT, MERGED = 0, 1, 2
ORANGE, GREEN, BLUE = (255, 140, 0), (70, 200, 90), (40, 130, 255)
HEADINGS = ("frame", "recomputed patches: orange, by share of blocks", "kept LLM tokens: in colour")
_INK, _PAPER, _SIZE, _LINE = (30, 30, 30), (255, 255, 255), 13, 18


@dataclass(frozen=True)
class FrameView:
    """One frame (uint8 RGB) and what a method did to it.

    Attributes:
        share_RC: share of the tower's blocks that recomputed each patch, 0 to 1; None: cannot be shown.
        recomputed, patches: tower tokens recomputed (mean over blocks), and their total.
        kept_RC: DROPPED, KEPT or MERGED for each LLM token; None: cannot be shown.
        kept, tokens: LLM tokens kept, and how many a dense frame has.
    """

    time_s: float
    image_HW3: np.ndarray
    share_RC: np.ndarray | None
    recomputed: int
    patches: int
    kept_RC: np.ndarray | None
    kept: int
    tokens: int

    @property
    def counts(self) -> tuple[str, str]:
        """Captions of the two maps."""
        patches = f"{self.recomputed} of {self.patches} patches recomputed"
        return patches, f"{self.kept} of {self.tokens} tokens kept"


def upsample(map_RC: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map [R,C] as [height,width]: every pixel gets the value of the cell its centre lies in."""
    rows, columns = map_RC.shape
    y = (2 * np.arange(height) + 1) * rows // (2 * height)
    x = (2 * np.arange(width) + 1) * columns // (2 * width)
    return map_RC[y[:, None], x]


def draw_recomputed(image_HW3: np.ndarray, share_RC: np.ndarray) -> np.ndarray:
    """The frame in grey; the more blocks recomputed a patch, the more orange it is. uint8 [H,W,3]."""
    share = upsample(share_RC.astype(np.float32), *image_HW3.shape[:2])[..., None]
    return _uint8(_faded(image_HW3) * (1 - share) + _tinted(image_HW3, ORANGE) * share)


def draw_kept(image_HW3: np.ndarray, kept_RC: np.ndarray) -> np.ndarray:
    """Kept tokens in colour with a green edge, merged ones tinted blue, the others grey. uint8 [H,W,3]."""
    height, width = image_HW3.shape[:2]
    kind = upsample(kept_RC, height, width)[..., None]
    out = np.where(kind == DROPPED, _faded(image_HW3), image_HW3)
    out = np.where(kind == MERGED, _tinted(image_HW3, BLUE), out)
    cell = upsample(np.arange(kept_RC.size).reshape(kept_RC.shape), height, width)
    cell = np.pad(cell, 1, constant_values=-1)
    neighbours = (cell[:-2, 1:-1], cell[2:, 1:-1], cell[1:-1, :-2], cell[1:-1, 2:])
    edge = np.any([cell[1:-1, 1:-1] != other for other in neighbours], axis=0)  # visible in dark frames too
    return _uint8(np.where(edge[..., None] & (kind == KEPT), GREEN, out))


def shrink(image_HW3: np.ndarray) -> np.ndarray:
    """The frame resized to the width of a column; keeps its aspect ratio."""
    return _resized(image_HW3, max(1, round(WIDTH * image_HW3.shape[0] / image_HW3.shape[1])))


def picture(views: Sequence[FrameView], title: str, notes: Sequence[str] = ()) -> np.ndarray:
    """All frames, one below the other, uint8 [height,width,3] with even sides.

    There must be at least one view; all are drawn with the aspect ratio of the first. `title` is at the top,
    `notes` are at the bottom.
    """
    height = len(shrink(views[0].image_HW3))
    width = 3 * WIDTH + 4 * GAP
    head, foot = _wrap(title, width - 2 * GAP), [x for note in notes for x in _wrap(note, width - 2 * GAP)]
    step = height + _LINE + GAP
    top = GAP + _LINE * (len(head) + 1)
    total = top + step * len(views) + _LINE * len(foot) + GAP
    sheet = Image.new("RGB", (width + width % 2, total + total % 2), _PAPER)
    draw, columns = ImageDraw.Draw(sheet), [GAP + i * (WIDTH + GAP) for i in range(3)]
    for i, line in enumerate(head):
        _write(draw, GAP, GAP + i * _LINE, line)
    for x, heading in zip(columns, HEADINGS, strict=True):
        _write(draw, x, top - _LINE, heading)
    for y, view in zip(range(top, total, step), views, strict=False):
        captions = (f"{view.time_s:g} s", *view.counts)
        for x, panel, caption in zip(columns, _panels(view, height), captions, strict=True):
            if panel is None:
                _write(draw, x + GAP, y + height // 2, "cannot be shown")
            else:
                sheet.paste(Image.fromarray(panel), (x, y))
            _write(draw, x, y + height, caption)
    for i, line in enumerate(foot):
        _write(draw, GAP, top + step * len(views) + i * _LINE, line)
    return np.asarray(sheet)


def _panels(view: FrameView, height: int) -> list[np.ndarray | None]:
    image = _resized(view.image_HW3, height)
    recomputed = None if view.share_RC is None else draw_recomputed(image, view.share_RC)
    kept = None if view.kept_RC is None else draw_kept(image, view.kept_RC)
    return [image, recomputed, kept]


def _resized(image_HW3: np.ndarray, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image_HW3).resize((WIDTH, height), Image.Resampling.BILINEAR))


def _write(draw: ImageDraw.ImageDraw, x: int, y: int, text: str) -> None:
    draw.text((x, y), text, fill=_INK, font=ImageFont.load_default(_SIZE))


def _wrap(text: str, width: int) -> list[str]:
    """Break the text into lines of at most `width` pixels; longer words are not broken."""
    font, lines = ImageFont.load_default(_SIZE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _faded(image_HW3: np.ndarray) -> np.ndarray:
    """Grey at a third of the brightness."""
    grey = image_HW3.astype(np.float32).mean(-1, keepdims=True) / 3
    return np.broadcast_to(grey, image_HW3.shape)


def _tinted(image_HW3: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Half frame, half colour."""
    return (image_HW3.astype(np.float32) + np.array(colour, np.float32)) / 2


def _uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
