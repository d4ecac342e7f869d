"""Shards: whole videos, equal cost, nothing lost; and the variable that tells a task its shard."""

import json
import random

import pytest

from stc_lmms.benchmarks.base import make_row
from stc_lmms.cli.main import main
from stc_lmms.errors import DataError
from stc_lmms.eval.shard import VARIABLE, select
from stc_lmms.sweep import tasks
from stc_lmms.sweep.shards import Load, assign_to_ranks, count_split, duration_s, shard_videos, video_loads
from tests.benchmarks.test_rounds import proactive, question
from tests.conftest import QUIRKS


def row(video, *questions, benchmark="ovobench"):
    return make_row(video, "part", questions) | {"benchmark": benchmark, "path": f"/none/{video}"}


def test_a_load_is_frames_and_rounds_of_all_tasks_together():
    rows = [
        row("a", question("1", 10.0), question("2", 20.5)),
        row("b", question("3", 3.0)),
        row("a", question("4", 30.0)),  # another task: the stream goes on, it is not played again
        row("c", proactive("5", 2.0, 8.0)),
    ]
    loads = video_loads(rows, fps=0.5)
    assert loads["ovobench", "a"] == ((15,), 3) and loads["ovobench", "a"].cost == 18
    assert loads["ovobench", "b"] == ((2,), 1)
    assert loads["ovobench", "c"] == ((5,), 10), "every poll counts"
    assert video_loads(rows, fps=2)["ovobench", "a"].streams == (60,)


def test_a_question_at_the_end_costs_the_whole_video():
    (path,) = QUIRKS.glob("videos/sample_6_*.mp4")
    at_end = row("v", question("1", -1.0)) | {"path": str(path)}
    assert video_loads([at_end], fps=1.0)["ovobench", "v"].streams == (round(duration_s(str(path))),) == (40,)
    assert video_loads([row("v", question("1", -1.0))], fps=1.0)["ovobench", "v"].cost == 1


@pytest.mark.parametrize("count", [1, 2, 5, 8, 40, 60])
def test_shards_are_equal_and_whole(count):
    rng = random.Random(count)
    loads = {("ovobench", str(n)): Load((rng.randint(5, 300),), rng.randint(1, 9)) for n in range(50)}
    shards = shard_videos(loads, count)
    assert sorted(video for videos in shards for video in videos) == sorted(loads)
    assert len(shards) == min(count, 50) and all(shards)
    costs = [sum(loads[video].cost for video in videos) for videos in shards]
    assert costs == sorted(costs, reverse=True)
    best = max(sum(costs) / len(shards), max(load.cost for load in loads.values()))
    assert costs[0] <= 4 / 3 * best
    assert shards == shard_videos(dict(loads), count)
    assert all(videos == sorted(videos, key=list(loads).index) for videos in shards)


def test_the_shards_of_the_mini_benchmark_end_together():
    leaves = tasks.find("ovobench_stream_mini").leaves
    loads = video_loads((row for leaf in leaves for row in leaf.rows()), fps=0.5)
    for count in (2, 3, 4):
        costs = [sum(loads[video].cost for video in videos) for videos in shard_videos(loads, count)]
        assert max(costs) <= 1.15 * min(costs)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_end_together_and_never_share_a_video(ranks):
    rng = random.Random(ranks)
    loads = {("ovobench", str(n)): Load((rng.randint(5, 300),), 1) for n in range(90)}
    names = list(loads)
    several = {"backward": names[:40], "realtime": names[30:75], "forward": names[75:]}  # ten are in two
    order = assign_to_ranks(several, loads, ranks)
    assert {task: sorted(videos) for task, videos in order.items()} == {
        t: sorted(v) for t, v in several.items()
    }
    # as lmms-eval hands out rows
    played = [{v for videos in order.values() for v in videos[rank::ranks]} for rank in range(ranks)]
    assert sum(map(len, played)) == 90, "a video is on two ranks"
    busy = [sum(loads[video].cost for video in videos) for videos in played]
    assert max(busy) <= 1.1 * min(busy)
    assert assign_to_ranks(several, loads, 1) == several


def least_parted(tasks, ranks):
    """The fewest videos that any deal gives to two ranks, by trying all."""
    rows = {(task, rank): len(videos[rank::ranks]) for task, videos in tasks.items() for rank in range(ranks)}
    videos = dict.fromkeys(video for listed in tasks.values() for video in listed)
    asking = {video: [task for task in tasks if video in tasks[task]] for video in videos}
    several, best = [video for video in asking if len(asking[video]) > 1], len(asking)

    def go(at, bad):
        nonlocal best
        if at == len(several) or bad >= best:
            best = min(best, bad)
            return
        for rank in range(ranks):
            if all(rows[task, rank] for task in asking[several[at]]):
                for task in asking[several[at]]:
                    rows[task, rank] -= 1
                go(at + 1, bad)
                for task in asking[several[at]]:
                    rows[task, rank] += 1
        go(at + 1, bad + 1)

    go(0, 0)
    return best


