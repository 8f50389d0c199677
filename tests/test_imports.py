"""Imports point one way: vocabulary ← parts and services ← verbs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "recap"
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))

VOCABULARY = {"schema", "batch", "nearest", "outcome", "sharding"}
PARTS = {"data", "model", "optimizer", "schedule", "loss", "metrics", "training"}
SERVICES = {"distributed", "checkpoint", "weight_files", "tracking", "console", "signals"}
SERVICES |= {"launcher", "scheduler", "allocator"}
COMPOSITION = {"compose"}  # the command line: what verbs are made with
VERBS = {"train", "evaluate", "check", "experiment", "joining"}
VERBS |= {"run", "sweep", "search"}  # how train works, and how many runs do
VERBS |= {"trainer", "evaluator", "evaluation", "checker"}  # what the commands do
VERBS |= {"report", "footprint", "plot"}  # what check says
VERBS |= {"jobs"}
VERBS |= {"convert_config", "original"}

# verbs that live beside the part that they run; only their command may reach out of it, see below
COMMANDS = {Path(f"data/{name}/command.py") for name in ("synthetic", "convert", "statistics")}
HYDRA = {Path(f"{name}.py") for name in COMPOSITION | VERBS} | COMMANDS
HYDRA |= {m for m in MODULES if m.parts[0] in ("compose", "run", "sweep", "search")}
# the modules that need torchrec
TABLES = {
    Path(f"model/{name}.py")
    for name in ("embeddings", "sharded_tables", "sharding_plan", "table_lookup")
}


def imported(node: ast.AST) -> Iterator[str]:
    """Modules that are imported anywhere in ``node``, with the names taken from recap itself."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            module = child.module or ""
            if module == "recap":
                yield from (f"recap.{alias.name}" for alias in child.names)
            else:
                yield module


def outside_functions(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions."""
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    return ast.Module(body=kept, type_ignores=[])


def parsed(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


def room(module: Path) -> str:
    """The first part of the module's name: its folder or itself."""
    return module.parts[0].removesuffix(".py")


def rooms(names: Iterator[str]) -> set[str]:
    """The rooms of recap among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("recap.")}


def libraries(names: Iterator[str]) -> set[str]:
    """The packages of imported names."""
    return {name.split(".")[0] for name in names}


def test_every_module_has_its_place():
    known = VOCABULARY | PARTS | SERVICES | COMPOSITION | VERBS
    assert {room(module) for module in MODULES} - {"__init__"} <= known


def below(here: str) -> set[str]:
    """The rooms that a module in the room ``here`` may import from."""
    if here in VERBS:
        return VOCABULARY | PARTS | SERVICES | COMPOSITION | VERBS
    if here in PARTS | SERVICES:
        return VOCABULARY | {here}
    if here in COMPOSITION:
        return VOCABULARY | {"compose", "launcher", "signals", "tracking"}
    return set()


@pytest.mark.parametrize("module", [m for m in MODULES if m not in COMMANDS], ids=str)
def test_a_module_imports_only_what_stands_below_it(module: Path):
    assert rooms(imported(parsed(module))) <= below(room(module))


@pytest.mark.parametrize("module", sorted(COMMANDS), ids=str)
def test_a_command_beside_its_part_reaches_out_only_when_it_is_run(module: Path):
    top = outside_functions(parsed(module))
    assert rooms(imported(top)) <= below(room(module))
    assert not libraries(imported(top)) & {"hydra", "omegaconf"}
    assert rooms(imported(parsed(module))) <= below(room(module)) | COMPOSITION


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_verbs_import_hydra(module: Path):
    if module not in HYDRA:
        assert not libraries(imported(parsed(module))) & {"hydra", "omegaconf"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_library_is_imported_only_where_it_is_used(module: Path):
    found = libraries(imported(parsed(module)))
    assert "mlflow" not in found or room(module) == "tracking"
    assert "torchrec" not in found or module in TABLES
    assert "optuna" not in found or room(module) == "search"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_submitit_is_imported_only_in_the_launcher(module: Path):
    if "submitit" in libraries(imported(parsed(module))):
        assert room(module) == "launcher"


def test_tracking_itself_needs_no_mlflow():
    assert "mlflow" not in libraries(imported(parsed(Path("tracking/__init__.py"))))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_one_subject_and_a_name_for_it(module: Path):
    assert len((ROOT / module).read_text().splitlines()) <= 350
    nothing = {"utils", "util", "helpers", "common", "core", "base", "misc", "manager"}
    assert not nothing & {part.removesuffix(".py") for part in module.parts}


def test_the_rooms_of_an_import_are_seen():
    tree = ast.parse("def f():\n    from recap import checkpoint\n    import recap.data.files\n")
    assert rooms(imported(tree)) == {"checkpoint", "data"}
    assert rooms(imported(outside_functions(tree))) == set()
