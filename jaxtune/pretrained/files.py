"""Reads and writes files of named arrays.

In: a path to .safetensors, .pth/.pt/.bin/.pkl or .npz. Out: `{name: array}` in the
file's own layout. The one rule: no reader here runs anything that a file brings along.
"""

import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxtune.arguments import check_path
from jaxtune.pretrained.torch_file import read_torch_file, strip_prefixes
from jaxtune.pretrained.torch_pickle import UnsafeFileError, WeightsFileError

# .tar is MoCo's and many others' .pth.tar, which is no archive; .ckpt is Lightning's.
TORCH_ENDINGS = (".pth", ".pt", ".bin", ".pkl", ".tar", ".ckpt", ".th")
ENDINGS = (".safetensors", *TORCH_ENDINGS, ".npz")
MAX_INFLATION = 100  # a .npz may be compressed; weights hardly shrink at all

_SAFETENSORS_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
}


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of a file of weights, whatever its format.

    The ending decides: .safetensors; .pth, .pt, .bin, .pkl, .pth.tar, .ckpt and .th
    for PyTorch's formats (see `read_torch_file`); .npz. A prefix such as `module.` that
    every name carries is removed (see `strip_prefixes`).

    Args:
        path: the file.

    Returns:
        Arrays by name, in the file's own layout and dtype; they may be read-only.

    Raises:
        TypeError: it is no path.
        FileNotFoundError: there is no such file.
        UnsafeFileError: the file holds more than arrays.
        WeightsFileError: the file is broken, cut short or empty, or has an ending not
            known here. Both errors are a `ValueError`.
    """
    path = Path(check_path(path, "path")).expanduser()
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder; read_weights reads one file")
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    ending = path.suffix.lower()
    if ending == ".safetensors":
        arrays = _read_safetensors(path)
    elif ending in TORCH_ENDINGS:
        arrays = read_torch_file(path)
    elif ending == ".npz":
        arrays = _read_npz(path)
    else:
        raise WeightsFileError(
            f"{path} ends in {ending or 'nothing'!r}; the endings known are "
            f"{', '.join(ENDINGS)}. Rename it if it is one of these formats, or "
            "convert it to .safetensors"
        )
    if not arrays:
        raise WeightsFileError(f"{path} holds no arrays")
    return strip_prefixes(arrays)


def write_weights(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays to a .safetensors file, names, dtypes and layout as they are.

    The bytes depend on the arrays only, so equal arrays give equal sha256. The file is
    written where it is named; see `jaxtune.pretrained.cache.new_file` for doing that
    whole or not at all.

    Raises:
        ValueError: the ending is not .safetensors.
        TypeError: an array's dtype has no name in the format.
    """
    from safetensors import TensorSpec, serialize_file

    if Path(path).suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors, not as {path}")
    names = {np.dtype(kind): name for name, kind in _SAFETENSORS_DTYPES.items()}
    unknown = [name for name, each in arrays.items() if each.dtype not in names]
    if unknown:
        raise TypeError(
            f"{unknown[0]!r} is {arrays[unknown[0]].dtype}, which .safetensors has no "
            "name for"
        )
    kept = {name: np.array(each, order="C") for name, each in arrays.items()}
    specs = {
        name: TensorSpec(
            dtype=each.dtype.name,
            shape=list(each.shape),
            data_ptr=each.ctypes.data,
            data_len=each.nbytes,
        )
        for name, each in kept.items()
    }
    serialize_file(specs, str(path))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        content = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise WeightsFileError(
            f"{path} is no whole .safetensors file ({error}); fetch it again"
        ) from error
    arrays = {}
    for name, spec in content:
        if spec["dtype"] not in _SAFETENSORS_DTYPES:
            raise WeightsFileError(f"{path}: {name!r} has the dtype {spec['dtype']}")
        dtype = _SAFETENSORS_DTYPES[spec["dtype"]]
        arrays[name] = np.frombuffer(spec["data"], dtype).reshape(spec["shape"])
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > MAX_INFLATION * path.stat().st_size:
            raise UnsafeFileError(f"{path} claims to inflate to {claimed} bytes")
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except WeightsFileError:
        raise
    except Exception as error:
        # zipfile lets a broken archive fail in many ways (UnicodeDecodeError, ...).
        if "allow_pickle" in str(error):
            raise UnsafeFileError(
                f"{path} holds Python objects, which are never loaded; save plain "
                "arrays with numpy.savez"
            ) from error
        raise WeightsFileError(f"{path} is no whole .npz file ({error})") from error
