"""`stc-lmms show`: a picture or a short video of what a method recomputes and keeps, frame by frame."""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stc_lmms.errors import SettingsError, StcError, VideoError

HELP = "a picture of what a method recomputes and keeps"
DESCRIPTION = (
    "Draws the first frames of a video, with the patches that the vision tower recomputed and the LLM tokens "
    "that were kept."
)
MOST_FRAMES = {".png": 64, ".mp4": 1000}  # all are held in memory
FRAMES_PER_SECOND = 2  # of an mp4: slow enough to follow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("--model", default="llava_ov", help="only llava_ov is supported so far (default)")
    parser.add_argument("--method", default="stc", help="see `stc-lmms methods` (default: stc)")
    given = "as for lmms-eval: name=value,... (default: pretrained=demo)"
    parser.add_argument("--model_args", "--model-args", default="", help=given)
    parser.add_argument("--frames", type=int, default=8, metavar="N", help="frames drawn (default: 8)")
    output = Path("show.png")
    parser.add_argument("--output", type=Path, default=output, metavar="FILE", help="show.png or show.mp4")


def run(args: argparse.Namespace) -> int:
    """Write the picture and print its counts."""
    _check(args)
    from PIL import Image

    from stc_lmms.arguments import parse_pairs
    from stc_lmms.cli.overlay import picture
    from stc_lmms.cli.watch import watch
    from stc_lmms.demo.pretrained import NOTICE, is_demo
    from stc_lmms.models.llava_onevision.model import LlavaOnevision
    from stc_lmms.models.registry import model as registered
    from stc_lmms.settings import resolve
    from stc_lmms.video.decode import open_video

    model_args = parse_pairs(args.model_args, "--model_args")
    if "method" in model_args:
        raise SettingsError("--model_args: give the method with --method")
    chosen = registered(args.model)
    cls = chosen.load_class()
    if not issubclass(cls, LlavaOnevision):
        raise SettingsError(f"show supports llava_ov; it cannot draw frames of {chosen.name} yet")
    settings = resolve(model_args | {"method": args.method}, model=chosen.name, pretrained="demo")
    cls.check(settings)
    decoding = {"decoder": settings.decoder, "timeout_s": settings.decode_timeout_s}
    with open_video(args.video, fps=settings.fps, **decoding) as video:
        if is_demo(settings.pretrained):
            print(f"stc-lmms: {NOTICE}", file=sys.stderr)
        views, notes = watch(cls(settings), itertools.islice(video.read(), args.frames))
    if not views:
        raise VideoError(f"{args.video} has no frame at {settings.fps:g} fps")
    for warning in video.warnings:
        print(f"stc-lmms: {warning}", file=sys.stderr)

    options = ", ".join(f"{name}={value}" for name, value in settings.options.items() if value is not None)
    title = f"{Path(args.video).name}, {args.method}: {options}".rstrip(": ")
    # Pictures are passed on without the command that made them, so the notice is drawn into them.
    foot = [*notes, NOTICE] if is_demo(settings.pretrained) else notes
    try:
        if args.output.suffix.lower() == ".png":
            Image.fromarray(picture(views, title, foot)).save(args.output)
        else:
            _write_mp4(args.output, [picture([view], title, foot) for view in views])
    except OSError as error:
        raise StcError(f"cannot write {args.output} ({error.strerror or error})") from error
    print(title)
    for view in views:
        print(f"{view.time_s:6g} s: {', '.join(view.counts)}")
    for note in notes:
        print(note)
    print(f"written: {args.output}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse wrong arguments before anything is loaded."""
    suffix = args.output.suffix.lower()
    if suffix not in MOST_FRAMES:
        raise SettingsError(f"--output {args.output} must end in .png or .mp4")
    if not args.output.absolute().parent.is_dir():
        raise SettingsError(f"--output {args.output}: there is no folder {args.output.absolute().parent}")
    if args.output.exists() and Path(args.video).exists() and args.output.samefile(args.video):
        raise SettingsError(f"--output {args.output} is the video itself; give another name")
    if args.frames < 1:
        raise SettingsError(f"--frames {args.frames} must be at least 1")
    if args.frames > MOST_FRAMES[suffix]:
        raise SettingsError(f"--frames {args.frames}: a {suffix} has at most {MOST_FRAMES[suffix]}")


def _write_mp4(path: Path, images: Sequence[Any]) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.pix_fmt, stream.height, stream.width = "yuv420p", *images[0].shape[:2]
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
