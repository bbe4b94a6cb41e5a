"""The restricted pickle reader on its own: what reaches the stack, what cannot."""

import io
import pickle
from collections import Counter, OrderedDict

import numpy as np
import pytest

from jaxtune.pretrained.torch_pickle import (
    Storage,
    Tensor,
    UnsafeFileError,
    WeightsFileError,
    load_pickle,
    new_storage,
)


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
