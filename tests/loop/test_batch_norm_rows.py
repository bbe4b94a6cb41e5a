import numpy as np
import pytest
import runs
from flax import nnx

from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.loop.batch_norm_rows import check_enough_rows
from jaxtune.models import BatchNorm, Conv, Sequential
from jaxtune.transfer import evaluating


def photos(count, batch_size):
    train, valid = (
        np.random.RandomState(i).randint(0, 255, (count, 16, 16, 3), np.uint8)
        for i in range(2)
    )
    labels = np.array(["ant", "bee"] * 8)[:count]
    return ImageDataLoaders.from_arrays(
        (train, labels), (valid, labels), size=16, batch_size=batch_size, workers=0,
        augmentation=None, classes=["ant", "bee"],
    )  # fmt: skip


def learner(data, **options):
    return vision_learner(
        data, runs.smallest_network, cut=2, verbose=False, **{"hidden": (4,)} | options
    )


MESSAGE = r"head.bn1 normalises over the batch.*batch_size=2.*accumulation_steps does"


def test_batches_of_one_photo_are_refused_before_training():
    model = learner(photos(4, 1), gradient_accumulation_steps=2)
    before = runs.bits(model)
    for train in (
        lambda: model.fit(1),
        lambda: model.fine_tune(1),
        lambda: model.lr_find(num_it=8),
    ):
        with pytest.raises(ValueError, match=MESSAGE):
            train()
    assert (runs.bits(model), model.num_programs, len(model.history)) == (before, 0, 0)
    # To validate and to predict, one is enough.
    assert np.isfinite(model.validate()["loss"])
    assert model.predict(np.zeros((16, 16, 3), np.uint8)).label in ("ant", "bee")


@pytest.mark.filterwarnings("ignore")  # The data warns of all that is odd about it.
def test_one_photo_to_train_on_is_refused():
    with pytest.raises(ValueError, match=MESSAGE):
        learner(photos(1, 8)).fit(1)


def test_a_head_without_batch_norm_trains_on_one():
    model = learner(photos(4, 1), hidden=(), first_bn=False)
    history = model.fit(2, 1e-3)
    assert all(np.isfinite(row.valid_loss) for row in history)
    # The body's is frozen at first; then it sees a whole map of each photo.
    model.unfreeze()
    assert np.isfinite(model.fit(1, 1e-3)[-1].valid_loss)


def test_what_counts_is_what_a_norm_sees():
    size = {"size": (4, 4), "in_channels": 3}
    for norm in (BatchNorm(2), nnx.BatchNorm(2, rngs=nnx.Rngs(0))):
        network = Sequential({"conv": Conv(3, 2, 1, rngs=nnx.Rngs(0)), "norm": norm})
        check_enough_rows(network, 1, **size)
        network[0] = Conv(3, 2, 4, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match="norm normalises over the batch"):
            check_enough_rows(network, 1, **size)
        check_enough_rows(network, 2, **size)
        check_enough_rows(evaluating(network), 1, **size)
