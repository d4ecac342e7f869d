"""The drawings of StreamWorld: shapes as signed distances, digits as 5 x 7 dots, soft edges at any scale."""

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
REACH_PX = 11  # half the side of the patch a sprite is drawn on, at scale 1
DOT_PX = 1.8  # side of a digit's dot
DIGITS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
_DOTS = np.array([[[dot == "1" for dot in line] for line in rows.split()] for rows in DIGITS], np.float32)


def mask(
    name: str, centre: np.ndarray, radius: float | np.ndarray, scale: int
) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel a shape covers.

    Args:
        name: one of `SHAPES`, or `bulb`.
        centre: float [N,2], x and y in pixels at scale 1.
        radius: pixels at scale 1, one number or float [N].
        scale: pixels per pixel of the plane.

    Returns:
        Cover float32 [N,S,S] and the patch's top left pixel int [N,2] (x, y).
    """
    x, y, corner = _grid(centre, scale)
    radius = np.reshape(radius, (-1, 1, 1))
    distance = _distance(name, x / radius, y / radius) * radius * scale
    return np.clip(0.5 - distance, 0, 1).astype(np.float32), corner


def digit_mask(digit: int, centre: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """As `mask`, for a digit; each pixel is the mean of 3 x 3 samples."""
    x, y, corner = _grid(centre, scale)
    cover = np.zeros(x.shape, np.float32)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            column = np.floor((x + dx / (3 * scale)) / DOT_PX + 2.5).astype(int)
            row = np.floor((y + dy / (3 * scale)) / DOT_PX + 3.5).astype(int)
            inside = (column >= 0) & (column < 5) & (row >= 0) & (row < 7)
            cover += inside * _DOTS[digit][np.clip(row, 0, 6), np.clip(column, 0, 4)]
    return cover / 9, corner


def paste(
    pictures: np.ndarray, which: np.ndarray, cover: tuple[np.ndarray, np.ndarray], color: np.ndarray
) -> None:
    """Blend a colour into `pictures` float32 [T,H,W,3], in place, where a sprite covers them.

    Args:
        pictures: changed in place; parts of a patch outside a picture are cut off.
        which: int [N], index of the picture for every sprite.
        cover: result of `mask` for the N sprites.
        color: float [N,3], [3] or one number.
    """
    alpha, corner = cover
    height, width = pictures.shape[1:3]
    span = np.arange(alpha.shape[1])
    columns, rows = corner[:, :1] + span, corner[:, 1:] + span
    alpha = (
        alpha * ((rows >= 0) & (rows < height))[:, :, None] * ((columns >= 0) & (columns < width))[:, None]
    )
    index = (
        which[:, None, None],
        np.clip(rows, 0, height - 1)[:, :, None],
        np.clip(columns, 0, width - 1)[:, None, :],
    )
    color = np.asarray(color, np.float32)
    if color.ndim == 2:
        color = color[:, None, None]
    # Clipped indices repeat at the border, with alpha 0 there: add the change instead of assigning it.
    np.add.at(pictures, index, alpha[..., None] * (color - pictures[index]))


def _grid(centre: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets x, y [N,S,S] from the centre in pixels at scale 1, and the top left pixel of each patch."""
    corner = np.floor((centre - REACH_PX) * scale).astype(int)
    pixels = (np.arange(2 * REACH_PX * scale + 1) + 0.5) / scale
    x = corner[:, 0, None] / scale + pixels - centre[:, 0, None]
    y = corner[:, 1, None] / scale + pixels - centre[:, 1, None]
    shape = (len(centre), len(pixels), len(pixels))
    return np.broadcast_to(x[:, None, :], shape), np.broadcast_to(y[:, :, None], shape), corner


def _distance(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline of a shape of radius 1, negative inside; x to the right, y down."""
    from_centre = np.hypot(x, y)
    if name == "circle":
        return from_centre - 0.95
    if name == "ring":
        return np.abs(from_centre - 0.72) - 0.24
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.84
    if name == "diamond":
        return (np.abs(x) + np.abs(y) - 1.08) / np.sqrt(2)
    if name == "triangle":
        return np.maximum(y - 0.75, 0.866 * np.abs(x) - 0.5 * y - 0.5)
    if name == "cross":
        long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
        return np.maximum(long - 0.98, short - 0.34)
    if name == "star":
        angle = np.mod(np.arctan2(x, -y) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5
        px, py = np.abs(from_centre * np.sin(angle)), from_centre * np.cos(angle)
        return 0.81 * (px * 0.951 + (py - 1.08) * 0.52)
    if name == "heart":
        side = np.abs(x)
        lobes = np.hypot(side - 0.46, y + 0.36) - 0.52
        point = np.maximum((side + y - 0.93) / np.sqrt(2), -y - 0.36)
        return np.minimum(lobes, point)
    if name == "bulb":
        foot = np.maximum(np.abs(x) - 0.34, np.abs(y - 0.78) - 0.3)
        return np.minimum(np.hypot(x, y + 0.2) - 0.78, foot)
    raise ValueError(f"no drawing called {name!r}")
