"""Imports point one way, and the package and its command line start without torch."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import astseg

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = SOURCE / "astseg"

# A part of the package may import parts of lower rank, and never one of higher rank. A part is a module or a folder.
RANK = {
    **dict.fromkeys(["heap", "types"], 0),
    **dict.fromkeys(["config", "ops"], 1),
    **dict.fromkeys(["device", "guidance"], 2),
    **dict.fromkeys(["data", "losses", "metrics", "model"], 3),
    **dict.fromkeys(
        [
            "batches",
            "checkpoint",
            "clock",
            "complaints",
            "durable",
            "interruption",
            "lock",
            "objectives",
            "outputs",
            "presets",
        ]
        + ["progress", "provenance", "published", "replay", "schedule", "states", "team", "terminal", "trouble"],
        4,
    ),
    **dict.fromkeys(
        ["arguments", "card", "contact", "evaluate", "few_labels", "handover", "health", "predict", "report", "revisit"]
        + ["train", "watch"],
        5,
    ),
    **dict.fromkeys(
        ["comparison", "data_commands", "demo", "fit", "reference", "report_commands", "segment_commands"], 6
    ),
    **dict.fromkeys(["commands"], 7),
    **dict.fromkeys(["cli"], 8),
    **dict.fromkeys(["__main__"], 9),
}
# Parts of these ranks never import their equals. Those of the other ranks may, but not in a ring.
APART = {0, 1, 2, 3}
SECONDS_TO_LOAD = {"transformers"}
NEVER = {"torchvision"}  # it has no build beside the CPU one of torch, and pulls CUDA's in

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path, source: Path) -> str:
    """`src/astseg/model/scene.py` -> `astseg.model.scene`; a folder's `__init__.py` -> the folder."""
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def imported(statement: ast.Import | ast.ImportFrom, path: Path, source: Path) -> Iterator[str]:
    """Full names of what one import line brings in: `from . import scene` in `model` -> `astseg.model.scene`."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    home = statement.module or ""
    if statement.level:
        package = list(path.relative_to(source).parent.parts)
        package = package[: len(package) - (statement.level - 1)]
        home = ".".join([*package, *filter(None, [statement.module])])
    for alias in statement.names:
        target = source.joinpath(*home.split("."), alias.name)
        is_module = target.is_dir() or target.with_suffix(".py").is_file()
        yield f"{home}.{alias.name}" if is_module or home == "astseg" else home


def import_statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import line of a file, those inside functions and `if TYPE_CHECKING` included."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def part_of(module: str) -> str:
    """`astseg.model.scene` -> `model`."""
    return module.split(".")[1]


def wrong_arrows(path: Path, source: Path) -> list[str]:
    """What is wrong with the import lines of one file, in words."""
    name = module_name(path, source)
    if name == "astseg":
        return []  # the front door: it fetches names from everywhere, and the parts never import from it
    importer = part_of(name)
    if importer not in RANK:
        return [f"{path.name}: give {importer!r} a place in RANK of tests/test_imports.py"]
    problems = []
    for statement in import_statements(ast.parse(path.read_text(encoding="utf-8"))):
        for target in imported(statement, path, source):
            where = f"{path.relative_to(source)}:{statement.lineno}"
            if target.split(".")[0] in NEVER:
                problems.append(f"{where} imports {target}, which this project does without")
            if target.split(".")[0] != "astseg" or target == "astseg.__version__":
                continue
            if target == "astseg" or part_of(target) not in RANK:
                problems.append(f"{where} imports {target}, which is no module with a place in RANK")
                continue
            imported_part = part_of(target)
            below = RANK[imported_part] < RANK[importer]
            beside = RANK[imported_part] == RANK[importer] and RANK[importer] not in APART
            if not (imported_part == importer or below or beside):
                problems.append(f"{where}: {importer} must not import {imported_part}")
    return problems


def imports_at_the_top(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import lines that run when the module is loaded: not in a function, not under `if TYPE_CHECKING`."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def find_ring(arrows: dict[str, set[str]]) -> list[str]:
    """Names along one ring of arrows, the first repeated at the end; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(arrows.get(name, ())):
            if ring := walk(target, [*trail, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(arrows) if (ring := walk(name, []))), [])


