"""Reads and writes files of named arrays; no reader runs anything in a file."""

import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxtune.arguments import check_path
from jaxtune.pretrained.torch_file import (
    UnsafeFileError,
    WeightsFileError,
    read_torch_file,
    strip_prefixes,
)

# .tar stands for .pth.tar (MoCo and others), not an archive; .ckpt is Lightning's.
TORCH_ENDINGS = (".pth", ".pt", ".bin", ".pkl", ".tar", ".ckpt", ".th")
ENDINGS = (".safetensors", *TORCH_ENDINGS, ".npz")
MAX_INFLATION = 100  # an .npz may be compressed, but weights hardly shrink

# By hand, because safetensors.numpy reads neither bfloat16 nor float8.
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
    """Reads the arrays in a file of weights.

    The ending tells the format: .safetensors; .npz; .pth, .pt, .bin, .pkl, .pth.tar,
    .ckpt and .th for PyTorch's (see `read_torch_file`). A prefix such as `module.` that
    every name has is removed.

    Args:
        path: The file.

    Returns:
        Arrays by name, in the file's own layout and dtype; they may be read-only.

    Raises:
        TypeError: `path` is not a path.
        FileNotFoundError: There is no such file.
        UnsafeFileError: The file holds more than arrays.
        WeightsFileError: The file is broken, cut short or empty, or has an unknown
            ending. Both errors are a `ValueError`.
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
            f"{path} has the ending {ending!r}; it must be one of "
            f"{', '.join(ENDINGS)}. Rename the file if it has one of these formats, or "
            "convert it to .safetensors"
        )
    if not arrays:
        raise WeightsFileError(f"{path} contains no arrays")
    return strip_prefixes(arrays)


def write_weights(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays to a .safetensors file, entirely or not at all.

    Names, dtypes and layout stay as they are. The bytes depend on the arrays only, so
    equal arrays give equal sha256.

    Raises:
        ValueError: The ending is not .safetensors.
        TypeError: The format has no name for an array's dtype.
    """
    from safetensors.numpy import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors to be written")
    writable = {np.dtype(each).name for each in _SAFETENSORS_DTYPES.values()}
    for name, array in arrays.items():
        if array.dtype.name not in writable:
            raise TypeError(
                f"{name!r} is {array.dtype}; .safetensors can hold "
                f"{', '.join(sorted(writable))}"
            )
    contiguous = {name: np.array(each, order="C") for name, each in arrays.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(save(contiguous))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        content = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise WeightsFileError(
            f"{path} is not a complete .safetensors file ({error}); download it again"
        ) from error
    arrays = {}
    for name, spec in content:
        if spec["dtype"] not in _SAFETENSORS_DTYPES:
            raise WeightsFileError(
                f"{path}: {name!r} has the dtype {spec['dtype']}, which must be one of "
                f"{', '.join(_SAFETENSORS_DTYPES)}"
            )
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
        # zipfile fails in many ways on a broken archive (UnicodeDecodeError, ...).
        if "allow_pickle" in str(error):
            raise UnsafeFileError(
                f"{path} holds Python objects, which are never loaded; save plain "
                "arrays with numpy.savez"
            ) from error
        raise WeightsFileError(
            f"{path} is not a complete .npz file ({error}); download it again"
        ) from error
