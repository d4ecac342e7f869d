"""The journal: what is finished stays finished, whatever killed the run; what may differ is asked again."""

import json
import os
import subprocess
import sys

import pytest

from stc_lmms.results import journal as module
from stc_lmms.results.journal import Journal, code_digest, file_identity, request_key

ENTRY = {"responses": ["A", "B"], "records": [{}, {"note": "late"}], "failed": ""}


def reopened(folder, rank=0):
    found = Journal(folder, rank)
    found.close()
    return found


def test_what_is_put_is_on_disk_at_once_and_found_again(tmp_path):
    first = Journal(tmp_path / "new" / "folder")
    first.put("k1", ENTRY)
    assert first.get("k1")["responses"] == ["A", "B"] and first.get("k2") is None
    again = reopened(tmp_path / "new" / "folder")  # the first is still open: nothing waits in a buffer
    assert again.get("k1") == {"key": "k1"} | ENTRY and len(again) == 1
    first.close()


@pytest.mark.parametrize("text", ["ä–中", "line\nbreak\r\n", "a\u2028b\u2029c\x85d\x0be", '"{\\', "\x00"])
def test_any_text_comes_back_as_it_was(tmp_path, text):
    journal = Journal(tmp_path)
    journal.put("k", {"responses": [text]})
    journal.put("after", {"responses": []})
    journal.close()
    again = reopened(tmp_path)
    assert again.get("k")["responses"] == [text] and again.get("after")


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_costs_one_request_only(tmp_path, caplog, cut):
    journal = Journal(tmp_path)
    journal.put("whole", ENTRY)
    journal.put("torn", ENTRY | {"responses": ["中" * 20]})
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    again = Journal(tmp_path)
    assert again.get("whole") and (again.get("torn") is None or cut == 1)
    assert ("rank0.jsonl line 2 is incomplete" in caplog.text) is (cut > 1)
    again.put("next", ENTRY)
    again.close()
    last = reopened(tmp_path)
    assert last.get("whole") and last.get("next")


def test_foreign_lines_are_skipped(tmp_path, caplog):
    (tmp_path / "rank0.jsonl").write_text(
        '[1]\n3\n\n{"no": "key"}\n' + json.dumps({"key": "k"} | ENTRY) + "\n"
    )
    assert len(reopened(tmp_path)) == 1
    assert caplog.text.count("incomplete") == 3


def test_failures_are_recorded_but_tried_again(tmp_path):
    journal = Journal(tmp_path)
    journal.put("k", ENTRY | {"failed": "cannot decode x.mp4"})
    assert journal.get("k") is None and len(journal) == 0
    assert "cannot decode x.mp4" in journal.path.read_text()
    assert reopened(tmp_path).get("k") is None
    journal.put("k", ENTRY)
    journal.close()
    assert reopened(tmp_path).get("k")


def test_all_ranks_are_read_and_only_the_own_file_is_written(tmp_path):
    for rank in range(2):
        journal = Journal(tmp_path, rank)
        journal.put(f"of{rank}", ENTRY)
        journal.close()
    before = (tmp_path / "rank1.jsonl").read_bytes()
    both = Journal(tmp_path, 5)
    both.put("of5", ENTRY)
    both.close()
    assert (
        all(both.get(f"of{rank}") for rank in (0, 1, 5)) and (tmp_path / "rank1.jsonl").read_bytes() == before
    )
    assert {path.name for path in tmp_path.iterdir()} == {"rank0.jsonl", "rank1.jsonl", "rank5.jsonl"}


def test_the_key_changes_with_all_that_decides_an_answer(tmp_path, monkeypatch):
    video = tmp_path / "v.mp4"
    video.write_bytes(b"1234")
    parts = {
        "settings": {"method": "stc", "fps": 0.5},
        "doc": {"id": 1, "questions": [{"end_s": 3.0}]},
        "video": file_identity(str(video)),
    }
    keys = [request_key(**parts)]
    assert request_key(**dict(reversed(parts.items()))) == keys[0]
    keys.append(request_key(**parts | {"settings": {"method": "stc", "fps": 1.0}}))
    keys.append(request_key(**parts | {"doc": {"id": 1, "questions": [{"end_s": 4.0}]}}))
    os.utime(video, ns=(1, 1))
    keys.append(request_key(**parts | {"video": file_identity(str(video))}))
    video.write_bytes(b"12345")
    os.utime(video, ns=(1, 1))
    keys.append(request_key(**parts | {"video": file_identity(str(video))}))
    video.unlink()
    keys.append(request_key(**parts | {"video": file_identity(str(video))}))
    monkeypatch.setattr(module, "code_digest", lambda: "other code")
    keys.append(request_key(**parts))
    assert len(set(keys)) == len(keys)


def test_the_code_is_part_of_it(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sub" / "a.py").write_text("x = 1")
    monkeypatch.setattr(module.stc_lmms, "__file__", str(package / "__init__.py"))
    digest = code_digest.__wrapped__
    before = digest()
    (package / "sub" / "notes.txt").write_text("no code")
    assert digest() == before
    (package / "sub" / "a.py").write_text("x = 2")
    assert digest() != before


def test_a_request_that_was_begun_is_kept_until_it_is_whole(tmp_path):
    journal = Journal(tmp_path)
    journal.put("k", ENTRY | {"begun": True})
    assert journal.get("k") is None and journal.begun("k")["responses"] == ["A", "B"]
    journal.close()
    again = Journal(tmp_path)
    assert again.get("k") is None and len(again) == 0 and again.begun("k")["responses"] == ["A", "B"]
    again.put("k", ENTRY | {"responses": ["A", "B", "C"]})
    again.close()
    assert reopened(tmp_path).get("k")["responses"] == ["A", "B", "C"]


def test_a_full_disk_is_one_line_and_costs_one_request(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from stc_lmms.results.journal import Journal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); journal = Journal(Path(sys.argv[1]))\n"
        "for number in range(99): journal.put(str(number), {'responses': ['x' * 40]})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("stc_lmms.errors.")]
    assert f"cannot write the journal {tmp_path}/rank0.jsonl" in line and "make room and start again" in line
    kept = reopened(tmp_path)
    assert len(kept) > 3 and [kept.get(str(n)) is not None for n in range(99)] == [
        n < len(kept) for n in range(99)
    ]
