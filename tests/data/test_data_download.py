"""`fetch` against a small stand-in for the dataset hub, and without any network."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from stc_lmms.benchmarks.registry import find
from stc_lmms.data import download
from stc_lmms.data.download import fetch
from stc_lmms.errors import DataError
from tests.data.data_helpers import split, tar_bytes, tree

VIDEOS = {f"src_videos/COIN/{i}.mp4": bytes([i]) * (3_000 + i) for i in range(6)}
PARTS = [f"src_videos.tar.parta{letter}" for letter in "abcde"]
CUTS = [3_000, 6_100, 9_000, 20_000]
COMMIT = "0" * 40
OVO, SB = find("ovobench").source, find("streamingbench").source


class Hub(ThreadingHTTPServer):
    """Serves {repository: {file: bytes}} the way the hub does, and logs what is downloaded."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.downloads: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for repository, files in self.server.repositories.items():
            if path.startswith(f"/api/datasets/{repository}"):
                listed = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                self._answer(json.dumps({"id": repository, "sha": COMMIT, "siblings": listed}).encode())
                return
            prefix = f"/datasets/{repository}/resolve/"
            if path.startswith(prefix):
                name = path.removeprefix(prefix).partition("/")[2]
                if name in files:
                    if self.command == "GET":
                        self.server.downloads.append(name)
                    etag = sha1(files[name]).hexdigest()  # noqa: S324
                    self._answer(files[name], "application/octet-stream", ETag=f'"{etag}"')
                    return
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    parts = split(tar_bytes(VIDEOS), tmp_path_factory.mktemp("parts"), CUTS)
    zips = {}
    for index, (name,) in enumerate(SB.portions["sqa"].archives):
        path = tmp_path_factory.mktemp("zips") / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"sample_{index * 25 + 1}/video.mp4", bytes([index]) * 2_000)
            archive.writestr(f"__MACOSX/sample_{index * 25 + 1}/._video.mp4", b"junk")
        zips[name] = path.read_bytes()
    server = Hub(
        {
            "JoeLeelyf/OVO-Bench": {
                "README.md": b"# not wanted",
                **{p.name: p.read_bytes() for p in parts},
            },
            "mjuicem/StreamingBench": {
                "StreamingBench/Sequential_Question_Answering.csv": b"question_id\n",
                "StreamingBench/Real_Time_Visual_Understanding.csv": b"not wanted\n",
                **zips,
            },
        }
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root that already holds OVO-Bench's question file."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "ovo_bench_new.json").write_text("[{}]")
    return tmp_path / "root"


def videos_in(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(root).items() if name.endswith(".mp4")}


def test_fetch_ovobench(hub: Hub, root: Path) -> None:
    assert fetch(OVO, root) == root
    assert videos_in(root) == VIDEOS
    assert sorted(hub.downloads) == PARTS
    assert all((root / part).is_file() for part in PARTS)
    hub.downloads.clear()
    fetch(OVO, root)
    assert hub.downloads == []
    fetch(OVO, root, delete_parts=True)  # now the parts may go
    assert hub.downloads == []
    assert not any((root / part).exists() for part in PARTS)


def test_fetch_after_delete_parts_downloads_nothing(hub: Hub, root: Path) -> None:
    fetch(OVO, root, delete_parts=True)
    assert not any((root / part).exists() for part in PARTS)
    hub.downloads.clear()
    fetch(OVO, root)
    assert hub.downloads == []
    (root / "src_videos/COIN/3.mp4").unlink()  # a lost video brings the archive back
    fetch(OVO, root)
    assert sorted(hub.downloads) == PARTS
    assert videos_in(root) == VIDEOS


def test_fetch_downloads_only_missing_parts(hub: Hub, root: Path) -> None:
    split(tar_bytes(VIDEOS), root, CUTS)
    (root / PARTS[2]).unlink()
    fetch(OVO, root)
    assert hub.downloads == [PARTS[2]]
    assert videos_in(root) == VIDEOS


def test_fetch_streamingbench_part(hub: Hub, tmp_path: Path) -> None:
    fetch(SB, tmp_path, ["sqa"], delete_parts=True)
    assert videos_in(tmp_path) == {
        "videos/sample_1_sqa.mp4": b"\0" * 2_000,
        "videos/sample_26_sqa.mp4": b"\1" * 2_000,
    }
    assert (tmp_path / "StreamingBench/Sequential_Question_Answering.csv").is_file()
    assert not list(tmp_path.glob("*.zip"))
    assert "StreamingBench/Real_Time_Visual_Understanding.csv" not in hub.downloads


def test_fetch_checks_the_disk_before_downloading(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.require_space.__globals__["shutil"].disk_usage(root)
    size = len(tar_bytes(VIDEOS))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=2 * size - 1))
    with pytest.raises(DataError, match="downloading and unpacking ovobench needs"):
        fetch(OVO, root)
    assert hub.downloads == []
    fetch(OVO, root, delete_parts=True)
    assert videos_in(root) == VIDEOS


