import io
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from stc_lmms.data import archives
from stc_lmms.data.archives import extract_tar, extract_zip
from stc_lmms.data.parts import JoinedParts
from stc_lmms.errors import DataError
from tests.data.data_helpers import make_zip, split, tar_bytes, tree

RANDOM = random.Random(0)
LONG_NAME = "src_videos/" + "YouTube_Games/" * 9 + "clip.mp4"  # > 100 characters: a GNU or pax extra header
FILES = {
    "src_videos/COIN/a.mp4": RANDOM.randbytes(70_000),
    LONG_NAME: RANDOM.randbytes(513),
    "src_videos/COIN/b&list=1.mp4": RANDOM.randbytes(512),
    "src_videos/star/empty.mp4": b"",
    "src_videos/star/c.mp4": RANDOM.randbytes(130_000),
}
SIZE = len(tar_bytes(FILES))


@pytest.mark.parametrize(
    "cuts",
    [
        [],
        [1],
        [100, 101, 511],  # several boundaries inside the first header
        [512 + 69_999, 512 + 70_001],
        [70_656 + 200],  # inside a header in the middle
        [0, 0, 5_000],  # empty parts
        [512, SIZE - 512, SIZE - 1],
        [SIZE],  # an empty last part
        sorted(random.Random(1).sample(range(SIZE), 20)),
    ],
)
def test_split_tar(tmp_path: Path, cuts: list[int]) -> None:
    parts = split(tar_bytes(FILES), tmp_path / "parts", cuts)
    result = extract_tar(parts, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert result.written == len(FILES)
    assert result.sizes == {name: len(data) for name, data in FILES.items()}
    assert all(part.is_file() for part in parts)


def test_joined_parts_equal_the_whole(tmp_path: Path) -> None:
    data = RANDOM.randbytes(2_000)
    parts = split(data, tmp_path, sorted(RANDOM.sample(range(2_000), 25)))
    with JoinedParts(parts) as joined:
        stream = io.BufferedReader(joined, 64)
        assert stream.read() == data
        for _ in range(200):
            offset, count = RANDOM.randrange(2_100), RANDOM.randrange(300)
            stream.seek(offset)
            assert stream.read(count) == data[offset : offset + count]
        assert stream.seek(-7, os.SEEK_END) == 1_993
        assert stream.read() == data[-7:]
        with pytest.raises(ValueError, match="negative"):
            joined.seek(-1)


def test_resume_writes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split(tar_bytes(FILES), tmp_path / "parts", [50_000, 100_000])
    out = tmp_path / "out"
    real_write = archives._write

    def failing_write(member: Any, target: Path, advance: Any) -> None:
        if target.name == "c.mp4":
            target.with_name("c.mp4.part").write_bytes(b"half")
            raise KeyboardInterrupt
        real_write(member, target, advance)

    monkeypatch.setattr(archives, "_write", failing_write)
    with pytest.raises(KeyboardInterrupt):
        extract_tar(parts, out)
    monkeypatch.setattr(archives, "_write", real_write)
    (out / "src_videos/COIN/b&list=1.mp4").write_bytes(b"cut short")
    kept = (out / "src_videos/COIN/a.mp4").stat().st_mtime_ns

    assert extract_tar(parts, out).written == 2
    assert tree(out) == FILES  # and no c.mp4.part
    assert (out / "src_videos/COIN/a.mp4").stat().st_mtime_ns == kept
    assert extract_tar(parts, out).written == 0


def test_a_failed_member_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split(tar_bytes(FILES), tmp_path / "parts", [])

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_COPY_BYTES", 10_000)
    monkeypatch.setattr("tqdm.tqdm.update", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        extract_tar(parts, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def watch_disk(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[int]:
    """Bytes on disk below a folder, taken after every block that is written."""
    usage: list[int] = []

    def update(*_: object) -> None:
        usage.append(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))

    monkeypatch.setattr("tqdm.tqdm.update", update)
    monkeypatch.setattr(archives, "_COPY_BYTES", 1_000)
    return usage


def test_no_second_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split(tar_bytes(FILES), tmp_path / "parts", [90_000])
    usage = watch_disk(monkeypatch, tmp_path)
    extract_tar(parts, tmp_path / "out")
    assert len(usage) > 150
    assert max(usage) <= SIZE + sum(map(len, FILES.values()))


def test_delete_parts_frees_space_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"src_videos/{i}.mp4": RANDOM.randbytes(20_000) for i in range(10)}
    data = tar_bytes(files)
    parts = split(data, tmp_path / "parts", [50_000, 50_000, 100_100, 150_000])
    usage = watch_disk(monkeypatch, tmp_path)
    extract_tar(parts, tmp_path / "out", delete_parts=True)
    assert tree(tmp_path / "out") == files
    assert not any(part.exists() for part in parts)
    assert max(usage) <= len(data) + 70_656 + 20_000  # everything once, one part and one member twice


def test_no_part_is_deleted_before_its_members_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash in any member, the parts that are left still hold every member that is not on disk."""
    files = {f"{i}.mp4": RANDOM.randbytes(700 + i) for i in range(6)}
    data = tar_bytes(files)
    real_write = archives._write
    for cut in range(400, 9_000, 77):
        for crash in range(6):
            folder = tmp_path / f"{cut}_{crash}"
            parts = split(data, folder / "parts", [cut, cut + 300])

            def write(member: Any, target: Path, advance: Any, crash: int = crash) -> None:
                if target.name == f"{crash}.mp4":
                    raise KeyboardInterrupt
                real_write(member, target, advance)

            monkeypatch.setattr(archives, "_write", write)
            with pytest.raises(KeyboardInterrupt):
                extract_tar(parts, folder / "out", delete_parts=True)
            starts = [0, cut, cut + 300]
            left = min((s for s, part in zip(starts, parts, strict=True) if part.exists()), default=len(data))
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                unfinished = [m.offset for m in tar if not (folder / "out" / m.name).exists()]
            assert left <= min(unfinished)


def unsafe_member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


@pytest.mark.parametrize(
    "member",
    [
        unsafe_member("/tmp/evil.mp4", tarfile.REGTYPE),  # noqa: S108
        unsafe_member("../evil.mp4", tarfile.REGTYPE),
        unsafe_member("src_videos/../../evil.mp4", tarfile.REGTYPE),
        unsafe_member("../evil", tarfile.DIRTYPE),
        unsafe_member("link.mp4", tarfile.SYMTYPE, "/etc/passwd"),
        unsafe_member("link.mp4", tarfile.SYMTYPE, "src_videos/COIN/a.mp4"),
        unsafe_member("hard.mp4", tarfile.LNKTYPE, "src_videos/COIN/a.mp4"),
        unsafe_member("device.mp4", tarfile.CHRTYPE),
        unsafe_member("device.mp4", tarfile.BLKTYPE),
        unsafe_member("pipe.mp4", tarfile.FIFOTYPE),
        unsafe_member("sparse.mp4", tarfile.GNUTYPE_SPARSE),
        unsafe_member("../._evil.mp4", tarfile.REGTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_unsafe_tar_members(tmp_path: Path, member: tarfile.TarInfo) -> None:
    parts = split(tar_bytes(FILES, [member]), tmp_path / "parts", [50_000])
    out = tmp_path / "folder" / "out"
    with pytest.raises(DataError, match=r"unsafe path|refused to extract") as error:
        extract_tar(parts, out)
    assert "\n" not in str(error.value)
    assert tree(tmp_path / "folder") == {}  # refused before anything was written
    assert not (tmp_path / "folder" / "evil.mp4").exists()


def test_pax_sparse_member(tmp_path: Path) -> None:
    """A regular type, but a size of the archive's choice that it need not hold."""
    info = unsafe_member("sparse.mp4", tarfile.REGTYPE)
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
    parts = split(tar_bytes(FILES, [info]), tmp_path / "parts", [])
    with pytest.raises(DataError, match=r"refused to extract 'sparse\.mp4'"):
        extract_tar(parts, tmp_path / "out")


def test_nothing_is_written_through_a_symlink(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "src_videos").symlink_to(outside)
    parts = split(tar_bytes(FILES), tmp_path / "parts", [])
    with pytest.raises(DataError):
        extract_tar(parts, out)
    archive = make_zip(tmp_path / "a.zip", {"src_videos/x.mp4": b"x"})
    with pytest.raises(DataError):
        extract_zip(archive, out)
    assert tree(outside) == {}

    # The unfinished file of an earlier run may have been replaced by a symlink.
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2" / "x.mp4.part").symlink_to(victim)
    extract_zip(make_zip(tmp_path / "b.zip", {"x.mp4": b"new"}), tmp_path / "out2")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "out2" / "x.mp4").read_bytes() == b"new"


def test_damaged_tars(tmp_path: Path) -> None:
    data = tar_bytes(FILES)
    end_of_first = 512 + 70_144
    cut_in_data = data[:40_000]
    cut_between_members = data[:end_of_first]
    garbled = data[:end_of_first] + b"\xff" * 512 + data[end_of_first + 512 :]
    for index, broken in enumerate((b"", b"no tar" * 200, cut_in_data, cut_between_members, garbled)):
        parts = split(broken, tmp_path / f"parts{index}", [])
        with pytest.raises(DataError, match=r"src_videos\.tar\.partaa is incomplete or damaged"):
            extract_tar(parts, tmp_path / "out", delete_parts=True)
        assert parts[0].exists()
    assert tree(tmp_path / "out") == {}

    parts = split(data, tmp_path / "parts", [100_000])
    parts[1].unlink()
    with pytest.raises(DataError, match="partab is missing"):
        extract_tar(parts, tmp_path / "out")


def test_compressed_tar_is_refused(tmp_path: Path) -> None:
    import gzip

    part = tmp_path / "x.tar"
    part.write_bytes(gzip.compress(tar_bytes(FILES)))
    with pytest.raises(DataError, match="damaged"):
        extract_tar([part], tmp_path / "out")


def test_free_space_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split(tar_bytes(FILES), tmp_path / "parts", [])
    needed = sum(map(len, FILES.values()))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(DataError, match=r"needs 0\.0 GB but .* free some space"):
        extract_tar(parts, tmp_path / "out")
    assert tree(tmp_path / "out") == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    extract_tar(parts, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert extract_tar(parts, tmp_path / "out").written == 0  # resuming counts only what is missing
