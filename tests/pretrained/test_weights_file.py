"""Files of weights: every format, and what a broken one says."""

import hashlib
import json
import os
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxtune.pretrained.torch_file import UnsafeFileError, WeightsFileError
from jaxtune.pretrained.weights_file import ENDINGS, read_weights, write_weights

FILES = Path(__file__).parent / "files"
# Of arrays() as safetensors 0.5 to 0.8 write them.
DIGEST = "cf04300313cbc3b8ee69d056084d1fe74701f4c3616e60866ae80392374e9b2a"


def arrays():
    return {
        "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float16),
        "low": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "flags": np.array([True, False]),
    }


def same(read, wanted):
    assert read.keys() == wanted.keys()
    for name, value in wanted.items():
        assert read[name].dtype == value.dtype, name
        assert read[name].shape == value.shape, name
        np.testing.assert_array_equal(read[name], value, err_msg=name)


def test_safetensors_come_back_as_written(tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, arrays())
    same(read_weights(path), arrays())
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:][:length])
    assert header["low"]["dtype"] == "BF16"


def test_equal_arrays_give_equal_bytes(tmp_path):
    digests = []
    for number, order in enumerate((1, -1)):
        path = tmp_path / f"{number}.safetensors"
        write_weights(path, dict(list(arrays().items())[::order]))
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    # The manifest's sha256 of converted weights hold as long as these bytes do.
    assert set(digests) == {DIGEST}


def test_reads_what_the_safetensors_library_writes(tmp_path):
    from safetensors.numpy import save_file

    wanted = {"a": np.ones((2, 2), np.float32), "b": np.zeros(1, np.uint16)}
    save_file(wanted, tmp_path / "a.safetensors", metadata={"format": "pt"})
    same(read_weights(tmp_path / "a.safetensors"), wanted)


def test_npz_plain_and_compressed(tmp_path):
    wanted = {k: v for k, v in arrays().items() if k != "low"}
    np.savez(tmp_path / "a.npz", **wanted)
    np.savez_compressed(tmp_path / "b.NPZ", **wanted)
    os.replace(tmp_path / "b.NPZ.npz", tmp_path / "b.NPZ")
    same(read_weights(tmp_path / "a.npz"), wanted)
    same(read_weights(tmp_path / "b.NPZ"), wanted)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "plain.pkl"])
def test_torch_files_go_to_their_reader(name, tmp_path):
    arrays = read_weights(FILES / name)
    assert arrays["conv.weight"].shape == (2, 3, 2, 2)
    for other in ("pytorch_model.bin", "moco_v2.pth.tar", "last.ckpt", "best.TH"):
        renamed = tmp_path / other
        renamed.write_bytes((FILES / name).read_bytes())
        assert read_weights(renamed).keys() == arrays.keys()


def test_prefix_is_removed_in_every_format(tmp_path):
    wrapped = {"module.fc.bias": np.zeros(2, np.float32)}
    write_weights(tmp_path / "a.safetensors", wrapped)
    np.savez(tmp_path / "a.npz", **wrapped)
    assert list(read_weights(tmp_path / "a.safetensors")) == ["fc.bias"]
    assert list(read_weights(tmp_path / "a.npz")) == ["fc.bias"]


def test_unknown_ending_lists_those_known(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"x")
    with pytest.raises(WeightsFileError, match=r"\.h5") as caught:
        read_weights(path)
    assert all(ending in str(caught.value) for ending in ENDINGS)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        read_weights(tmp_path / "none.npz")


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".pth"])
def test_truncated_file_is_an_error_that_names_it(ending, tmp_path):
    whole = tmp_path / f"whole{ending}"
    if ending == ".npz":
        np.savez(whole, a=np.arange(100.0))
    elif ending == ".safetensors":
        write_weights(whole, {"a": np.arange(100.0)})
    else:
        whole.write_bytes((FILES / "zip.pth").read_bytes())
    data = whole.read_bytes()
    for length in (0, 4, len(data) // 2, len(data) - 1):
        path = tmp_path / f"cut{length}{ending}"
        path.write_bytes(data[:length])
        with pytest.raises(WeightsFileError, match=f"cut{length}"):
            read_weights(path)


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_npz_with_objects_is_refused_and_never_runs(tmp_path):
    marker = tmp_path / "marker"
    np.savez(tmp_path / "a.npz", a=np.array([Marker(marker)], dtype=object))
    with pytest.raises(UnsafeFileError, match="Python objects"):
        read_weights(tmp_path / "a.npz")
    assert not marker.exists()


def test_npz_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 24))
    with pytest.raises(UnsafeFileError, match="inflate"):
        read_weights(tmp_path / "a.npz")


def test_file_without_arrays_is_refused(tmp_path):
    write_weights(tmp_path / "a.safetensors", {})
    with pytest.raises(WeightsFileError, match="no arrays"):
        read_weights(tmp_path / "a.safetensors")


def test_writing_refuses_other_endings_and_dtypes(tmp_path):
    with pytest.raises(ValueError, match="safetensors"):
        write_weights(tmp_path / "a.npz", arrays())
    with pytest.raises(TypeError, match="'a'"):
        write_weights(tmp_path / "a.safetensors", {"a": np.array(["text"])})
    assert not list(tmp_path.iterdir())