def test_a_file_the_hub_lost(hub: Hub, root: Path) -> None:
    del hub.repositories["JoeLeelyf/OVO-Bench"][PARTS[1]]
    with pytest.raises(DataError, match=f"'{PARTS[1]}' is not in the hub dataset JoeLeelyf/OVO-Bench"):
        fetch(OVO, root)
    assert hub.downloads == []


def test_a_download_that_breaks_off(hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def breaks(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", breaks)
    with pytest.raises(DataError, match=r"cannot write to .*No space left"):
        fetch(OVO, root)


def test_question_file_comes_from_the_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    body = b'[{"id": 0}]'

    def urlopen(url: str, timeout: float) -> object:
        asked.append(url)
        path = tmp_path / "answer"
        path.write_bytes(body)
        return path.open("rb")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    fetch(OVO, tmp_path / "root")
    assert asked == ["https://raw.githubusercontent.com/JoeLeelyf/OVO-Bench/main/data/ovo_bench_new.json"]
    assert (tmp_path / "root" / "ovo_bench_new.json").read_bytes() == body
    body = b"<html>sign in to this network</html>"
    with pytest.raises(DataError, match="another machine"):
        fetch(OVO, tmp_path / "other")
    assert not (tmp_path / "other" / "ovo_bench_new.json").exists()


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown part of streamingbench 'reel'; did you mean 'real'"):
        fetch(SB, tmp_path, ["reel"])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot create"):
        fetch(OVO, tmp_path / "file" / "x")


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_no_network_is_one_quick_line(tmp_path: Path, variables: dict[str, str]) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nimport huggingface_hub\n"
        "from stc_lmms.benchmarks.registry import find\n"
        "from stc_lmms.data.download import fetch\nfrom stc_lmms.errors import DataError\n"
        "time.sleep = lambda seconds: sys.exit('it waits, to try again')\n"
        "try: fetch(find('ovobench').source, Path(sys.argv[1]))\n"
        "except DataError as error: print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "root")],
        capture_output=True,
        text=True,
        check=True,
        env=environment | variables,
    )
    (message,) = done.stdout.splitlines()
    assert done.stderr == ""
    assert message.startswith("cannot reach the dataset hub (")
    for piece in (
        *PARTS,
        "JoeLeelyf/OVO-Bench",
        "ovo_bench_new.json",
        str(tmp_path / "root"),
        "another machine",
    ):
        assert piece in message


def test_local_archives_need_no_network(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    split(tar_bytes(VIDEOS), root, CUTS)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it tries again"))
    fetch(OVO, root)
    assert videos_in(root) == VIDEOS


def test_offline_mode_holds_for_the_repository_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    split(tar_bytes(VIDEOS), tmp_path, CUTS)
    with pytest.raises(DataError, match=r"offline mode.*ovo_bench_new\.json on another machine"):
        fetch(OVO, tmp_path)


def test_a_damaged_marker_is_ignored(root: Path) -> None:
    split(tar_bytes(VIDEOS), root, CUTS)
    for text in ("", "[]", '{"x": 1}', "{", '{"../x": 1}'):
        marker = root / ".stc-lmms" / f"{PARTS[0]}.json"
        marker.parent.mkdir(exist_ok=True)
        marker.write_text(text)
        (root / "src_videos/COIN/0.mp4").unlink(missing_ok=True)
        fetch(OVO, root)
        assert videos_in(root) == VIDEOS
