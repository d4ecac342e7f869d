import random
import zipfile
from functools import partial
from pathlib import Path

import pytest

from stc_lmms.benchmarks.streamingbench_data import SOURCE, unpacked_path
from stc_lmms.data.archives import extract_zip
from stc_lmms.errors import DataError
from tests.data.data_helpers import make_zip, tree

RANDOM = random.Random(0)


def test_zip_with_mac_litter(tmp_path: Path) -> None:
    videos = {f"sample_{i}/video.mp4": RANDOM.randbytes(3_000 + i) for i in (1, 2, 50)}
    litter = {
        "__MACOSX/._sample_1": b"?",
        "__MACOSX/notes.txt": b"?",
        "__MACOSX/sample_1/._video.mp4": b"?",
        "sample_1/._video.mp4": b"?",
        ".DS_Store": b"?",
    }
    archive = make_zip(tmp_path / "a.zip", {"sample_1/": b"", **videos, **litter})
    assert extract_zip(archive, tmp_path / "out").written == 3
    assert tree(tmp_path / "out") == videos
    (tmp_path / "out" / "sample_2/video.mp4").write_bytes(b"cut")
    assert extract_zip(archive, tmp_path / "out").written == 1
    assert tree(tmp_path / "out") == videos
    extract_zip(archive, tmp_path / "out", delete_archive=True)
    assert not archive.exists()


def zip_member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.filename = name  # ZipInfo cuts a name at a NUL
    return info


@pytest.mark.parametrize(
    "member",
    [
        zip_member("/tmp/evil.mp4"),  # noqa: S108
        zip_member("../evil.mp4"),
        zip_member("a/../../evil.mp4"),
        zip_member("__MACOSX/../../evil.mp4"),
        zip_member("..\\evil.mp4"),
        zip_member("C:/evil.mp4"),
        zip_member("a.mp4\0.txt"),
        zip_member("link.mp4", 0o120777),
        zip_member("device.mp4", 0o020644),
        zip_member("pipe.mp4", 0o010644),
    ],
    ids=lambda info: info.filename,
)
def test_unsafe_zip_members(tmp_path: Path, member: zipfile.ZipInfo) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("good.mp4", b"x")
        opened.writestr(member, b"/etc/passwd")
    with pytest.raises(DataError, match=r"unsafe path|refused to extract"):
        extract_zip(archive, tmp_path / "folder" / "out")
    assert tree(tmp_path / "folder") == {}


def test_encrypted_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.mp4": b"secret"})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        extract_zip(archive, tmp_path / "out")


def test_decompression_bomb(tmp_path: Path) -> None:
    bomb = make_zip(tmp_path / "a.zip", {"a.mp4": bytes(4 << 20)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="decompression bomb"):
        extract_zip(bomb, tmp_path / "out")
    mixed = {"noise.mp4": RANDOM.randbytes(1 << 20), "a.mp4": bytes(4 << 20)}
    bomb = make_zip(tmp_path / "d.zip", mixed, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"'a\.mp4'.*decompression bomb"):
        extract_zip(bomb, tmp_path / "out")
    many = {f"{i}.mp4": bytes(1 << 20) for i in range(20)}  # each small enough, the sum is not
    bomb = make_zip(tmp_path / "b.zip", many, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"'b\.zip'.*decompression bomb"):
        extract_zip(bomb, tmp_path / "out")
    text = make_zip(tmp_path / "c.zip", {"a.txt": bytes(100_000)}, compression=zipfile.ZIP_DEFLATED)
    assert extract_zip(text, tmp_path / "out").written == 1


def test_damaged_zips(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "a.zip", {"a.mp4": RANDOM.randbytes(5_000)}).read_bytes()
    flipped = bytearray(whole)
    flipped[2_000] ^= 1  # a bad checksum shows only after reading
    for index, broken in enumerate((b"", whole[:3_000], bytes(flipped))):
        archive = tmp_path / f"{index}.zip"
        archive.write_bytes(broken)
        with pytest.raises(DataError, match="incomplete or damaged"):
            extract_zip(archive, tmp_path / "out", delete_archive=True)
        assert archive.exists()
    assert tree(tmp_path / "out") == {}
    with pytest.raises(DataError, match="is missing"):
        extract_zip(tmp_path / "none.zip", tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "archive", "member", "expected"),
    [
        ("real", "Real-Time Visual Understanding_1-50.zip", "sample_7/video.mp4", "videos/sample_7_real.mp4"),
        (
            "sqa",
            "Sequential Question Answering_26-50.zip",
            "x/sample_30/video.mp4",
            "videos/sample_30_sqa.mp4",
        ),
        ("proactive", "Proactive Output_1-25.zip", "sample_2.mp4", "videos/sample_2_proactive.mp4"),
        (
            "omni",
            "Scene Understanding_26-50.zip",
            "sample_41/video.mp4",
            "videos/sample_41_Scene_Understanding_26-50.mp4",
        ),
        (
            "omni",
            "Emotion Recognition.zip",
            "Emotion Recognition/sample_4/video.mp4",
            "videos/sample_4_Emotion_Recognition.mp4",
        ),
        ("omni", "Emotion Recognition.zip", "notes.txt", "videos/Emotion Recognition/notes.txt"),
    ],
)
def test_unpacked_paths(part: str, archive: str, member: str, expected: str) -> None:
    assert (archive,) in SOURCE.portions[part].archives
    assert unpacked_path(part, archive, member) == expected


def test_two_members_for_one_file(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"sample_1/video.mp4": b"a", "x/sample_1/video.mp4": b"b"})
    with pytest.raises(DataError, match="for the same file"):
        extract_zip(archive, tmp_path / "out", rename=partial(unpacked_path, "real", "a.zip"))
    assert tree(tmp_path / "out") == {}
