"""Torch files: three formats, every dtype, and what is refused."""

import io
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxtune.pretrained.torch_file import (
    MAGIC_NUMBER,
    Storage,
    Tensor,
    UnsafeFileError,
    WeightsFileError,
    load_pickle,
    new_storage,
    read_torch_file,
    strip_prefixes,
)

FILES = Path(__file__).parent / "files"


def expected():
    base = np.arange(24, dtype=np.float32)
    return {
        "conv.weight": base.reshape(2, 3, 2, 2),
        "view.weight": base[4:16].reshape(3, 4),
        "turned.weight": base.reshape(4, 6).T,
        "stepped.bias": base[1::5],
        "half.bias": np.array([0.5, -2.0], np.float16),
        "bfloat.bias": np.array([1.5, 3.0], ml_dtypes.bfloat16),
        "double.bias": np.array([0.1], np.float64),
        "flags": np.array([True, False, True]),
        "bytes": np.array([0, 255], np.uint8),
        "empty": np.zeros((0, 3), np.float32),
        "bn.num_batches_tracked": np.array(7, np.int64),
        "learned.weight": np.array([[2.0]], np.float32),
    }


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "plain.pkl"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_reads_every_form_and_dtype(name, as_bytes):
    path = FILES / name
    arrays = read_torch_file(path.read_bytes() if as_bytes else path)
    assert list(arrays) == list(expected())
    for key, value in expected().items():
        assert arrays[key].dtype == value.dtype, key
        assert arrays[key].shape == value.shape, key
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)
        assert arrays[key].size == 0 or not arrays[key].flags.writeable


@pytest.mark.parametrize("name", ["checkpoint.pth", "twice.pth"])
def test_unwraps_checkpoints_and_module_prefix(name):
    arrays = read_torch_file(FILES / name)
    assert list(arrays) == ["fc.bias"]
    np.testing.assert_array_equal(arrays["fc.bias"], [1.0, 2.0])


def test_reads_dtypes_without_a_storage_class():
    array = read_torch_file(FILES / "uint16.pth")["small"]
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array, [1, 2])


def test_prefix_stays_where_one_name_lacks_it():
    mixed = {"module.a": np.zeros(1), "b": np.zeros(1)}
    assert strip_prefixes(mixed) == mixed
    both = {"_orig_mod.module.a": np.zeros(1)}
    assert list(strip_prefixes(both)) == ["a"]


def test_refuses_a_pickled_module_by_name():
    with pytest.raises(UnsafeFileError, match=r"module\.pth.*Linear.*state_dict"):
        read_torch_file(FILES / "module.pth")


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zip_of(data: bytes, **records: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, value in records.items():
            archive.writestr(f"archive/{key.replace('__', '/')}", value)
    return stream.getvalue()


def legacy_of(data: bytes) -> bytes:
    header = (MAGIC_NUMBER, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(each, 2) for each in header) + data


def as_plain(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize("wrap", [zip_of, legacy_of, as_plain])
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_file_is_refused_and_never_runs(tmp_path, wrap, protocol):
    marker = tmp_path / "marker"
    hostile = {"fc.bias": Hostile(os.system, f"touch {marker}")}
    data = pickle.dumps(hostile, protocol)
    path = tmp_path / "hostile.pth"
    path.write_bytes(wrap(data))
    with pytest.raises(UnsafeFileError, match=r"(posix|nt)\.system.*safetensors"):
        read_torch_file(path)
    assert not marker.exists()
    pickle.loads(data)  # noqa: S301  the same file does run elsewhere
    assert marker.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, ("1",)),
        (getattr, ({}, "pop")),
        (__import__, ("os",)),
        (open, ("x", "w")),
        (bytearray, (1 << 40,)),
        (np.zeros, (3,)),
        (pickle.loads, (b"",)),
    ],
)
def test_refuses_every_other_function(function, arguments):
    data = pickle.dumps({"a": Hostile(function, *arguments)}, 4)
    with pytest.raises(UnsafeFileError):
        read_torch_file(data)


def test_refuses_a_class_instance_and_attribute_setting():
    with pytest.raises(UnsafeFileError, match="Hostile"):
        read_torch_file(pickle.dumps(HostileState(), 2))
    name = b"ctorch._utils\n_rebuild_tensor_v2\n"
    for state in (b"}", b"}X\x01\x00\x00\x00aNs\x86"):  # BUILD with a state
        with pytest.raises(WeightsFileError):
            read_torch_file(b"\x80\x02" + name + state + b"b.")


