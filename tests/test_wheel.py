"""What the wheel holds works where there is no checkout."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ["README.md", "conf", "experiments", "hydra_plugins", "pyproject.toml", "recap"]
TINY_MODEL = [
    "model/backbone=mlp",
    "model.backbone.layer_sizes=[4]",
    "task.tower.layer_sizes=[2,1]",
]


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; none of this checkout's modules is in its reach."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel_of(source: Path, folder: Path) -> Path:
    """The wheel built from a copy of the sources, so that nothing is left in the checkout."""
    copy = folder / "source"
    copy.mkdir()
    for name in PACKAGED:
        if (source / name).is_dir():
            shutil.copytree(
                source / name,
                copy / name,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        else:
            shutil.copy(source / name, copy / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    run(*build, copy, cwd=folder)
    [wheel] = folder.glob("recap-*.whl")
    return wheel


def environment_with(wheel: Path, folder: Path) -> Path:
    """The folder of commands of a new environment that holds the wheel.

    The libraries come from the environment of the tests, behind the new one's: its own path files,
    an editable recap among them, are not read.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=wheel.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    run(*pip, "--no-index", wheel, cwd=wheel.parent)
    [packages] = folder.glob("lib/python*/site-packages")
    here = dict.fromkeys([sysconfig.get_path("purelib"), *site.getsitepackages()])
    (packages / "libraries-of-the-tests.pth").write_text("\n".join(here))
    return python.parent


def test_an_installed_wheel_composes_generates_and_trains_in_any_folder(tmp_path: Path):
    commands = environment_with(wheel_of(ROOT, tmp_path), tmp_path / "environment")
    python = commands / "python"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    place = run(python, "-c", "import recap; print(recap.__file__)", cwd=elsewhere)
    assert Path(place.strip()).is_relative_to(tmp_path / "environment")

    config = run(commands / "recap-train", "--cfg", "job", "experiment=kuairand", cwd=elsewhere)
    assert "long_view:" in config
    assert list(elsewhere.iterdir()) == []

    synthetic = ["recap.data.synthetic", "experiment=local_prod", "synthetic.rows=400"]
    table = run(python, "-m", *synthetic, cwd=elsewhere)
    assert "is_video_playback_50" in table

    run(
        *(python, "-m", "recap.train", "experiment=local_prod", *TINY_MODEL),
        *("training.num_train_steps=2", "training.eval_log_every_n=2", "tracking=none"),
        *("training.num_eval_steps=1", "training.save_dir=run"),
        cwd=elsewhere,
    )
    checkpoints = [path.name for path in (elsewhere / "run" / "checkpoints").iterdir()]
    assert [int(name.removeprefix("step-")) for name in checkpoints] == [2]
