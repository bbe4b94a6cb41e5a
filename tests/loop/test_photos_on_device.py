"""Photos on the device give the batches, and the bits, that the host gives."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from photos import make_photos
from processes import run_script
from runs import loaders

from jaxtune.data import Loader
from jaxtune.loop import photos_on_device
from jaxtune.loop.memory import MemoryNeed
from jaxtune.loop.photos_on_device import PhotosOnDevice
from jaxtune.loop.sharding import data_sharding


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=8, valid=4)


def device_with(monkeypatch, number: int | None):
    """Makes the processor pass for a device with memory of its own."""
    name = "_memory_beside_the_host"
    monkeypatch.setattr(photos_on_device, name, lambda device: number)


def decode(loader):
    for _ in loader.batches():
        pass
    return loader


def on_device(used=0):
    rows, everywhere = data_sharding()
    return PhotosOnDevice(rows=rows, everywhere=everywhere, used=lambda: used)


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("split", ["train_loader", "valid_loader"])
def test_batches_are_the_loaders_own(root, monkeypatch, split):
    device_with(monkeypatch, 10**9)
    # The last batch of those in order is padded.
    loader = decode(getattr(loaders(root), split))
    photos = on_device()
    batches = list(photos.loader(loader).batches(3, 1))
    same(batches, loader.batches(3, 1))
    assert isinstance(batches[0]["image"], jax.Array)
    assert photos.kept == loader.cached_bytes and len(photos.loader(loader)) == len(
        loader
    )


def test_nothing_is_kept_before_every_photo_is_decoded(root, monkeypatch):
    device_with(monkeypatch, 10**9)
    loader, photos = loaders(root).train_loader, on_device()
    kinds = {type(b["image"]) for b in photos.loader(loader).batches()}
    assert kinds == {np.ndarray} and photos.kept == 0
    assert isinstance(next(photos.loader(loader).batches())["image"], jax.Array)


def test_photos_take_a_share_of_what_programs_leave(root, monkeypatch):
    data = loaders(root)
    both = [decode(data.train_loader), decode(data.valid_loader)]
    size = sum(loader.cached_bytes for loader in both)
    device_with(monkeypatch, int(size / photos_on_device.SHARE) + 1)
    everywhere = data_sharding()[1]
    assert on_device().shardings(both) == [everywhere, everywhere]
    assert on_device(used=5 * size).shardings(both) is None
    assert on_device().shardings([*both, *both]) is None
    device_with(monkeypatch, None)
    assert on_device().shardings(both) is None
    device_with(monkeypatch, 10**9)
    assert on_device().shardings([loaders(root, cache_bytes=0).train_loader]) is None
    assert on_device().shardings([object()]) is None


def train(root, **options):
    data = loaders(root, **options)
    model = runs.make_learner(root, verbose=True)
    model.data = data
    model.fine_tune(2, 1e-2, freeze_epochs=1)
    return runs.figures(model.history), runs.bits(model)


def test_a_run_is_the_same_bit_for_bit(root, monkeypatch, capsys):
    expected = train(root)
    assert "on the device" not in capsys.readouterr().out
    device_with(monkeypatch, 10**9)
    read = []
    batches = Loader.batches

    def counted(self, epoch=0, start=0):
        read.append(epoch)
        return batches(self, epoch, start)

    monkeypatch.setattr(Loader, "batches", counted)
    assert train(root) == expected
    # The first epoch's training and validation alone.
    assert read == [0, 0]
    lines = capsys.readouterr().out.splitlines()
    assert sum("photos kept on the device (0.00 GB)" in line for line in lines) == 2


def test_the_start_line_says_where_the_photos_are(root, monkeypatch):
    kept = loaders(root).train_loader
    streamed = loaders(root, cache_bytes=0).train_loader
    assert on_device().says_where([kept]) == ""
    device_with(monkeypatch, 10**9)
    assert "kept on the device (0.00 GB)" in on_device().says_where([kept])
    assert "decoded in each epoch" in on_device().says_where([kept, streamed])
    device_with(monkeypatch, kept.cached_bytes)
    assert "kept in the host's memory (0.00 GB)" in on_device().says_where([kept])


SPLIT = """
import sys

import jax
import numpy as np
import runs

from jaxtune.loop import photos_on_device
from jaxtune.loop.photos_on_device import PhotosOnDevice
from jaxtune.loop.sharding import data_sharding

