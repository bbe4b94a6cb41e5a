import jax
import numpy as np
import pytest
from kinds import make_data, make_model, plain_outputs

from jaxtune.data import (
    ImageDataLoaders,
    ImageError,
    augment,
    find_images,
    label_items,
    per_image_keys,
)
from jaxtune.results.interpretation import (
    ClassificationInterpretation,
    RegressionInterpretation,
)
from jaxtune.train import binary_cross_entropy, cross_entropy, mse

LOSSES = {"single": cross_entropy, "multi": binary_cross_entropy, "regression": mse}
ACTIVATIONS = {
    "single": jax.nn.softmax,
    "multi": jax.nn.sigmoid,
    "regression": lambda x: x,
}
KINDS = list(LOSSES)


@pytest.fixture(scope="module")
def models(root):
    return {kind: make_model(make_data(root, kind)) for kind in KINDS}


def photos(loader):
    return np.concatenate([b["image"][b["mask"]] for b in loader.batches()])


@pytest.mark.parametrize("kind", KINDS)
def test_every_photo_once_in_order_with_its_loss(models, kind):
    model = models[kind]
    found = model.get_preds(with_loss=True, with_decoded=True)
    outputs = plain_outputs(model, photos(model.data.valid_loader))
    assert found.probabilities.dtype == np.float32
    expected = np.asarray(ACTIVATIONS[kind](outputs))
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-6)
    labels = model.data.valid_items.labels
    np.testing.assert_array_equal(found.targets, labels)
    np.testing.assert_array_equal(found.index, np.arange(21))
    losses = LOSSES[kind](jax.numpy.asarray(outputs), jax.numpy.asarray(labels))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4, atol=1e-6)
    assert found.losses.mean() == pytest.approx(model.validate()["loss"], rel=1e-5)
    if kind == "single":
        np.testing.assert_array_equal(found.decoded, expected.argmax(1))
    if kind == "multi":
        strict = model.get_preds(with_decoded=True, thresh=0.9).decoded
        np.testing.assert_array_equal(found.decoded, expected > 0.5)
        np.testing.assert_array_equal(strict, expected > 0.9)


def test_predictions_are_those_of_predict(models):
    model = models["single"]
    paths = list(model.data.valid_items.paths)
    rows = np.stack([one.probabilities for one in model.predict(paths)])
    probabilities, _ = model.get_preds()
    np.testing.assert_allclose(probabilities, rows, atol=1e-6)


def test_training_photos_in_order_and_one_program_for_all(models):
    model = models["single"]
    model.get_preds(with_loss=True)
    before = model.num_programs
    found = model.get_preds("train", with_loss=True)
    items = model.data.train_items
    np.testing.assert_array_equal(found.targets, items.labels)
    image = model.data.prepare_image(items.paths[50])
    expected = jax.nn.softmax(plain_outputs(model, image[None]))[0]
    np.testing.assert_allclose(found.probabilities[50], expected, atol=1e-6)
    np.testing.assert_array_equal(model.get_preds(model.data.train_loader)[0], found[0])
    assert model.num_programs == before


def test_tta_is_the_mean_of_draws_and_of_the_plain_photo(models):
    model = models["single"]
    data, n, beta = model.data, 3, 0.25
    found = model.tta(n=n, beta=beta, with_decoded=True)
    plain = model.get_preds()[0]
    preparation = data.train_loader.preparation
    both = [preparation(path) for path in data.valid_items.paths]
    images = np.stack([image for image, _ in both])
    aspect = np.array([aspect for _, aspect in both], np.float32)
    key = jax.random.fold_in(jax.random.key(model.seed), 2**31 - 1)
    draws = []
    for i in range(n):
        keys = per_image_keys(jax.random.fold_in(key, i), np.arange(21))
        options = {"size": data.size, "augmentation": data.augmentation}
        drawn = augment(images, aspect, keys, **options)
        pixels = np.asarray(drawn * 255)
        draws.append(jax.nn.softmax(plain_outputs_of_floats(model, pixels / 255)))
    expected = (1 - beta) * np.mean(draws, axis=0) + beta * plain
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
    assert np.abs(found.probabilities - plain).max() > 1e-3
    np.testing.assert_array_equal(found.decoded, found.probabilities.argmax(1))
    np.testing.assert_array_equal(found.targets, data.valid_items.labels)
    largest = model.tta(n=n, use_max=True).probabilities
    np.testing.assert_allclose(largest, np.max([*draws, plain], axis=0), atol=2e-5)
    np.testing.assert_array_equal(model.tta(n=n, beta=beta)[0], found[0])
    np.testing.assert_allclose(model.tta(n=1, beta=1.0)[0], plain, atol=1e-7)


def plain_outputs_of_floats(model, images):
    from jaxtune import evaluating, normalize

    programs = model._trainer.programs
    return evaluating(model.model)(
        normalize(jax.numpy.asarray(images), programs.mean, programs.std)
    )


def test_tta_draws_do_not_depend_on_the_batch(models):
    model = models["single"]
    loader = model.data.valid_loader
    one = model.tta(loader, n=2).probabilities
    reordered = make_data_like(loader, batch_size=3)
    np.testing.assert_allclose(model.tta(reordered, n=2)[0], one, atol=1e-6)


