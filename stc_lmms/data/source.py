"""Description of a benchmark's files: environment variable, hub dataset, archives and question files."""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

_SAMPLE_RANGE = re.compile(r"_\d+-\d+\.zip")


@dataclass(frozen=True)
class Portion:
    """A portion of a benchmark that is downloaded separately.

    Attributes:
        questions: question file, as named in the benchmark's code repository.
        archives: groups of hub files. Each group is one archive: a single zip, or the parts of a split tar in
            order. Empty if `stc-lmms data fetch` cannot download the portion.
        size: download size, shown to users.
        videos: path of a video below the data root, shown to users.
        hub_questions: hub files that together replace `questions`; empty if the hub has none.
    """

    questions: str
    archives: tuple[tuple[str, ...], ...] = ()
    size: str = ""
    videos: str = ""
    hub_questions: tuple[str, ...] = ()

    @property
    def question_files(self) -> tuple[str, ...]:
        """Bare names of all question files."""
        return tuple(PurePosixPath(file).name for file in (self.questions, *self.hub_questions))

    @property
    def archive_names(self) -> str:
        """Short list of the archives, e.g. `'Scene Understanding_*.zip', 'Emotion Recognition.zip'`."""
        names = [
            f"{group[0]!r}" if len(group) == 1 else f"'{group[0][:-1]}[{group[0][-1]}-{group[-1][-1]}]'"
            for group in self.archives
        ]
        return ", ".join(dict.fromkeys(_SAMPLE_RANGE.sub("_*.zip", name) for name in names))


@dataclass(frozen=True)
class DataSource:
    """Where the files of a benchmark come from and how they are laid out in its root folder.

    Attributes:
        variable: environment variable that names the root folder.
        portions: downloadable portions by name; the first one is the default.
        questions_url: folder of the code repository that holds the question files.
        question_folders: folders of the root that are searched for question files.
        manual: how to download the data by hand, with `{to}` for the root folder; only for a source without
            archives.
        unpacked_path: maps (portion, zip name, member name) to the member's path below the root; None keeps
            the member name.
    """

    name: str
    variable: str
    hub_id: str
    portions: Mapping[str, Portion]
    licence: str = ""
    questions_url: str = ""
    question_folders: tuple[str, ...] = ("",)
    manual: str = ""
    unpacked_path: Callable[[str, str, str], str] | None = None

    @property
    def fetchable(self) -> bool:
        """Whether `stc-lmms data fetch` can download it."""
        return any(portion.archives for portion in self.portions.values())

    @property
    def default_portion(self) -> str:
        """Name of the portion that is downloaded unless another one is requested."""
        return next(iter(self.portions))

    def portion_of(self, file: str) -> str | None:
        """Name of the portion that a question file (bare name) belongs to, or None."""
        return next((name for name, portion in self.portions.items() if file in portion.question_files), None)

    def fetch_command(self, portion: str, to: object = "DIR") -> str:
        """The command that downloads a portion, with the download size."""
        option = "" if portion == self.default_portion else f" --parts {portion}"
        size = self.portions[portion].size
        return f"`stc-lmms data fetch {self.name}{option} --to {shlex.quote(str(to))}` ({size})"

    def setup_hint(self, portion: str) -> str:
        """How to create the root folder, for an error message."""
        if not self.fetchable:
            return self.manual.format(to="DIR")
        files = self.portions[portion]
        return (
            f"for part {portion!r} of {self.name} run {self.fetch_command(portion)} and set {self.variable}="
            f"DIR; or download {files.archive_names} from the hub dataset {self.hub_id} and "
            f"{self.questions_url}{files.questions} (licence: {self.licence}), so that DIR/{files.questions} "
            f"and DIR/{files.videos} exist"
        )

    def videos_hint(self, portion: str, root: object) -> str:
        """How to add missing videos to an existing root folder, for an error message."""
        if not self.fetchable:
            return self.manual.format(to=root)
        return (
            f"run {self.fetch_command(portion, root)}; archives that are already in that folder "
            f"({self.portions[portion].archive_names}) are not downloaded again"
        )

    def questions_hint(self, file: str, root: object) -> str:
        """How to get a missing question file, for an error message; empty for a file of another origin."""
        portion = self.portion_of(file)
        if portion is None or not self.fetchable:
            return ""
        origin = f"{self.questions_url}{file}"
        if file != self.portions[portion].questions:
            paths = {PurePosixPath(path).name: path for path in self.portions[portion].hub_questions}
            origin = f"{paths[file]} from the hub dataset {self.hub_id}"
        command = self.fetch_command(portion, root)
        return f"; for part {portion!r} of {self.name} run {command}, or download {origin} and put it there"
