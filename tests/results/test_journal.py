"""The journal: what is finished stays finished, whatever killed the run; what may differ is asked again."""

import json
import os
import subprocess
import sys
import tracemalloc

import pytest

from stc_lmms.results.journal import Journal, header

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
    assert again.get("k1").items() >= ENTRY.items() and len(again) == 1
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
    assert ("rank0.jsonl line 2 is damaged" in caplog.text) is (cut > 1)
    again.put("next", ENTRY)
    again.close()
    last = reopened(tmp_path)
    assert last.get("whole") and last.get("next")


def test_foreign_lines_are_skipped(tmp_path, caplog):
    journal = Journal(tmp_path)
    journal.put("k", ENTRY)
    journal.close()
    journal.path.write_bytes(b'[1]\n3\n\n{"no": "key"}\n\xff\xfe\n' + journal.path.read_bytes())
    again = reopened(tmp_path)
    assert len(again) == 1 and again.get("k")["responses"] == ["A", "B"]
    assert caplog.text.count("is damaged; its request runs again") == 4


def test_any_damage_of_a_line_is_noticed_and_costs_its_request_alone(tmp_path, caplog):
    journal = Journal(tmp_path)
    for key in ("before", "damaged", "after"):
        journal.put(key, ENTRY)
    journal.close()
    good = journal.path.read_bytes()
    lines = good.splitlines(keepends=True)
    for at in range(len(lines[1]) - 1):
        bad = bytearray(lines[1])
        bad[at] ^= 1
        if bad[at] == ord("\n"):
            continue
        journal.path.write_bytes(lines[0] + bad + lines[2])
        caplog.clear()
        again = reopened(tmp_path)
        assert again.keys() == {"before", "after"} and all(map(again.get, again.keys())), bad
        assert caplog.messages == [f"{journal.path} line 2 is damaged; its request runs again"]
        assert header(bytes(bad)) is None
    assert all(header(line) for line in lines)


def test_a_journal_without_checksums_is_ignored_with_one_line(tmp_path, caplog):
    old = "".join(json.dumps({"key": str(number)} | ENTRY) + "\n" for number in range(3))
    (tmp_path / "rank0.jsonl").write_text(old)
    journal = Journal(tmp_path)
    assert len(journal) == 0 and journal.last("1") is None
    assert caplog.messages == [
        f"{tmp_path / 'rank0.jsonl'}: 3 answers of an older version are ignored; they run again"
    ]
    journal.put("1", ENTRY)
    journal.close()
    assert reopened(tmp_path).get("1")["responses"] == ["A", "B"]


def test_processes_that_share_a_file_find_their_own_entries(tmp_path):
    one, other = Journal(tmp_path), Journal(tmp_path)
    for number in range(20):
        for name, journal in (("one", one), ("other", other)):
            journal.put(f"{name}{number}", {"responses": [name * number]})
    assert all(one.get(f"one{n}")["responses"] == ["one" * n] for n in range(20))
    assert all(other.get(f"other{n}")["responses"] == ["other" * n] for n in range(20))
    one.close()
    other.close()
    assert len(reopened(tmp_path)) == 40


def test_opening_a_large_journal_keeps_no_entries_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    journal, count = Journal(tmp_path), 20_000
    for number in range(count):
        journal.put(f"{number:032x}", {"responses": ["A"], "records": [{"text": "x" * 1000}]})
    journal.close()
    tracemalloc.start()
    again = reopened(tmp_path)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(again) == count and again.get(f"{7:032x}")["responses"] == ["A"]
    assert journal.path.stat().st_size > 1000 * count
    assert size < 500 * count and peak < 600 * count  # a third of the file; 100,000 entries take 50 MB


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


def test_a_request_that_was_begun_is_kept_until_it_is_whole(tmp_path):
    journal = Journal(tmp_path)
    journal.put("k", ENTRY, begun=True)
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
