"""Imports go down the list of rooms, and the package and its command line start without torch."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import astseg

PACKAGE = Path(__file__).parent.parent / "src" / "astseg"

ROOMS = (
    *("errors", "types", "config", "model", "runs", "data", "discovery", "inference", "evaluation", "diagnostics"),
    *("training", "autofit", "export", "serve", "cli"),
)
"""From the ground up: a room imports itself and those before it, and nothing after it."""

MODEL_IMPORTS = {"errors", "types", "config", "model"}
"""The network knows neither data nor where objects may be."""

ELSEWHERE = {"torchvision": "it has no build beside the CPU one of torch", "transformers": "it takes seconds to load"}
"""Packages that no file imports as it is loaded, and why."""


def imported(tree: ast.AST, home: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that is imported, in functions and ``if TYPE_CHECKING`` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*home.split(".")[: -node.level], node.module or ""]) if node.level else node.module or ""
            yield from ((node.lineno, f"{base}.{alias.name}".strip(".")) for alias in node.names)


def wrong_imports(source: str, name: str) -> list[str]:
    """What is wrong with the imports of a module, in words."""
    room = name.split(".")[1]
    allowed = MODEL_IMPORTS if room == "model" else set(ROOMS[: ROOMS.index(room) + 1])
    targets = ((line, target.split(".")) for line, target in imported(ast.parse(source), name))
    return [
        f"{name}:{line}: {room} must not import {parts[1]}"
        for line, parts in targets
        if parts[0] == "astseg" and parts[1] not in allowed | {"__version__"}
    ]


def run_python(program: str) -> None:
    """Run a program in a fresh interpreter that sees this source tree first."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def test_every_room_has_its_place() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__", "__main__"} <= set(ROOMS)
    assert len(ROOMS) <= 15


def test_imports_go_down_the_list() -> None:
    problems = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("astseg", "astseg.__main__"):
            problems += wrong_imports(path.read_text(encoding="utf-8"), name)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("name", "line", "is_wrong"),
    [
        ("astseg.model.encoder", "from astseg.model.renderer import Renderer", False),
        ("astseg.model.encoder", "from . import ops", False),
        ("astseg.model.encoder", "from astseg.runs.folder import RunFolder", True),
        ("astseg.model.encoder", "def late():\n    from ..data import open", True),
        ("astseg.types", "import astseg.config", True),
        ("astseg.training.loop", "from astseg.evaluation.evaluate import evaluate", False),
        ("astseg.evaluation.evaluate", "if TYPE_CHECKING:\n    from astseg.training import loop", True),
        ("astseg.cli.train", "from astseg import __version__", False),
        ("astseg.cli.train", "from astseg import build", True),
    ],
)
def test_the_rule_itself(name: str, line: str, is_wrong: bool) -> None:
    assert bool(wrong_imports(line, name)) == is_wrong


@pytest.mark.parametrize("package", ELSEWHERE)
def test_slow_packages_are_imported_where_they_are_used(package: str) -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [name.split(".")[0] for _, name in imported(ast.Module([node], []), "astseg.x")]
            assert package not in names or not isinstance(node, ast.Import | ast.ImportFrom), path


def test_importing_the_package_leaves_torch_out() -> None:
    run_python(
        "import sys, astseg\n"
        "from astseg import errors\n"
        "assert {'AstSeg', 'Segmenter', 'UserError', 'build'} <= set(dir(astseg))\n"
        "assert astseg.UserError is errors.UserError\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )


def test_command_line_loads_without_torch() -> None:
    run_python("import sys, astseg.cli.main; assert not {'torch', 'transformers'} & set(sys.modules)")


def test_unknown_names_are_refused() -> None:
    misspelt = "Segmentor"
    with pytest.raises(AttributeError, match="module 'astseg' has no attribute 'Segmentor'"):
        getattr(astseg, misspelt)