class HostileState:
    def __setstate__(self, state):
        raise AssertionError("must never run")


def rebuild(arguments: bytes, *, function: bytes = b"_rebuild_tensor_v2") -> bytes:
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n" + function + b"\n" + arguments
    ) + b"Rs."


def storage(length: int, *, kind: bytes = b"FloatStorage", key: bytes = b"0") -> bytes:
    return (
        b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x00" + key
    ) + (b"X\x03\x00\x00\x00cpuJ" + struct.pack("<i", length) + b"tQ")


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(offset: int, size: tuple, stride: tuple, *, length: int = 4) -> bytes:
    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    body = storage(length) + number(offset) + numbers(size) + numbers(stride)
    return rebuild(b"(" + body + b"\x89Nt")


def test_hand_made_tensor_is_read():
    values = np.arange(4, dtype="<f4").tobytes()
    made = zip_of(tensor(1, (2,), (2,)), data__0=values)
    np.testing.assert_array_equal(read_torch_file(made)["a"], [1.0, 3.0])


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (4, (1,), (1,)),
        (0, (5,), (1,)),
        (0, (2,), (4,)),
        (0, (2, 3), (3, 1)),
        (1 << 62, (1,), (1,)),
        (0, (1 << 62, 1 << 62), (1 << 62, 1)),
        (0, (1 << 40,), (0,)),
        (0, (2,), (-1,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (1, 1)),
        (0, (0, 1 << 60), (1, 1)),
        (0, (1,) * 40, (1,) * 40),
    ],
)
def test_view_outside_its_storage_is_refused(offset, size, stride):
    made = zip_of(tensor(offset, size, stride), data__0=bytes(16))
    with pytest.raises(WeightsFileError):
        read_torch_file(made)


@pytest.mark.parametrize(
    "arguments",
    [
        b"(t",
        b"(NNNNNNt",
        b"(X\x01\x00\x00\x00xK\x00(t(t\x89Nt",
        b"(" + storage(4) + b"K\x00X\x01\x00\x00\x00x(t\x89Nt",
        b"(" + storage(4) + b"G?\xf0\x00\x00\x00\x00\x00\x00(K\x01t(K\x01t\x89Nt",
    ],
)
@pytest.mark.parametrize(
    "function",
    [b"_rebuild_tensor_v2", b"_rebuild_tensor_v3", b"_rebuild_parameter"],
)
def test_known_functions_with_nonsense_arguments(arguments, function):
    made = zip_of(rebuild(arguments, function=function), data__0=bytes(16))
    with pytest.raises(WeightsFileError):
        read_torch_file(made)


def test_storage_length_must_be_the_record_s():
    for length in (3, 5, 1 << 30):
        made = zip_of(tensor(0, (1,), (1,), length=length), data__0=bytes(16))
        with pytest.raises(WeightsFileError, match="storage 0 should have"):
            read_torch_file(made)
    with pytest.raises(WeightsFileError, match="none"):
        read_torch_file(zip_of(tensor(0, (1,), (1,))))


def test_absurd_memory_demands_are_refused():
    huge_memo = b"\x80\x02}r\xff\xff\xff\x7f."
    with pytest.raises(UnsafeFileError, match="memory"):
        read_torch_file(huge_memo)
    with pytest.raises(UnsafeFileError, match="BYTEARRAY8"):
        read_torch_file(pickle.dumps({"a": bytearray(3)}, 5))


