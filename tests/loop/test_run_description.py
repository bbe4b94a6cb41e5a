import functools
import json

import optax
from photos import make_photos

from jaxtune import Augmentation, ImageDataLoaders
from jaxtune.loop.run_description import (
    describe_data,
    describe_groups,
    function_named,
    name_of,
)
from jaxtune.train import cross_entropy, error_rate, sgd, weighted_cross_entropy


def describe(root, **options):
    options = {"size": 16, "batch_size": 8, "seed": 0, **options}
    return json.dumps(describe_data(ImageDataLoaders.from_folder(root, **options)))


def test_what_changes_the_batches_changes_the_description(tmp_path):
    root = make_photos(tmp_path / "a", train=4, valid=2)
    first = describe(root)
    assert first == describe(root)
    others = [
        describe(root, size=24),
        describe(root, batch_size=4),
        describe(root, seed=1),
        describe(root, augmentation=None),
        describe(root, augmentation=Augmentation(min_scale=0.5)),
        describe(root, on_error="skip"),
    ]
    photo = next((root / "train" / "red").iterdir())
    photo.rename(photo.with_name("other.png"))
    others.append(describe(root))
    assert len({first, *others}) == 8


def test_functions_of_ones_own_are_told_apart(tmp_path):
    root = make_photos(tmp_path / "a", train=4, valid=2)

    def described(function):
        return describe(root, augmentation=Augmentation(functions=function))

    def scaled(factor):
        return lambda image, key: image * factor

    first = described(scaled(0.5))
    assert first == described(scaled(0.5)) != describe(root)
    assert first != described(scaled(0.25))
    (function,) = json.loads(first)["augmentation"]["functions"]
    assert function["name"].endswith("scaled.<locals>.<lambda>")
    assert "functions" not in json.loads(describe(root))["augmentation"]


def test_what_changes_no_batch_does_not(tmp_path):
    first = describe(make_photos(tmp_path / "a", train=4, valid=2))
    moved = make_photos(tmp_path / "elsewhere" / "b", train=4, valid=2)
    assert first == describe(moved, workers=0, cache_bytes=0)


def test_groups_as_json():
    groups = {"early": r"body\.", "head": frozenset({"head.b", "head.a"})}
    assert describe_groups(groups) == {"early": "body\\.", "head": ["head.a", "head.b"]}


def test_names_of_functions_are_the_same_in_every_process():
    assert name_of(cross_entropy) == "jaxtune.train.losses.cross_entropy"
    partial = functools.partial(optax.adamw, 1e-3, b1=0.9)
    assert name_of(partial).endswith("adamw(0.001, b1=0.9)")

    class Loss:
        def __call__(self, logits, label):
            return logits

    assert name_of(Loss()).endswith("Loss") and "0x" not in name_of(Loss())


def test_a_name_gives_back_jaxtunes_own_functions_and_no_others():
    weighted = weighted_cross_entropy([1.0, 0.5], label_smoothing=0.1)
    for function in (cross_entropy, error_rate, sgd, weighted):
        found = function_named(name_of(function))
        assert name_of(found) == name_of(function)
        if function is not weighted:
            assert found is function
    assert found.keywords == weighted.keywords
    for name in (
        "os.system('true')",
        "builtins.eval",
        "jaxtune.train.losses._weights_of",
        "jaxtune.train.losses.cross_entropy(label_smoothing=print('here'))",
        "other.losses.cross_entropy",
        "jaxtune.train.losses.cross_entropy(",
        "",
    ):
        assert function_named(name) is None