def make_data_like(loader, **options):
    from jaxtune.data import Loader

    return Loader(loader.items, loader.preparation, workers=0, **options)


def test_tta_says_what_it_needs(models, root):
    with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
        models["single"].tta(n=0)
    with pytest.raises(ValueError, match="needs an augmentation, and the data's is No"):
        make_model(make_data(root, "single", augmentation=None)).tta()
    with pytest.raises(TypeError, match=r"loader\[0\]: a photo is a path"):
        models["single"].tta([1])


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_shown_green_and_red(models, kind):
    pytest.importorskip("matplotlib")
    model = models[kind]
    figure = model.show_results(max_n=5)
    assert len(figure.axes) == 5
    titles = [axes.get_title().split("\n") for axes in figure.axes]
    colors = [axes.title.get_color() for axes in figure.axes]
    if kind == "regression":
        assert set(colors) == {"black"}
        assert {actual for actual, _ in titles} <= {"1", "2", "4"}
    else:
        rights = [actual == said for actual, said in titles]
        assert [c == "#1a7f37" for c in colors] == rights
        assert [c == "#cf222e" for c in colors] == [not right for right in rights]
    # The photo under a title is that photo.
    shown = np.asarray(figure.axes[0].images[0].get_array())
    position = np.sort(np.random.RandomState(0).permutation(21)[:5])[0]
    path = model.data.valid_items.paths[position]
    np.testing.assert_array_equal(shown, model.data.prepare_image(path))
    again = [axes.get_title() for axes in model.show_results(max_n=5).axes]
    assert again == ["\n".join(title) for title in titles]
    assert len(model.show_results(max_n=50).axes) == 21


def test_interpret_takes_what_fits(models):
    assert type(models["single"].interpret()) is ClassificationInterpretation
    assert type(models["multi"].interpret(thresh=0.3)) is ClassificationInterpretation
    assert type(models["regression"].interpret()) is RegressionInterpretation


def test_other_photos_without_labels(models, root, tmp_path):
    model = models["single"]
    photos, plain = list(model.data.valid_items.paths), model.get_preds()
    for given in (photos, iter(photos), root / "valid", f"{root}/valid/*/*.png",
                  model.data.test_loader(photos)):  # fmt: skip
        found, targets = model.get_preds(given)
        assert targets is None
        np.testing.assert_array_equal(found, plain.probabilities)
    said = model.get_preds(photos, with_decoded=True)
    assert len(said) == 3 and said[1] is None and "targets" not in repr(said)
    np.testing.assert_array_equal(model.tta(photos, n=1)[0], model.tta(n=1)[0])
    loose = tmp_path / "loose.png"
    loose.write_bytes(photos[0].read_bytes())
    unlabelled = model.data.test_loader(photos)
    for call in (model.interpret, model.validate):
        with pytest.raises(ValueError, match=r"Labels are needed here.*labels=\["):
            call([loose])
        with pytest.raises(ValueError, match="photos without labels"):
            call(unlabelled)
    with pytest.raises(ValueError, match="Labels are needed here"):
        model.get_preds(loose, with_loss=True)
    with pytest.raises(ImageError, match=r"loader\[1\]: Cannot read"):
        model.get_preds([loose, __file__])
    pytest.importorskip("matplotlib")
    shown = model.show_results([loose, photos[20]])
    assert shown.texts[0].get_text() == "Predicted"
    names = [one.label for one in model.predict([loose, photos[20]])]
    assert [axes.get_title() for axes in shown.axes] == names


def test_other_photos_with_labels(models, root):
    model = models["single"]
    photos, plain = list(model.data.valid_items.paths), model.get_preds(with_loss=True)
    for given in (root / "valid", photos):  # folders named like the classes
        found = model.get_preds(given, with_loss=True)
        np.testing.assert_array_equal(found.targets, plain.targets)
        np.testing.assert_array_equal(found.losses, plain.losses)
        assert model.validate(given) == model.validate()
        assert model.interpret(given).report().accuracy == model.interpret().report(
        ).accuracy  # fmt: skip
    given = model.data.test_loader(photos[:2], labels=["red", "blue"])
    assert model.interpret(given).predictions.targets.tolist() == [2, 0]
    # Other data: fewer classes, in another order, another batch and split.
    splits = []
    for split in ("train", "valid"):
        few = [*find_images(root / split / "blue"), *find_images(root / split / "red")]
        names = [path.parent.name for path in few]
        splits.append(label_items(few, names, classes=["red", "blue"]))
    other = ImageDataLoaders(*splits, size=16, batch_size=4, workers=0)
    assert len(model.get_preds(other.train_loader)[1]) == 64
    for given in (other, other.valid_loader):
        found = model.get_preds(given)
        assert found.targets.tolist() == [0] * 7 + [2] * 7
        np.testing.assert_allclose(
            found.probabilities, plain.probabilities[plain.targets != 1], atol=1e-6
        )
    grey = make_data(root, "single", in_channels=1)
    with pytest.raises(ValueError, match="loader gives images of 1 channels"):
        model.get_preds(grey)
