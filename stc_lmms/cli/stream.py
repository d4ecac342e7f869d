"""`stc-lmms stream`: watch a video, a camera or a network stream, and answer while it is running."""

import argparse
import json
import math
import sys
from typing import Any, TextIO

from stc_lmms.errors import SettingsError

HELP = "answer while a video, camera or network stream is running"
DESCRIPTION = (
    "Answers at given stream times while frames arrive. SOURCE is a file, a pipe, - for standard input, an "
    "URL (rtsp://...), or the number of a camera."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--ask", action="append", default=[], metavar="QUESTION", help="may be repeated")
    own = parser.add_mutually_exclusive_group()
    proactive = "the model decides by itself when to answer this (supported by: dispider)"
    own.add_argument("--proactive", metavar="QUESTION", help=proactive)
    comment = "comment on the running video (supported by: livecc); TASK replaces the default instruction"
    own.add_argument("--comment", nargs="?", const="", metavar="TASK", help=comment)
    parser.add_argument("--every", type=float, metavar="S", help="ask every S seconds of the stream")
    at = "ask at these times (default: at the end)"
    parser.add_argument("--at", type=_times, default=[], metavar="S,S", help=at)
    parser.add_argument("--model", default="llava_ov", help="see `stc-lmms methods` (default: llava_ov)")
    parser.add_argument("--model_args", "--model-args", default="", help="as for lmms-eval: name=value,...")
    backlog = "if frames arrive faster than the model runs: keep all, or only the newest (both are counted)"
    parser.add_argument("--backlog", choices=["queue", "drop"], default="queue", help=backlog)
    stall = "give up after S s without data"
    parser.add_argument("--stall", type=float, default=10.0, metavar="S", help=stall)
    parser.add_argument("--follow", action="store_true", help="the file is still being written")
    parser.add_argument("--realtime", action="store_true", help="play a file at its own speed")
    parser.add_argument("--max-new-tokens", type=int, help="limit per answer (default: 128) or comment (16)")
    parser.add_argument("--json", action="store_true", help="one JSON object per answer on standard output")


def run(args: argparse.Namespace) -> int:
    """Print answers or comments as they arrive; 0 if the source ended regularly and all were given.

    It is not a failure if a proactive model finds no reason to speak.
    """
    from stc_lmms.arguments import parse_pairs
    from stc_lmms.engine.live import Schedule
    from stc_lmms.models.registry import model as registered
    from stc_lmms.settings import resolve
    from stc_lmms.video.live import LiveSource

    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise SettingsError(f"--max-new-tokens {args.max_new_tokens} must be at least 1")
    if not (math.isfinite(args.stall) and args.stall > 0):
        raise SettingsError(f"--stall {args.stall:g} must be a positive number of seconds")
    if args.comment is not None and (args.ask or args.every is not None or args.at):
        raise SettingsError("--comment cannot be combined with --ask, --every or --at")
    if args.comment is None and args.proactive is None and not args.ask:
        raise SettingsError("no question was given; use --ask, --proactive or --comment")
    schedule = Schedule(tuple(args.ask), args.every, tuple(args.at))
    chosen = registered(args.model)
    settings = resolve(parse_pairs(args.model_args, "--model_args"), model=chosen.name)
    cls = chosen.load_class()
    if args.comment is not None:
        cls.check_commentary(settings)
    if args.proactive is not None and not cls.proactive:
        raise SettingsError(f"{chosen.name} does not decide by itself when to answer; use --model dispider")
    cls.check(settings)
    options = args.backlog, args.stall, args.follow, args.realtime, cls.exact_grid
    with LiveSource(args.source, settings.fps, *options) as source:
        if args.comment is not None:
            return _comment(args, cls(settings), source)
        return _answer(args, cls(settings), source, schedule)


def _answer(args: argparse.Namespace, model: Any, source: Any, schedule: Any) -> int:
    from stc_lmms.engine.api import Generation
    from stc_lmms.engine.live import Status, play

    screen, missed, status = _Screen(sys.stderr), 0, None
    try:
        for event in play(model, source, schedule, Generation(args.max_new_tokens or 128), args.proactive):
            if isinstance(event, Status):
                status = event
                screen.show(status)
            elif event.answer is None:
                missed += 1
                screen.say(f"not asked at {event.time_s:g} s, {event.failed}: {event.question}")
            else:
                screen.clear()
                print(_json(event) if args.json else _text(event), flush=True)
    except KeyboardInterrupt:
        screen.say("stopped")
    screen.clear()
    if status is not None:
        print(_summary(status), file=sys.stderr)
    if source.failure is not None:
        raise source.failure
    if status is None:
        screen.say(f"{args.source} delivered no frame")
    return 1 if missed or status is None else 0


def _comment(args: argparse.Namespace, model: Any, source: Any) -> int:
    from stc_lmms.engine.live import comments

    stream = model.open_commentary(args.comment, args.max_new_tokens or 16)
    steps = silent = 0
    try:
        for comment in comments(stream, source, model.settings.prefill_frames):
            steps, silent = steps + 1, silent + (not comment.text)
            if args.json:
                print(json.dumps(comment.to_dict(), ensure_ascii=False), flush=True)
            elif comment.text:
                print(f"[{comment.start_s:.1f}-{comment.end_s:.1f} s] {comment.text}", flush=True)
    except KeyboardInterrupt:
        print("stc-lmms: stopped", file=sys.stderr)
    if source.failure is not None:
        raise source.failure
    print(f"{steps} steps, {silent} silent, {source.n_dropped} frames dropped", file=sys.stderr)
    if not steps:
        print(f"stc-lmms: {args.source} is shorter than the first step of a commentary", file=sys.stderr)
    return 0 if steps else 1


class _Screen:
    """A status line that is overwritten; shown on a terminal only."""

    def __init__(self, out: TextIO):
        self._out, self._live = out, out.isatty()

    def show(self, status: Any) -> None:
        if self._live:
            print(f"\r\x1b[K{_summary(status)}", end="", file=self._out, flush=True)

    def clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def say(self, text: str) -> None:
        self.clear()
        print(f"stc-lmms: {text}", file=self._out, flush=True)


def _summary(status: Any) -> str:
    progress = status.progress
    return (
        f"{status.time_s:.1f} s | {progress.frames} frames | {status.ms_per_frame:.1f} ms/frame | "
        f"{progress.llm_tokens_mean:.1f} tokens/frame | "
        f"{100 * (1 - progress.recomputed):.0f} % of tower tokens reused | "
        f"{status.nbytes / 2**20:.1f} MiB | backlog at most {status.backlog} | {status.dropped} dropped"
    )


def _text(event: Any) -> str:
    when = "end" if event.time_s == math.inf else f"{event.time_s:g} s"
    return f"[{when}] {event.question}\n    {event.answer.text.strip()}"


def _json(event: Any) -> str:
    content = {
        "time_s": None if event.time_s == math.inf else event.time_s,
        "question": event.question,
        "answer": event.answer.text,
        "efficiency": event.answer.efficiency.to_dict(),
    }
    return json.dumps(content, ensure_ascii=False)


def _times(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part]
