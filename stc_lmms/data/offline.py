"""The offline sets on disk: where their rows come from, and where their videos may lie."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stc_lmms.benchmarks.base import Row
from stc_lmms.benchmarks.fields import read_json
from stc_lmms.benchmarks.offline import SETS
from stc_lmms.data.hub import load_table
from stc_lmms.errors import DataError


@dataclass(frozen=True)
class Source:
    """Where one offline set comes from.

    Attributes:
        variable: Environment variable that names the root folder.
        hub_id: Dataset with the rows and the videos; lmms-eval's own task reads the same one.
        config: Its configuration, None: it has one only.
        file: Question file in the layout of the ReKV repository; in the root, it goes before the hub.
        cache: Folder below HF_HOME where lmms-eval unpacks the videos: that one can be the root.
        folders: Folders of a root where videos may lie, best first.
        endings: Added to a video's name, best first.
        content: What there is to download, for people.
    """

    variable: str
    hub_id: str
    config: str | None
    file: str
    cache: str
    folders: tuple[str, ...]
    endings: tuple[str, ...]
    content: str

    def by_hand(self, to: object = "DIR") -> str:
        """What to download and where to put it."""
        place = f"{to}/{self.folders[0]}/" if self.folders[0] else f"{to}/"
        return (
            f"download {self.content} of the hub dataset {self.hub_id}, unpack them so that {place}<video> "
            f"exist, and set {self.variable}={to}; or, where lmms-eval's own task has run, set it to "
            f"$HF_HOME/{self.cache}"
        )


SOURCES: dict[str, Source] = {
    "mlvu": Source(
        variable="STC_MLVU_ROOT",
        hub_id="sy1998/MLVU_dev",
        config=None,
        file="dev_debug_mc.json",
        cache="mlvu",
        folders=("", "videos", "video"),
        endings=("",),
        content="the videos (1242 of them, zips)",
    ),
    "egoschema": Source(
        variable="STC_EGOSCHEMA_ROOT",
        hub_id="lmms-eval/egoschema",
        config="Subset",
        file="egoschema_subset.json",
        cache="egoschema",
        folders=("videos", ""),
        endings=(".mp4", ".MP4"),
        content="the videos (zips; 500 of them are used)",
    ),
    "videomme": Source(
        variable="STC_VIDEOMME_ROOT",
        hub_id="lmms-eval/Video-MME",
        config=None,
        file="videomme.json",
        cache="videomme",
        folders=("data", "videos", ""),
        endings=(".mp4", ".MP4", ".mkv"),
        content="the videos (900 of them, zips)",
    ),
}


def offline_root(benchmark: str) -> Path:
    """Folder with the videos of an offline set.

    Raises:
        DataError: The variable is not set or names no folder; the message says what to download.
    """
    source = SOURCES[benchmark]
    given = os.environ.get(source.variable, "")
    root = Path(given).expanduser()
    if given and root.is_dir():
        return root
    problem = f"{source.variable}={given} is not a folder" if given else f"{source.variable} is not set"
    raise DataError(f"{problem}: {source.by_hand()}")


def offline_rows(root: Path, benchmark: str) -> list[Row]:
    """Rows of an offline set: from the question file in the root, else from the hub.

    Raises:
        DataError: The file is malformed; or there is none and the hub cannot be reached.
    """
    source, chosen = SOURCES[benchmark], SETS[benchmark]
    path = root / source.file
    if path.is_file():
        return chosen.build_rows(chosen.read_videos(read_json(path), str(path)))
    fix = (
        f"put {source.file} (layout of the ReKV repository) into {root}, or load the dataset once while "
        "there is a network"
    )
    where = f"the hub dataset {source.hub_id}"
    return chosen.build_rows(chosen.read_hub(load_table(source.hub_id, source.config, fix), where))


def offline_candidates(benchmark: str, video: str) -> list[str]:
    """Paths relative to the root where a video may lie, best first.

    Args:
        benchmark: Key of `SOURCES`.
        video: As the annotation names it: with folders in front that belong to somebody else's machine
            (`data/mlvu/videos/1_plotQA/movie.mp4`), or a bare name without an ending.
    """
    source = SOURCES[benchmark]
    parts = PurePosixPath(video).parts
    names = ["/".join(parts[start:]) for start in range(len(parts))]
    if not names[-1].lower().endswith((".mp4", ".mkv", ".avi", ".mov", ".webm")):
        names = [name + ending for ending in source.endings for name in names]
    return [str(PurePosixPath(folder) / name) for name in names for folder in source.folders]
