"""The wheel holds what an installation needs; recipes are valid."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stc_lmms.plugin import MODELS
from stc_lmms.resources import model_configs_root, tasks_root
from stc_lmms.settings import resolve

REPO = Path(__file__).resolve().parents[1]


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


@pytest.mark.slow
def test_wheel_ships_tasks_and_recipes(installed):
    code = (
        "import stc_lmms, stc_lmms.resources as r; print(stc_lmms.__file__);"
        "print(r.tasks_root()); print(r.model_configs_root())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        cwd=installed,
        check=True,
        capture_output=True,
        text=True,
    )
    assert all(line.startswith(str(installed)) for line in out.stdout.split())
    shipped = {
        p.relative_to(installed / "stc_lmms" / "tasks")
        for p in (installed / "stc_lmms" / "tasks").rglob("*.*")
    }
    present = {p.relative_to(tasks_root()) for p in tasks_root().rglob("*.*") if "__pycache__" not in p.parts}
    assert shipped == present and any(p.suffix == ".mp4" for p in shipped)
    assert {p.name for p in (installed / "stc_lmms" / "model_configs").iterdir()} == {
        p.name for p in model_configs_root().iterdir()
    }
    assert (installed / "stc_lmms" / "report" / "leaderboard.html.j2").is_file()
    code = "from stc_lmms.demo.pretrained import demo_folder; print(demo_folder())"
    checked = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        cwd=installed,
        check=True,
        capture_output=True,
        text=True,
    )
    assert checked.stdout.startswith(str(installed))
    metadata = next(installed.glob("stc_lmms-*.dist-info"))
    entries = (metadata / "entry_points.txt").read_text()
    assert "[lmms_eval.models]" in entries and "stc-lmms = stc_lmms.cli:main" in entries
    assert "License-Expression: Apache-2.0" in (metadata / "METADATA").read_text()


@pytest.mark.parametrize("path", sorted(model_configs_root().glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    recipe = yaml.safe_load(path.read_text())
    assert recipe["model"] in MODELS
    args = dict(pair.split("=", 1) for pair in recipe["model_args"].split(","))
    settings = resolve(args, environ={}, model=recipe["model"])
    assert set(args) <= set(settings.flat()), "an argument that the recipe's method does not use"
    files = [yaml.load(p.read_text(), _IgnoreTags) for p in tasks_root().glob("*/*.yaml")]  # noqa: S506
    known = {file.get(key) for file in files for key in ("task", "group") if isinstance(file.get(key), str)}
    assert set(recipe["tasks"].split(",")) <= known


class _IgnoreTags(yaml.SafeLoader):
    """Reads task files without importing what their `!function` tags name."""


_IgnoreTags.add_constructor("!function", lambda loader, node: node.value)