def test_zip_that_is_compressed_encrypted_or_overlapping_is_refused():
    data = pickle.dumps({}, 2)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", bytes(1 << 22))
    with pytest.raises(UnsafeFileError, match="compressed"):
        read_torch_file(stream.getvalue())
    marked = bytearray(zip_of(data))
    marked[marked.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UnsafeFileError, match="encrypted"):
        read_torch_file(bytes(marked))
    claims = bytearray(zip_of(data, data__0=bytes(16)))
    directory = claims.rindex(b"PK\x01\x02")
    claims[directory + 20 : directory + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    with pytest.raises(UnsafeFileError, match="more bytes than the file"):
        read_torch_file(bytes(claims))


def test_torchscript_and_foreign_archives_are_named():
    program = zip_of(pickle.dumps({}, 2), constants__pkl=b"")
    program = program.replace(b"constants/pkl", b"constants.pkl")
    with pytest.raises(UnsafeFileError, match="TorchScript"):
        read_torch_file(program)
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(1))
    with pytest.raises(WeightsFileError, match=r"data\.pkl"):
        read_torch_file(stream.getvalue())


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "plain.pkl"])
def test_truncated_file_is_an_error_that_names_it(tmp_path, name):
    data = (FILES / name).read_bytes()
    for length in (0, 1, 3, 40, len(data) // 2, len(data) - 1):
        path = tmp_path / f"{length}-{name}"
        path.write_bytes(data[:length])
        with pytest.raises(WeightsFileError, match=f"{length}-{name}"):
            read_torch_file(path)


def test_no_byte_flip_leads_anywhere_but_to_an_error_or_arrays():
    random = np.random.default_rng(0)
    for name in ("zip.pth", "legacy.pth", "plain.pkl"):
        data = (FILES / name).read_bytes()
        for _ in range(150):
            flipped = bytearray(data)
            flipped[random.integers(len(data))] = random.integers(256)
            try:
                arrays = read_torch_file(bytes(flipped))
            except WeightsFileError:
                continue
            assert all(isinstance(each, np.ndarray) for each in arrays.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a list"),
        ({}, "a dict of 0"),
        ({"a": 1.0}, "'a' \\(a float\\)"),
        (OrderedDict(epoch=3), "'epoch'"),
        (None, "an empty value"),
    ],
)
def test_no_dict_of_tensors(content, message):
    with pytest.raises(WeightsFileError, match=message):
        read_torch_file(pickle.dumps(content, 2))


def test_text_is_not_a_torch_file(tmp_path):
    path = tmp_path / "page.pth"
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(WeightsFileError, match="neither a zip archive nor a pickle"):
        read_torch_file(path)


def nowhere(pid):
    raise WeightsFileError("no storage here")


def load(data, **options):
    return load_pickle(io.BytesIO(data), find_storage=nowhere, **options)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_containers_come_back_equal(protocol):
    value = {
        "list": [1, 2.5, None, True],
        "tuple": (1, (2, 3)),
        "text": "é",
        "order": OrderedDict(a=1, b=2),
        "count": Counter("aab"),
        "set": {1, 2},
    }
    if protocol > 1:
        value["bytes"] = b"\x00\xff"
    if protocol in (0, 1):
        value.pop("set")  # written through copyreg, which is not allowed
        value.pop("tuple")
    assert load(pickle.dumps(value, protocol)) == value


def test_stream_is_left_after_the_pickle():
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps("two", 2) + b"rest")
    assert load_pickle(stream, find_storage=nowhere) == 1
    assert load_pickle(stream, find_storage=nowhere) == "two"
    assert stream.read() == b"rest"


def test_extension_codes_are_refused_even_when_registered():
    import copyreg

    copyreg.add_extension("builtins", "print", 240)
    try:
        data = pickle.dumps(print, 2)
        assert pickle.EXT1 in data
        with pytest.raises(UnsafeFileError, match="EXT1"):
            load(data)
    finally:
        copyreg.remove_extension("builtins", "print", 240)


def test_nested_streams_only_where_allowed():
    data = b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x01x\x85R."
    with pytest.raises(UnsafeFileError, match="_load_from_bytes"):
        load(data)
    assert load(data, load_bytes=lambda inner: inner) == b"x"


def test_markers_are_no_functions():
    with pytest.raises(UnsafeFileError, match="no constructor"):
        load(b"\x80\x02ctorch\nFloatStorage\n)R.")


def test_persistent_ids_must_be_storages():
    with pytest.raises(UnsafeFileError, match="'module'"):
        load(pickle.dumps(("module", 1, 2, 3, 4), 2)[:-1] + b"Q.")


@pytest.mark.parametrize("kind", ["FloatStorage", None, np.float32])
def test_new_storage_wants_a_known_class(kind):
    with pytest.raises(WeightsFileError):
        new_storage(("storage", kind, "0", "cpu", 4))


def test_tensor_of_an_unread_storage_is_refused():
    tensor = Tensor(Storage(np.dtype(np.float32), 2), 0, (2,), (1,))
    with pytest.raises(WeightsFileError, match="missing"):
        tensor.to_array()


def test_odd_truth_values_become_true():
    storage = Storage(np.dtype(np.bool_), 3)
    storage.data = b"\x00\x02\xff"
    array = Tensor(storage, 0, (3,), (1,)).to_array()
    np.testing.assert_array_equal(array.view(np.uint8), [0, 1, 1])
