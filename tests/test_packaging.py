"""The wheel holds what an installation needs; recipes are valid."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import CONFIG_MAPPING, LlavaOnevisionConfig

from stc_lmms.eval import run_config
from stc_lmms.models.llava_onevision import config as llava_onevision_config
from stc_lmms.models.public_sizes import LLAVA_ONEVISION, SO400M
from stc_lmms.models.qwen_vl import config as qwen_vl_config
from stc_lmms.resources import model_configs_root, tasks_root
from stc_lmms.sweep import tasks

REPO = Path(__file__).resolve().parents[1]
RECIPES = sorted(model_configs_root().glob("*.yaml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPO)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    return target


def run_installed(folder, code):
    """Output of the code, with only the installed wheel on the path."""
    environ = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environ, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_wheel_ships_tasks_and_recipes(installed):
    code = (
        "import stc_lmms, stc_lmms.resources as r; print(stc_lmms.__file__);"
        "print(r.tasks_root()); print(r.model_configs_root())"
    )
    shown = run_installed(installed, code)
    assert all(line.startswith(str(installed)) for line in shown.split())
    shipped = {
        p.relative_to(installed / "stc_lmms" / "tasks")
        for p in (installed / "stc_lmms" / "tasks").rglob("*.*")
    }
    present = {p.relative_to(tasks_root()) for p in tasks_root().rglob("*.*") if "__pycache__" not in p.parts}
    assert shipped == present and any(p.suffix == ".mp4" for p in shipped)
    assert {p.name for p in (installed / "stc_lmms" / "model_configs").iterdir()} == {
        p.name for p in model_configs_root().iterdir()
    }
    assert (installed / "stc_lmms" / "results" / "leaderboard.html.j2").is_file()
    assert (installed / "stc_lmms" / "results" / "published.json").is_file()
    packages = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert packages - {"bin"} == {"stc_lmms"}
    code = "from stc_lmms.demo.pretrained import demo_folder; print(demo_folder())"
    assert run_installed(installed, code).startswith(str(installed))
    assert not {"parity", "training", "tests"} & {path.name for path in installed.iterdir()}
    metadata = next(installed.glob("stc_lmms-*.dist-info"))
    entries = (metadata / "entry_points.txt").read_text()
    assert "[lmms_eval.models]" in entries and "stc-lmms = stc_lmms.cli.main:main" in entries
    assert "License-Expression: Apache-2.0" in (metadata / "METADATA").read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    recipe = run_config.read(path.stem)
    settings = run_config.check(recipe, checkpoint=False)
    assert recipe.others["output_path"] == f"results/{path.stem}"
    assert f"lmms-eval --config model_configs/{path.name}" in path.read_text()
    for task in recipe.tasks:
        assert tasks.find(task).leaves
    assert set(yaml.safe_load(path.read_text())) <= set(run_config.KEYS)
    if settings.model in CONFIGS:
        CONFIGS[settings.model](settings)


def _fits_llava(settings):
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model"} | SO400M,
        text_config={"model_type": "qwen2"} | LLAVA_ONEVISION["7b"],
    )
    llava_onevision_config.check_fit(settings, config)


def _fits_qwen(settings):
    family = "qwen2_vl" if settings.model == "livecc" else settings.model
    qwen_vl_config.check_fit(settings, CONFIG_MAPPING[family]())


CONFIGS = {"llava_ov": _fits_llava} | dict.fromkeys(("livecc", "qwen2_vl", "qwen2_5_vl"), _fits_qwen)
EVERY = ("none", "stc", "stc_cacher", "stc_pruner", "vidcom2", "dycoke")


@pytest.mark.parametrize(
    ("model", "methods"),
    [
        ("llava_ov", (*EVERY, "tome", "visionzip")),
        *((name, EVERY) for name in ("livecc", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")),
        *((name, ("none", "stc_cacher")) for name in ("dispider", "streamforest")),
    ],
)
def test_every_model_has_a_recipe_of_every_method_that_it_takes(model, methods):
    found = {
        recipe.model_args["method"]
        for recipe in map(run_config.read, RECIPES)
        if recipe.model == f"{model}_stc"
    }
    assert set(methods) <= found