def run_python(program: str) -> str:
    """Output of a program run by a fresh interpreter that sees this source tree first."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_every_part_with_a_place_is_there() -> None:
    assert set(RANK) == {part_of(name) for path in FILES if (name := module_name(path, SOURCE)) != "astseg"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path, SOURCE))
def test_imports_point_one_way(path: Path) -> None:
    assert not wrong_arrows(path, SOURCE)


def test_modules_do_not_import_in_a_ring() -> None:
    arrows = {}
    for path in FILES:
        name = module_name(path, SOURCE)
        statements = import_statements(ast.parse(path.read_text(encoding="utf-8")))
        targets = {target for statement in statements for target in imported(statement, path, SOURCE)}
        arrows[name] = {target for target in targets if target.startswith("astseg.")} - {name}
    del arrows["astseg"]
    assert not find_ring(arrows)


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path, SOURCE))
def test_slow_packages_are_imported_where_they_are_used(path: Path) -> None:
    statements = imports_at_the_top(ast.parse(path.read_text(encoding="utf-8")))
    roots = {target.split(".")[0] for statement in statements for target in imported(statement, path, SOURCE)}
    assert not roots & SECONDS_TO_LOAD


@pytest.mark.parametrize(
    ("file", "line", "is_wrong"),
    [
        ("ops.py", "from astseg.types import UserError", False),
        ("ops.py", "from .types import UserError", False),
        ("ops.py", "from astseg.model.scene import build", True),
        ("types.py", "from astseg import ops", True),
        ("cli.py", "from astseg.train import train", False),
        ("cli.py", "from astseg import __version__", False),
        ("cli.py", "from astseg import build", True),
        ("cli.py", "import astseg", True),
        ("demo.py", "from astseg.train import train_objects", False),
        ("demo.py", "import astseg.cli", True),
        ("losses.py", "def late():\n    from astseg.metrics import mean_iou", True),
        ("losses.py", "import torch", False),
        ("losses.py", "import torchvision.transforms", True),
        ("model/encoder.py", "from astseg.model.renderer import Renderer", False),
        ("model/encoder.py", "from .renderer import Renderer", False),
        ("model/encoder.py", "from .. import ops", False),
        ("model/encoder.py", "from ..data import folder", True),
        ("model/encoder.py", "from astseg.data import folder", True),
        ("model/__init__.py", "from ..train import train_objects", True),
        ("model/__init__.py", "from .scene import AstSeg", False),
        ("drawer.py", "import math", True),
    ],
)
def test_the_rule_itself(file: str, line: str, is_wrong: bool, tmp_path: Path) -> None:
    for module in ["__init__", "types", "ops", "model/__init__", "model/renderer", "data/__init__", "data/folder"]:
        path = tmp_path / "astseg" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "astseg" / file).write_text(line)
    assert bool(wrong_arrows(tmp_path / "astseg" / file, tmp_path)) == is_wrong


def test_a_ring_is_found() -> None:
    assert find_ring({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_ring({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_only_what_runs_on_loading_counts_as_the_top() -> None:
    tree = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\ndef f():\n    import d\n"
        "class T:\n    import e\ntry:\n    import g\nexcept ImportError:\n    import h\n"
    )
    names = {alias.name for statement in imports_at_the_top(tree) for alias in statement.names}
    assert names == {"a", "c", "e", "g", "h"}


def test_import_is_quick_and_leaves_torch_out() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); import astseg; seconds = time.perf_counter() - start\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "assert {'AstSeg', 'Segmenter', 'UserError', 'build'} <= set(dir(astseg)); print(seconds)"
    )
    assert min(float(run_python(program)) for _ in range(3)) < 0.3


def test_user_error_comes_without_torch_and_is_the_one_of_types() -> None:
    run_python(
        "import sys, astseg; from astseg import types\n"
        "assert astseg.UserError is types.UserError and 'torch' not in sys.modules"
    )


def test_unknown_names_are_refused() -> None:
    misspelt = "Segmentor"
    with pytest.raises(AttributeError, match="module 'astseg' has no attribute 'Segmentor'"):
        getattr(astseg, misspelt)


def test_command_line_loads_without_torch() -> None:
    found = run_python("import sys, astseg.cli; print(sorted({'torch', 'transformers'} & set(sys.modules)))")
    assert found == "[]", f"importing astseg.cli loads {found}: import them after the arguments are parsed"
