"""The budget rule, and what is refused."""

import itertools

import pytest

from stc_lmms.errors import SettingsError
from stc_lmms.methods import budget
from stc_lmms.methods.registry import METHODS
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from tests.methods.budget_rule import holds


def test_usage():
    assert budget.usage([36, 0, 0]) == budget.Usage(12.0, 36)
    assert budget.usage([]) == budget.Usage(0.0, 0)


@pytest.mark.parametrize(
    ("kind", "kept", "expected"),
    [
        ("per frame", [9, 9], True),
        ("per frame", [9, 8], False),
        ("per frame", [10, 8], False),
        ("on average", [36, 0, 0, 0], True),
        ("on average", [36, 26], False),  # 44 above
        ("on average", [36, 26, 0, 0], True),
        ("on average", [0, 0, 0, 0], False),  # a whole frame short
        ("none", [3, 36], True),
        ("per frame", [], True),
    ],
)
def test_rule(kind, kept, expected):
    assert holds(kind, kept, 9, dense=36) is expected


def test_dycoke_schedule_is_within_the_rule():
    kept = [196, 20, 20, 20] * 5
    assert all(holds("on average", kept[:n], 64, 196) for n in range(21))
    assert not holds("on average", [196, 58, 58, 58] * 5, 64, 196)  # 47 % is another budget


def test_share_out_rounds_by_largest_remainder():
    assert budget.share_out([1.6, 1.5, 0.9], 4) == [2, 1, 1]
    assert budget.share_out([25.5] * 4, 102) == [26, 26, 25, 25]
    assert budget.share_out([0.0, 0.0, 9.0], 9, least=1) == [1, 1, 7]
    assert budget.share_out([20.0, 1.0, 1.0], 22, most=10) == [10, 6, 6]
    assert budget.share_out([0.2, 0.1], 4) == [2, 2]


@pytest.mark.parametrize(("total", "least", "most"), [(1, 1, 5), (11, 0, 5), (-1, 0, 5)])
def test_share_out_refuses_the_impossible(total, least, most):
    with pytest.raises(ValueError, match="cannot be divided"):
        budget.share_out([1.0, 2.0], total, least, most)


def test_share_out_always_meets_the_total():
    for total, least, most in itertools.product(range(3, 31), (0, 1), (10, 12)):
        shares = budget.share_out([0.3, 17.2, total / 3], total, least, most)
        assert sum(shares) == total and min(shares) >= least and max(shares) <= most


def test_nearest_is_named():
    for k, nearest in ((5, "4 or 6"), (60, "8"), (1, "4")):
        with pytest.raises(
            SettingsError, match=f"token_budget={k} cannot be met: so; .* works is {nearest}$"
        ):
            budget.one_of(k, (4, 6, 8), "so")


@pytest.mark.parametrize(
    ("method", "args", "message"),
    [
        (
            "uniform",
            {"token_budget": 37},
            "more than the 36 tokens a frame has; the nearest that works is 36",
        ),
        ("vidcom2", {"token_budget": 64}, "nearest that works is 36"),
        ("visionzip", {"token_budget": 64}, "nearest that works is 36"),
        ("uniform_frames", {"token_budget": 40}, "nearest that works is 36"),
        (
            "tome",
            {"token_budget": 9},
            "144 patches, and each of its 3 layers .* the nearest that works is 18",
        ),
        ("tome", {"token_budget": 150}, "the nearest that works is 144"),
        ("tome_oneshot", {"token_budget": 150}, "the nearest that works is 144"),
        ("downsample", {"token_budget": 10}, "about 6 x 6; the nearest that works is 9"),
        ("downsample", {"token_budget": 27}, "the nearest that works is 25"),
        ("downsample", {"token_budget": 99}, "the nearest that works is 36"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_before_weights(checkpoint, method, args, message):
    settings = resolve({"pretrained": str(checkpoint), "method": method} | args, environ={})
    with pytest.raises(SettingsError, match=message) as caught:
        LlavaOnevision.check(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [name for name, r in METHODS.items() if "token_budget" in r.fields])
def test_no_budget_below_one(method):
    with pytest.raises(SettingsError, match="token_budget=0 must be at least 1"):
        resolve({"method": method, "token_budget": 0}, environ={})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [16, 49, 64, 98])
def test_usual_budgets_fit_the_real_model_or_name_the_nearest(method, value):
    chosen = METHODS[method]
    if "token_budget" not in chosen.fields:
        return
    built = chosen.build({"token_budget": value})
    try:
        if built.tower is not None:
            built.tower.check_budget((27, 27), 26)
        if built.token is not None:
            built.token.check(196)
    except SettingsError as error:
        # DyCoke's whole frame in four is 49 tokens a frame.
        nearest = {("downsample", 98): 100, ("dycoke", 16): 49, ("streamdycoke", 16): 49}
        assert str(error).endswith(f"nearest that works is {nearest[method, value]}")