root = sys.argv[1]


def room_for(size):
    photos_on_device.SHARE = size / 10**9
    photos_on_device._memory_beside_the_host = lambda device: 10**9


def train():
    model = runs.make_learner(root, verbose=True)
    model.data = runs.loaders(root)
    model.fine_tune(2, 1e-2, freeze_epochs=1)
    return runs.figures(model.history), runs.bits(model)


rows, everywhere = data_sharding()
loader = runs.loaders(root, batch_size=7).valid_loader
list(loader.batches())
photo = loader.cached_bytes // loader.num_items
# Room for five of the 15 photos on each of four devices.
room_for(5 * photo)
photos = PhotosOnDevice(rows=rows, everywhere=everywhere, used=lambda: 0)
print(len(jax.devices()), photos.says_where([loader]))
ours, theirs = list(photos.loader(loader).batches(2)), list(loader.batches(2))
assert len(ours) == len(theirs) == 3
for one, other in zip(ours, theirs):
    assert one["image"].sharding == rows
    for name, value in other.items():
        filled = np.asarray(one[name])
        assert filled.dtype == value.dtype and not filled[len(value) :].any()
        np.testing.assert_array_equal(filled[: len(value)], value)
print(photos.kept // photo)

room_for(0)
expected = train()
data = runs.loaders(root)
room_for((data.train_loader.cached_bytes + data.valid_loader.cached_bytes) // 3)
assert train() == expected
"""


def test_photos_are_split_where_no_device_has_room_for_all(tmp_path):
    root = make_photos(tmp_path, train=8, valid=5)
    first, kept, *lines = run_script(SPLIT, root, devices=4).splitlines()
    where = "photos kept on 4 devices, a part on each (0.00 GB)"
    assert (first, kept) == (f"4  · {where}", "4")
    assert sum("kept in the host's memory" in line for line in lines) == 2
    assert sum(where in line for line in lines) == 2


ON_TPU = """
import sys

sys.path.append(sys.argv[1])
import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks import tpu
from jaxtune.loop.photos_on_device import photos_taken
from jaxtune.loop.sharding import data_sharding

mesh = Mesh(np.array(tpu.devices("v5e:2x2")), ("data",))
rows, everywhere = data_sharding(mesh)
for sharding in (everywhere, rows):
    forms = (
        jax.ShapeDtypeStruct((4000, 1208, 128), np.uint8, sharding=sharding),
        jax.ShapeDtypeStruct((32,), np.int32, sharding=rows),
        jax.ShapeDtypeStruct((32,), bool, sharding=rows),
    )
    take = photos_taken(sharding, rows, (227, 227, 3))
    memory = take.lower(*forms).compile().memory_analysis()
    print(memory.argument_size_in_bytes, memory.temp_size_in_bytes)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the TPU's compiler, is not installed",
)
def test_a_batch_on_a_tpu_does_not_copy_all_photos():
    root = Path(__file__).parents[2]
    whole, split = run_script(ON_TPU, root).splitlines()[-2:]
    for words, photos in ((whole, 4000), (split, 1000)):
        arguments, temporaries = map(int, words.split())
        size = photos * 1208 * 128
        assert size < arguments < 1.01 * size and temporaries < size / 5


def test_photos_go_where_a_program_needs_their_room(root, monkeypatch):
    loader = decode(loaders(root).train_loader)
    size = loader.cached_bytes
    device_with(monkeypatch, 10 * size)
    photos = on_device()
    batches = list(photos.loader(loader).batches(1))
    need = MemoryNeed("a step", rows=8, device=None, fixed=5 * size, growing=4 * size)
    photos.make_room(dataclasses.replace(need, fixed=None))
    photos.make_room(need)
    assert photos.kept == size
    photos.make_room(dataclasses.replace(need, growing=4 * size + 1))
    assert photos.kept == 0
    again = list(photos.loader(loader).batches(1))
    same(again, batches)
    assert isinstance(again[0]["image"], np.ndarray) and photos.kept == 0


def test_every_program_may_ask_for_room(root, monkeypatch):
    device_with(monkeypatch, 10**9)
    asked = []
    made = PhotosOnDevice.make_room

    def watched(self, need):
        asked.append((need.task, self.kept > 0))
        made(self, need)

    monkeypatch.setattr(PhotosOnDevice, "make_room", watched)
    train(root)
    assert set(asked) >= {("a train step", True), ("validation", True)}
