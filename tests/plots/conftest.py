import pytest


@pytest.fixture(autouse=True)
def matplotlib_or_skip():
    """Plots need an extra; without it their tests are skipped."""
    pytest.importorskip("matplotlib", reason='plots need pip install "jaxtune[plots]"')
