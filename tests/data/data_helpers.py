"""Archives for the tests, and what came out of them."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any


def tar_bytes(files: dict[str, bytes], extra: list[tarfile.TarInfo] | None = None) -> bytes:
    """An uncompressed tar; `extra` members carry no data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra or []:
            tar.addfile(info)
    return buffer.getvalue()


def make_zip(path: Path, files: dict[str, bytes], **options: Any) -> Path:
    """A zip; `options` are those of `ZipFile`."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name) if not options else name, data)
    return path


def split(data: bytes, folder: Path, cuts: list[int]) -> list[Path]:
    """Write `data` as parts that end at the cuts and at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for index, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True)):
        part = folder / f"src_videos.tar.parta{chr(ord('a') + index)}"
        part.write_bytes(data[start:end])
        parts.append(part)
    return parts


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
