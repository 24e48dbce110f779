"""Data flow one way: a lower folder never imports a higher one; and what must start quickly does not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "foveate"

# Lowest first; names in one row may not import each other, except within one folder.
ORDER = [
    ("errors", "config", "figures", "files", "text", "layers", "boxes", "slices", "terminal", "__init__"),
    ("io",),
    ("cohort",),
    ("batches",),
    ("tasks", "attention"),
    ("networks",),
    ("methods",),
    ("predict",),
    ("metrics",),  # metrics and report stand below the engine, because training ends by writing its report
    ("report",),
    ("explanations",),
    ("engine",),
    ("bench",),
    ("choose",),  # reads the rows of benchmarks and the records of runs
    ("demo",),
    ("demo_tasks",),
    ("demo_classification", "demo_detection"),  # of the same kind, and written with what that one has
    ("cli",),
    ("__main__",),
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
SMALL = set(ORDER[0])  # single files that may use one another


def part_of(path: Path) -> str:
    """The folder, or the module beside the folders, that a source file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, part) of every import of foveate in a file, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide where they lead"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "foveate"
                else [node.module or ""]
            )
        for name in names:
            package, _, rest = name.partition(".")
            if package == "foveate":
                part = rest.split(".")[0]
                found.append((node.lineno, part if part in RANK or (part and (SOURCE / part).exists()) else "__init__"))
    return found


def violations(path: Path) -> list[str]:
    part = part_of(path)
    wrong = []
    for line, other in imported(path):
        if other == part or {part, other} <= SMALL:
            continue
        if RANK[other] >= RANK[part]:
            wrong.append(f"{path.relative_to(SOURCE)}:{line} ({part}) imports {other}")
    return wrong


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_part_has_its_place_in_the_order() -> None:
    unknown = {part_of(path) for path in FILES} - RANK.keys()
    assert not unknown, f"say in ORDER where {sorted(unknown)} stands"


def test_a_lower_folder_never_imports_a_higher_one() -> None:
    wrong = [entry for path in FILES for entry in violations(path)]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_may_be_imported_by_all(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("import foveate\nfrom foveate import __version__")
    assert [part for _, part in imported(tmp_path / "new.py")] == ["__init__", "__init__"]


@pytest.mark.parametrize(
    "text",
    [
        "from foveate.engine.run import RunFolder",
        "import foveate.predict.predictor",
        "from foveate import engine",
        "def late():\n    from foveate.cli import main",
        "from foveate.attention import ATTENTION",
    ],
)
def test_the_test_itself_would_notice(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    for folder in ("tasks", "engine", "attention"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks" / "new.py").write_text(text)
    assert len(violations(tmp_path / "tasks" / "new.py")) == 1


@pytest.mark.parametrize(
    "module", ["foveate", "foveate.cli", "foveate.io", "foveate.cohort.layouts", "foveate.cohort.check"]
)
def test_quick_parts_do_not_import_torch(module: str) -> None:
    script = (
        f"import sys, {module}; print([name for name in ('torch', 'lightning_fabric', 'monai') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
