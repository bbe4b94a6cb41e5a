import dataclasses
import inspect
import json

import pytest

from jaxtune.data import Augmentation, aug_transforms


def test_the_constants_are_those_of_fastai():
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(aug_transforms).parameters.items()
    }
    fastai = {
        "mult": 1.0,
        "do_flip": True,
        "flip_vert": False,
        "max_rotate": 10.0,
        "min_zoom": 1.0,
        "max_zoom": 1.1,
        "max_lighting": 0.2,
        "max_warp": 0.2,
        "p_affine": 0.75,
        "p_lighting": 0.75,
        "min_scale": 1.0,
        "pad_mode": "reflection",
    }
    assert fastai.items() <= found.items()
    drawn = dataclasses.asdict(aug_transforms())
    assert drawn.pop("flip") and drawn.pop("ratio") is None
    assert drawn.pop("max_scale") == 1.0 and drawn.pop("functions") == ()
    assert drawn == {k: v for k, v in fastai.items() if k not in ("mult", "do_flip")}


def test_mult_multiplies_angle_light_and_warp():
    twice, plain = aug_transforms(mult=2), aug_transforms()
    changed = {
        name
        for name, value in dataclasses.asdict(twice).items()
        if value != getattr(plain, name)
    }
    assert changed == {"max_rotate", "max_lighting", "max_warp"}
    assert (twice.max_rotate, twice.max_lighting, twice.max_warp) == (20, 0.4, 0.4)


def test_the_defaults_draw_a_crop_and_a_flip_and_nothing_else():
    plain = Augmentation()
    assert not plain.warps and not plain.max_lighting
    for option in (
        {"max_rotate": 1},
        {"max_warp": 0.1},
        {"max_zoom": 1.1},
        {"min_zoom": 0.9},
        {"flip_vert": True},
    ):
        assert Augmentation(**option).warps
    assert not Augmentation(max_lighting=0.2).warps


def test_how_small_crops_get():
    assert Augmentation(min_scale=0.35).smallest_share == 0.35
    # Of a photo of 4:3, a square has three quarters of one side.
    assert aug_transforms(min_scale=0.5).smallest_share ** 0.5 == pytest.approx(
        0.5**0.5 * 3 / 4
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_scale": 0},
        {"min_scale": 0.5, "max_scale": 0.4},
        {"max_scale": 1.5},
        {"ratio": (2, 1)},
        {"ratio": (0, 1)},
        {"ratio": (1,)},
        {"flip": False, "flip_vert": True},
        {"max_rotate": -1},
        {"max_rotate": 181},
        {"min_zoom": 0},
        {"min_zoom": 1.2, "max_zoom": 1.1},
        {"max_warp": 0.6},
        {"max_lighting": 1},
        {"p_affine": 1.1},
        {"p_lighting": -0.1},
        {"min_scale": float("nan")},
    ],
)
def test_impossible_augmentations_are_refused(wrong):
    with pytest.raises(ValueError, match="Augmentation needs.*got|must be") as error:
        Augmentation(**wrong)
    name, value = list(wrong.items())[-1]
    assert name in str(error.value) and repr(value) in str(error.value)


def test_augmentations_are_values():
    assert Augmentation(ratio=[0.5, 2.0]) == Augmentation(ratio=(0.5, 2.0))
    assert len({Augmentation(), Augmentation(), Augmentation(flip=False)}) == 2


@pytest.mark.parametrize("augmentation", [Augmentation(), aug_transforms(mult=2)])
def test_they_survive_json(augmentation):
    text = json.dumps(dataclasses.asdict(augmentation))
    again = Augmentation(**json.loads(text))
    assert again == augmentation and hash(again) == hash(augmentation)
