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
