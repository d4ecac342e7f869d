"""Model arguments: what a command line gives becomes checked settings, or one line that says why not."""

import json
import logging

import pytest

from stc_lmms.config import COMMON
from stc_lmms.errors import SettingsError
from stc_lmms.memory.registry import MEMORIES, fields
from stc_lmms.methods.registry import METHODS
from stc_lmms.models.registry import MODELS
from stc_lmms.settings import resolve


def settings(environ=(), **args):
    return resolve(args, environ=dict(environ))


def refusal(**args):
    """The one line that an argument is refused with."""
    with pytest.raises(SettingsError) as caught:
        settings(**args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_strings_become_the_types_of_the_fields():
    got = settings(
        method="stc",
        fps="1",
        prefill_frames="4",
        max_frames="100",
        cache_interval="1e1",
        update_ratio="0.5",
        token_budget=32.0,
        revision=1234567,
    )
    assert (got.fps, got.prefill_frames, got.max_frames, got.revision) == (1.0, 4, 100, "1234567")
    assert dict(got.options) | {"cache_interval": 10, "update_ratio": 0.5, "token_budget": 32} == got.options
    assert [type(x) for x in (got.fps, got.max_frames, got.options["token_budget"])] == [float, int, int]


@pytest.mark.parametrize("nothing", [None, "none", "None"])
def test_optional_fields_take_none(nothing):
    assert settings(max_frames=nothing, revision=nothing).max_frames is None


def test_defaults_are_complete_and_every_method_resolves():
    assert settings().method == "stc"
    for name, recipe in METHODS.items():
        got = settings(method=name)
        assert set(got.options) == set(recipe.fields)
        assert got.built_method.name == name


def test_a_model_may_have_other_defaults():
    assert resolve({}, environ={}, token_budget=60, fps=1.0).options["token_budget"] == 60
    assert resolve({"token_budget": 5}, environ={}, token_budget=60).options["token_budget"] == 5


def test_flat_is_all_of_it_and_json():
    got = settings(token_budget=9)
    flat = got.flat()
    assert flat["token_budget"] == 9 and flat["fps"] == 0.5 and flat["max_frames"] is None
    assert "options" not in flat and json.loads(json.dumps(flat)) == flat
    assert resolve(flat, environ={}) == got  # what the results show starts the same run again


@pytest.mark.parametrize(
    ("args", "near"),
    [
        ({"token_buget": 64}, "did you mean 'token_budget'?"),
        ({"cache_intervall": 4}, "did you mean 'cache_interval'?"),
        ({"method": "stc_prunner"}, "did you mean 'stc_pruner'?"),
        ({"strategy": "gausian"}, "did you mean 'gaussian'?"),
        ({"prompt": "rekvv"}, "did you mean 'rekv'?"),
        ({"dtype": "fp16"}, "valid: auto, bfloat16, float16"),
        ({"memory": "infinite"}, "valid: bounded, full, recent, rekv"),
        ({"decoder": "decrod"}, "did you mean 'decord'?"),
        ({"attn_implementation": "flash_attn_2"}, "did you mean 'flash_attention_2'?"),
    ],
)
def test_unknown_names_and_choices_name_the_nearest(args, near):
    (value,) = args.values()
    message = refusal(**args)
    assert near in message and (repr(value) in message or repr(next(iter(args))) in message)


def test_the_callers_own_arguments_are_among_the_valid_ones():
    with pytest.raises(SettingsError, match="did you mean 'journal'"):
        resolve({"jornal": "off"}, environ={}, also=("journal",))


def test_an_empty_checkpoint_name_is_refused():
    assert refusal(pretrained="") == "pretrained is empty; give a folder, a hub id or demo"


@pytest.mark.parametrize(
    "args",
    [
        {"fps": 0},
        {"fps": -1},
        {"fps": "nan"},
        {"fps": float("inf")},
        {"fps": True},
        {"fps": "fast"},
        {"prefill_frames": 0},
        {"prefill_frames": 1.5},
        {"max_frames": 0},
        {"max_frames": "nan"},
        {"max_frames": float("inf")},
        {"decode_timeout_s": 0},
        {"decode_timeout_s": "nan"},
        {"decode_timeout_s": "inf"},
        {"cache_interval": 0},
        {"cache_interval": True},
        {"cache_interval": "two"},
        {"cache_interval": None},
        {"update_ratio": 0},
        {"update_ratio": 1.01},
        {"update_ratio": "nan"},
        {"token_budget": 0},
        {"token_budget": False},
        {"token_budget": 0.5},
        {"alpha": -0.1},
        {"alpha": "nan"},
        {"channel_keep": 0},
        {"channel_keep": "inf"},
    ],
    ids=lambda args: "{}={}".format(*next(iter(args.items()))),
)
def test_wrong_types_and_ranges_are_told_in_one_line(args):
    ((name, value),) = args.items()
    message = refusal(**args)
    assert message.startswith(f"{name}=") and str(value) in message


def test_errors_are_value_errors_for_python_users():
    with pytest.raises(ValueError, match="fps=0"):
        settings(fps=0)


def test_arguments_the_method_does_not_use_are_named_and_ignored(caplog):
    got = settings(method="stc_pruner", token_budget=9, cache_interval=2, granularity="group")
    assert "method=stc_pruner does not use cache_interval, granularity; ignored" in caplog.text
    assert set(got.options) == set(METHODS["stc_pruner"].fields)
    caplog.clear()
    settings(method="stc_pruner", token_budget=9)
    assert not caplog.records


def test_the_memory_has_options_of_its_own(caplog):
    got = settings(memory="rekv", n_local="2e3", archive_cap_gib="0.5", archive_dir="/x")
    assert dict(got.memory_options) == {
        "n_local": 2000,
        "retrieve_size": 64,
        "retrieve_chunk": 1,
        "archive_dir": "/x",
        "archive_cap_gib": 0.5,
    }
    assert got.built_memory.n_local == 2000 and "n_local" not in got.options
    assert resolve(got.flat(), environ={}) == got
    assert not caplog.records
    got = settings(memory="recent", recent_frames=3, n_local=7, cache_interval=2, method="none")
    assert dict(got.memory_options) == {"recent_frames": 3}
    assert "method=none does not use cache_interval; ignored" in caplog.text
    assert "memory=recent does not use n_local; ignored" in caplog.text
    for memory in MEMORIES:
        assert set(settings(memory=memory).memory_options) == set(fields(memory))


def test_no_option_means_two_things():
    of_methods = {name for recipe in METHODS.values() for name in recipe.fields}
    of_memories = [name for memory in MEMORIES for name in fields(memory)]
    common = set(COMMON)
    assert len(of_memories) == len(set(of_memories))
    assert not (of_methods & set(of_memories)) and not (common & (of_methods | set(of_memories)))


@pytest.mark.parametrize(
    "args",
    [
        {"memory": "recent", "recent_frames": 0},
        {"memory": "rekv", "n_local": 0},
        {"memory": "rekv", "n_local": "many"},
        {"memory": "rekv", "retrieve_size": 0},
        {"memory": "rekv", "retrieve_chunk": 0},
        {"memory": "rekv", "archive_cap_gib": 0},
        {"memory": "rekv", "archive_cap_gib": "nan"},
        {"memory": "rekv", "archive_cap_gib": "inf"},
        {"memory": "bounded", "active_tokens": 0},
        {"memory": "bounded", "pool_tokens": 0},
        {"memory": "bounded", "decay": -1},
        {"memory": "bounded", "decay": "nan"},
        {"memory": "bounded", "refresh_every": -1},
        {"memory": "bounded", "refresh_top_k": 0},
        {"memory": "full", "decode_prune": 1},
        {"memory": "full", "decode_prune": "nan"},
        {"memory": "full", "decode_prune_layer": 0},
        {"method": "dycoke", "merge_ratio": 1.1},
        {"method": "dycoke", "token_budget": 0},
        {"method": "streamdycoke", "similarity_threshold": 2},
        {"method": "streamdycoke", "window_size": 1},
        {"method": "streamdycoke", "anchor_every": 0},
    ],
    ids=lambda args: "{}={}".format(*list(args.items())[1]),
)
def test_ranges_of_other_methods_and_memories(args):
    (name, value) = list(args.items())[1]
    message = refusal(**args)
    assert message.startswith(f"{name}=") and str(value) in message


@pytest.mark.parametrize(
    ("args", "near"),
    [
        ({"memory": "bounded", "eviction": "fifa"}, "did you mean 'fifo'?"),
        ({"memory": "bounded", "importance": "novel"}, "did you mean 'novelty'?"),
        ({"memory": "rekv", "retrive_size": 4}, "did you mean 'retrieve_size'?"),
    ],
)
def test_near_names_of_memory_options(args, near):
    assert near in refusal(**args)


VARIABLES = {
    "STC_CACHE_INTERVAL": "2",
    "STC_UPDATE_TOKEN_RATIO": "0.5",
    "STC_TOKEN_PER_FRAME": "49",
    "STC_PATCH_VISION": "1",
}


def test_the_variables_of_the_original_code_are_logged_defaults(caplog):
    got = settings(VARIABLES)
    assert got.method == "stc"
    assert [got.options[k] for k in ("cache_interval", "update_ratio", "token_budget")] == [2, 0.5, 49]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cache_interval=2, method=stc, token_budget=49, update_ratio=0.5" in record.getMessage()


def test_explicit_arguments_override_the_variables_and_are_not_logged(caplog):
    got = settings(VARIABLES, cache_interval=8, method="stc_cacher")
    assert (got.method, got.options["cache_interval"], got.options["update_ratio"]) == ("stc_cacher", 8, 0.5)
    assert "cache_interval" not in caplog.text and "update_ratio=0.5" in caplog.text


@pytest.mark.parametrize(
    ("value", "method"), [("0", "stc_pruner"), ("false", "stc_pruner"), ("True", "stc"), ("", "stc")]
)
def test_patch_vision_chooses_the_method(value, method):
    assert settings({"STC_PATCH_VISION": value}).method == method
    assert settings({"STC_PATCH_VISION": value}, method="none").method == "none"


@pytest.mark.parametrize("model", MODELS)
def test_the_switch_of_the_original_code_fits_every_model(model):
    on, off = (resolve({}, {"STC_PATCH_VISION": value}, model) for value in "10")
    if model in ("dispider", "streamforest"):  # take no token method
        assert (on.method, off.method) == ("stc_cacher", "none")
        assert on.built_method.token is None
    else:
        assert (on.method, off.method) == ("stc", "stc_pruner")


def test_variables_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("STC_TOKEN_PER_FRAME", "7")
    assert resolve({}).options["token_budget"] == 7


@pytest.mark.parametrize(
    "environ", [{"STC_PATCH_VISION": "maybe"}, {"STC_CACHE_INTERVAL": "x"}, {"STC_TOKEN_PER_FRAME": "0"}]
)
def test_bad_variables_are_refused(environ):
    ((name, value),) = environ.items()
    with pytest.raises(SettingsError, match=value) as caught:
        settings(environ)
    assert name in str(caught.value) or value == "0"  # a range is told of the argument itself


def test_empty_and_foreign_variables_are_no_values(caplog):
    assert settings({"STC_CACHE_INTERVAL": "", "STC_OVOBENCH_ROOT": "/data"}) == settings()
    assert not caplog.records
