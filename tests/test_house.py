"""The house's own rules that no linter knows."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import jaxtune

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jaxtune.__path__, prefix="jaxtune.")
)


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


def test_the_page_on_how_it_works_shows_the_loop_as_it_is():
    package = Path(jaxtune.__file__).parent
    page = (package / "HOW_IT_WORKS.md").read_text()
    shown = page.partition("```\n")[2].partition("```")[0]
    code = (package / "loop" / "fit.py").read_text()
    assert textwrap.indent(shown, "    ") in code


def test_from_the_call_to_the_update_there_are_seven_files_and_each_is_there():
    package = Path(jaxtune.__file__).parent
    page = (package / "HOW_IT_WORKS.md").read_text()
    rows = re.findall(r"^\| (\d) \| \[.*?\]\((.*?)\) \| `([\w.]+)`", page, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 8))
    for _, file, function in rows:
        name = function.rpartition(".")[2]
        assert f"def {name}(" in (package / file).read_text()


def test_no_two_files_have_the_same_name():
    package = Path(jaxtune.__file__).parent
    names = [path.name for path in package.rglob("*.py") if path.stem != "__init__"]
    assert sorted(names) == sorted(set(names))
