"""weights/convert.py: a readable file in, a .safetensors file and its entry out."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from jaxtune.pretrained.download import sha256_of
from jaxtune.pretrained.manifest import read_entry
from jaxtune.pretrained.weights_file import read_weights

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "convert_script", ROOT / "weights" / "convert.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_converts_and_prints_an_entry(script, tmp_path, capsys):
    options = ["--architecture", "resnet18", "--tag", "Mine", "--licence", "mit"]
    given = [str(FILES / "checkpoint.pth"), *options, "--out", str(tmp_path)]
    assert script.main(given) == 0
    entry = json.loads(capsys.readouterr().out)
    path = tmp_path / "resnet18_mine.safetensors"
    np.testing.assert_array_equal(read_weights(path)["fc.bias"], [1.0, 2.0])
    assert entry["sha256"] == sha256_of(path) and entry["num_classes"] == 2
    assert read_entry(entry).file == path.name


def test_unsafe_file_writes_nothing(script, tmp_path, capsys):
    options = ["--architecture", "resnet18", "--tag", "x", "--out", str(tmp_path)]
    assert script.main([str(FILES / "module.pth"), *options]) == 1
    assert "Linear" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