def test_dense_overlaps_put_hardly_a_video_on_two_ranks():
    """Every row is dealt once; and the videos on two ranks are, over all, few more than there must be."""
    rng, found, least = random.Random(1), 0, 0
    for _ in range(120):
        videos, dense = [("b", str(n)) for n in range(rng.randint(4, 9))], rng.uniform(0.3, 1)
        several = {
            str(task): [v for v in videos if rng.random() < dense] or videos[:1]
            for task in range(rng.randint(3, 4))
        }
        loads, ranks = {video: Load((rng.randint(1, 300),), 1) for video in videos}, rng.randint(2, 4)
        order = assign_to_ranks(several, loads, ranks)
        assert {task: sorted(listed) for task, listed in order.items()} == several
        assert order == assign_to_ranks(several, loads, ranks)
        found, least = found + count_split(order, ranks), least + least_parted(several, ranks)
    assert 0 < least <= found <= 1.2 * least + 2


def test_a_video_that_must_be_played_twice_is_counted():
    """Three videos in three tasks of two each, on two ranks: one has no rank to itself."""
    x, y, z = (("b", name) for name in "xyz")
    loads = dict.fromkeys((x, y, z), Load((9,), 1))
    assert count_split(assign_to_ranks({"1": [x, y], "2": [y, z], "3": [x, z]}, loads, 2), 2) == 1
    assert count_split({"1": [x, y], "2": [x, y]}, 2) == 0


def test_more_ranks_than_rows_is_no_error():
    loads = {("ovobench", str(n)): Load((n,), 1) for n in range(3)}
    assert assign_to_ranks({"a": list(loads), "b": list(loads)[:1]}, loads, 8).keys() == {"a", "b"}


def test_without_the_variable_all_rows_are_taken():
    rows = [row("a"), row("b")]
    assert select(rows, "ovobench", "part", {}) == rows


def test_a_shard_file_selects_and_orders_by_video(tmp_path, capsys):
    path = tmp_path / "shard.json"
    path.write_text(json.dumps({"rows": {"ovobench/part": ["c", "a"], "other/part": ["b"], "x/y": ["z"]}}))
    rows, environ = [row("a"), row("b"), row("c")], {VARIABLE: str(path)}
    assert select(rows, "ovobench", "part", environ) == [rows[2], rows[0]]
    assert "2 of 3 videos of ovobench/part" in capsys.readouterr().err
    assert select(rows, "other", "part", environ) == [rows[1]]
    with pytest.raises(DataError, match="lists 0 videos of ovobench/none, of which 0 exist"):
        select(rows, "ovobench", "none", environ)
    with pytest.raises(DataError, match="lists 1 videos of x/y, of which 0 exist"):
        select(rows, "x", "y", environ)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"row": {}}', '{"rows": [1]}', '{"rows": {"ovobench/part": 1}}']
)
def test_a_broken_shard_file_is_one_line(tmp_path, content):
    (tmp_path / "shard.json").write_text(content)
    with pytest.raises(DataError, match="not a readable shard file"):
        select([row("a")], "ovobench", "part", {VARIABLE: str(tmp_path / "shard.json")})


def test_the_tasks_files_say_what_is_in_them():
    group = tasks.find("ovobench_stream")
    assert [leaf.part for leaf in group.leaves] == ["backward", "realtime", "forward"]
    assert group.means == ("acc",) and dict(group.leaves[0].metrics)["n"].endswith("lmms_tasks.total")
    (leaf,) = tasks.find("streamingbench_tiny").leaves
    assert (leaf.benchmark, leaf.part, leaf.size) == ("streamingbench", "real", "tiny")
    with pytest.raises(DataError, match="not a function of this package"):
        tasks.aggregation("os.system")


def test_commands_name_what_is_unknown(tmp_path, capsys):
    assert main(["sweep", "status", str(tmp_path)]) == 2
    assert "holds no sweep; start one with" in capsys.readouterr().err
    assert main(["run", "llava_ov_st"]) == 2
    assert "unknown recipe 'llava_ov_st'; did you mean 'llava_ov_stc'?" in capsys.readouterr().err
