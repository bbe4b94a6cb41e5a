"""The largest batch that fits, and data whose learner finds it."""

import jax
import pytest
import runs

from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.loop import batch_size
from jaxtune.loop.batch_size import largest_that_fits
from jaxtune.loop.memory import MemoryNeed, OutOfMemoryError


def planner(*, fixed, by_row, tried, limit=None, devices=1):
    """What a compiler would plan, proportional to the rows of one device."""

    def need_of(rows):
        tried.append(rows)
        growing = by_row * rows // devices
        if limit is not None and fixed + growing > limit:
            raise OutOfMemoryError("too much")
        return MemoryNeed("a step", rows, None, devices, fixed=fixed, growing=growing)

    return need_of


@pytest.mark.parametrize(
    ("room", "most", "expected"),
    [(10_000, 512, 64), (100_000, 512, 512), (100_000, 100, 64), (2_000, 512, 8)],
)
def test_it_is_the_largest_power_of_two_that_fits(room, most, expected):
    tried = []
    need_of = planner(fixed=1_000, by_row=120, tried=tried)
    rows, need = largest_that_fits(need_of, most=most, room=room)
    assert rows == expected == need.rows and need.total <= room
    assert rows == most or 2 * rows > most or 1_000 + 2 * rows * 120 > room
    # Compiling is what it costs: two programs where more than the first size fits.
    assert len(tried) <= 2 or expected < 32


def test_a_size_whose_program_can_not_be_made_is_too_large():
    tried = []
    need_of = planner(fixed=0, by_row=100, tried=tried, limit=5_000)
    # By the plan of the first size, 512 would fit; the compiler says otherwise.
    rows, _ = largest_that_fits(need_of, most=512, room=10**9)
    assert rows == 32 and tried == [32, 512, 256, 128, 64, 32]


def test_every_device_has_a_power_of_two():
    need_of = planner(fixed=0, by_row=100, tried=[], devices=6)
    assert largest_that_fits(need_of, most=512, room=3_000, devices=6)[0] == 96
    assert largest_that_fits(need_of, most=50, room=10**9, devices=6)[0] == 48


def test_where_not_one_row_fits_the_error_says_so():
    need_of = planner(fixed=0, by_row=100, tried=[], limit=50)
    with pytest.raises(OutOfMemoryError, match="too much"):
        largest_that_fits(need_of, most=512, room=50)


@pytest.fixture
def model(root):
    return runs.make_learner(root, verbose=False)


def test_finding_it_changes_nothing(model, capsys):
    before, frozen = runs.bits(model), model.frozen_groups
    # 96 photos: 64 is the largest power of two.
    assert model.find_batch_size(1000) == 64
    assert runs.bits(model) == before and model.frozen_groups == frozen
    assert model.num_programs == 0 and model.data.batch_size == 8


def test_a_device_with_less_memory_gets_a_smaller_batch(model, monkeypatch):
    trainer, loader = model._trainer, model.data.train_loader
    small, large = (trainer.memory_need(loader, rows) for rows in (2, 8))
    assert small.growing < large.growing and small.rows == 2
    room = (small.total + large.total) // 2
    limit = int(room / batch_size.SHARE_OF_CPU)
    monkeypatch.setattr(batch_size, "memory_limit", lambda device: limit)
    assert 2 <= model.find_batch_size(8) < 8


def test_where_the_device_does_not_tell_the_batch_stays(model, monkeypatch):
    monkeypatch.setattr(batch_size, "memory_limit", lambda device: None)
    assert model.find_batch_size() == model.data.batch_size
    with jax.disable_jit():
        assert model.find_batch_size() == model.data.batch_size


def test_where_the_compiler_does_not_tell_the_batch_stays(model, monkeypatch):
    unknown = MemoryNeed("a step", rows=8, device=None)
    monkeypatch.setattr(model._trainer, "memory_need", lambda loader, rows: unknown)
    assert model.find_batch_size() == model.data.batch_size


def test_a_limit_of_no_photo_is_an_error(model):
    with pytest.raises(ValueError, match="most must be"):
        model.find_batch_size(0)


def test_auto_is_what_the_first_learner_finds(root, capsys):
    data = runs.loaders(root, batch_size="auto")
    assert data.auto_batch_size and "batches of auto" in repr(data)
    model = vision_learner(data, runs.smallest_network, cut=2)
    # 96 photos: more than 8 would leave fewer steps than an epoch needs.
    assert model.data.batch_size == 8 and not model.data.auto_batch_size
    assert "batch_size=8: training every layer group takes" in capsys.readouterr().out
    assert model.fit(1)[0].train_loss > 0
    # The data itself stays as it was, for another network.
    assert data.auto_batch_size and data.with_batch_size(2).batch_size == 2


def test_other_words_are_an_error(root):
    with pytest.raises(TypeError, match="a whole number or 'auto'; received 'large'"):
        ImageDataLoaders.from_folder(root, size=32, batch_size="large")
