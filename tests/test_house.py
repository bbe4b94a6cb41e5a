"""The house's own rules that no linter knows."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtune

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jaxtune.__path__, prefix="jaxtune.")
)
CHECKOUT = Path(__file__).parents[1]


def test_importing_the_package_pulls_in_nothing_heavy():
    code = (
        "import sys, jaxtune; print([m for m in ('grain', 'orbax', 'matplotlib', "
        "'torch', 'huggingface_hub') if m in sys.modules])"
    )
    package = Path(jaxtune.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["jaxtune", *MODULES])
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", [n for n in MODULES if not n.endswith("__init__")])
def test_every_module_has_its_test_file(name):
    parts = name.split(".")[1:]
    path = CHECKOUT / "jaxtune" / Path(*parts)
    if path.is_dir():
        pytest.skip("a room, not a module")
    test = CHECKOUT / "tests" / Path(*parts[:-1]) / f"test_{parts[-1]}.py"
    assert test.is_file(), f"{name} has no {test.relative_to(CHECKOUT)}"


def test_no_file_is_two_ideas():
    lengths = {
        str(path.relative_to(CHECKOUT)): len(path.read_text().splitlines())
        for path in (CHECKOUT / "jaxtune").rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > 400} == {}
