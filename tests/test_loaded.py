"""What a command has imported by its end: no more than it needs, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ENVIRONMENT, Tiny

COMMANDS = ("recap.train", "recap.evaluate", "recap.check")
TO_RUN = {"torch", "numpy", "pyarrow", "mlflow", "filelock", "tqdm"}
FOR_OTHERS = {"torchrec", "fbgemm_gpu", "mlflow", "submitit", "optuna", "pandas", "matplotlib"}
FOR_OTHERS |= {"torch._dynamo", "torch._inductor"}  # torch.compile's


def loaded(module: str, *arguments: str, cwd: Path) -> set[str]:
    """The modules that ``python -m MODULE ARGUMENTS`` has imported as it ends."""
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: open('loaded', 'w').write('\\n'.join(sys.modules)))\n"
        f"sys.argv[0] = {module!r}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set((cwd / "loaded").read_text().splitlines())


@pytest.mark.parametrize("module", COMMANDS)
def test_help_needs_nothing_that_runs(module: str, tmp_path: Path):
    assert loaded(module, "--help", cwd=tmp_path) & TO_RUN == set()


def test_a_composed_config_needs_nothing_that_runs(tmp_path: Path):
    assert loaded("recap.train", "--cfg", "job", "--resolve", cwd=tmp_path) & TO_RUN == set()


def test_a_dense_run_needs_no_library_of_others(tiny: Tiny):
    command = tiny.command(
        "~model.inputs.embeddings", "training.num_train_steps=1", "tracking=none"
    )
    found = loaded("recap.train", *command[3:], cwd=tiny.root)
    assert "torch" in found
    assert found & FOR_OTHERS == set()
