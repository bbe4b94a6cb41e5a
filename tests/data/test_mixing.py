import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.data import CutMix, MixUp, check_mixing, mix, partners

mixed = jax.jit(mix, static_argnames="mixing")
KEY = jax.random.key(0)
ALL = (True,) * 6


def batch(rows=6, size=(8, 10), channels=1):
    """Each image has one value, by which it is known; labels are their numbers."""
    values = np.arange(1, rows + 1, dtype=np.float32)[:, None, None, None]
    images = np.broadcast_to(values, (rows, *size, channels))
    return jnp.asarray(images), jnp.arange(rows, dtype=jnp.int32)


many = jax.jit(
    jax.vmap(
        lambda key, mask, mixing: mix(*batch(), key, mixing, mask=mask),
        in_axes=(0, None, None),
    ),
    static_argnums=2,
)


def several(mixing, number=2000, mask=ALL):
    """What comes out of so many keys."""
    # Always as many, for another number would be another program.
    found = many(jax.random.split(KEY, 2000), jnp.asarray(mask), mixing)
    return [np.asarray(x)[:number] for x in found]


def test_mixup_blends_each_image_with_its_partner():
    images, labels = batch()
    out, others, weight = mixed(images, labels, KEY, MixUp())
    assert out.shape == images.shape and others.dtype == labels.dtype
    assert sorted(others.tolist()) == labels.tolist()
    for i, (other, share) in enumerate(zip(others, weight, strict=True)):
        wanted = share * images[i] + (1 - share) * images[other]
        np.testing.assert_allclose(out[i], wanted, rtol=1e-6)
    assert len(set(weight.tolist())) == 6, "a weight of its own for each image"


@pytest.mark.parametrize("alpha", [0.4, 2.0])
def test_mixups_weights_are_the_larger_of_beta(alpha):
    _, _, weight = several(MixUp(alpha))
    rng = np.random.default_rng(0)
    beta = rng.beta(alpha, alpha, 200_000)
    wanted = np.maximum(beta, 1 - beta)
    assert 0.5 <= weight.min() and weight.max() <= 1
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(
        np.quantile(weight, quantiles), np.quantile(wanted, quantiles), atol=0.03
    )


def test_partners_are_any_permutation():
    _, others, _ = several(MixUp(), mask=(True, False, True, False, False, True))
    kinds, counts = np.unique(others[:, [0, 2, 5]], axis=0, return_counts=True)
    assert len(kinds) == 6 and set(kinds.ravel()) == {0, 2, 5}
    np.testing.assert_allclose(counts / 2000, 1 / 6, atol=0.035)
    _, others, _ = several(MixUp())
    for row in range(6):  # a partner is any row, itself too
        counts = np.bincount(others[:, row], minlength=6)
        np.testing.assert_allclose(counts / 2000, 1 / 6, atol=0.035)


def test_cutmix_fills_one_box_and_weighs_by_what_is_left():
    images, labels = batch()
    for seed in range(8):
        key = jax.random.key(seed)
        out, others, weight = mixed(images, labels, key, CutMix())
        assert len(set(weight.tolist())) == 1
        replaced = np.asarray(out) != np.asarray(images)
        box = replaced.any(axis=(0, 3))
        rows, columns = box.any(axis=1), box.any(axis=0)
        assert (box == np.outer(rows, columns)).all()
        for line in (rows, columns):  # of one piece
            assert (np.diff(line.astype(int)) != 0).sum() <= 2
        assert float(weight[0]) == pytest.approx(1 - box.mean(), abs=1e-6)
        for i, other in enumerate(others):
            wanted = np.where(box[..., None], images[other], images[i])
            np.testing.assert_array_equal(out[i], wanted)


def fastai_box(rng, alpha, height, width):
    """fastai's `rand_bbox`, and the weight from the area there is."""
    cut = np.sqrt(1 - rng.beta(alpha, alpha))
    area = 1.0
    for side in (width, height):
        half = int(np.round(side * cut)) // 2
        middle = rng.integers(0, side)
        area *= min(middle + half, side) - max(middle - half, 0)
    return 1 - area / (height * width)


def test_cutmixs_weights_are_fastais():
    _, _, weight = several(CutMix())
    assert (weight == weight[:, :1]).all()
    rng = np.random.default_rng(1)
    wanted = [fastai_box(rng, 1.0, 8, 10) for _ in range(20_000)]
    quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
    np.testing.assert_allclose(
        np.quantile(weight[:, 0], quantiles), np.quantile(wanted, quantiles), atol=0.04
    )


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
def test_padding_mixes_with_padding(mixing):
    real = np.array([True, True, False, True, False, True])
    mask = jnp.asarray(real)
    _, others, _ = several(mixing, mask=real)
    assert real[others[:, real]].all() and not real[others[:, ~real]].any()
    # Whatever is in the padding makes no difference to real rows.
    values, labels = batch()
    garbage = jnp.where(mask[:, None, None, None], values, jnp.nan)
    clean = mixed(values, labels, KEY, mixing, mask=mask)
    dirty = mixed(garbage, labels, KEY, mixing, mask=mask)
    np.testing.assert_array_equal(clean[0][mask], dirty[0][mask])
    partners = {tuple(row) for row in others[:, real]}
    assert len(partners) == 24, "all permutations of the real rows"


def test_no_mask_is_a_mask_of_real_rows():
    images, labels = batch()
    for one, other in zip(
        mixed(images, labels, KEY, MixUp()),
        mixed(images, labels, KEY, MixUp(), mask=jnp.ones(6, bool)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
def test_the_key_decides_it_all(mixing):
    images, labels = batch()
    same = mixed(images, labels, KEY, mixing)
    again = mixed(images, labels, KEY, mixing)
    other = mixed(images, labels, jax.random.key(1), mixing)
    for one, two in zip(same, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (np.asarray(same[2]) != np.asarray(other[2])).any()


@pytest.mark.parametrize(
    ("labels", "channels", "dtype"),
    [
        (jnp.ones((4, 3)), 1, jnp.float32),
        (jnp.arange(4.0), 13, jnp.bfloat16),
    ],
)
def test_any_labels_any_channels_and_half_precision(labels, channels, dtype):
    images, _ = batch(4, (4, 4), channels)
    out, others, weight = mixed(images.astype(dtype), labels, KEY, MixUp())
    assert out.dtype == dtype and out.shape == (4, 4, 4, channels)
    assert others.shape == labels.shape and others.dtype == labels.dtype
    assert weight.dtype == jnp.float32


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
def test_a_real_row_alone_is_its_own_partner(mixing):
    images, others, _ = several(mixing, 100, mask=(False,) * 3 + (True,) + (False,) * 2)
    assert (others[:, 3] == 3).all()
    np.testing.assert_allclose(images[:, 3], 4.0, rtol=1e-6)


def test_images_have_a_gradient():
    images, labels = batch()
    slope = jax.grad(lambda x: mixed(x, labels, KEY, MixUp())[0].sum())(images)
    np.testing.assert_allclose(slope.sum(), images.size, rtol=1e-4)


def test_what_is_no_mixing_is_refused():
    with pytest.raises(
        TypeError, match=r"MixUp\(...\), CutMix\(...\) or a function.*or None.*received"
    ):
        check_mixing("mixup")
    for kind in (MixUp, CutMix):
        for alpha in (0, -1.0, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="alpha is .*number.*received"):
                kind(alpha)
    assert check_mixing(None) is None
    assert len({MixUp(), MixUp(0.4), CutMix(0.4), CutMix()}) == 3


def halves(images, labels, key, mask):
    """The right half of every image is another's."""
    partner = partners(key, mask)
    left = jnp.arange(images.shape[2]) < images.shape[2] // 2
    images = jnp.where(left[:, None], images, images[partner])
    return images, labels[partner], jnp.full(mask.shape, 0.5)


def test_a_function_of_ones_own_mixes():
    images, labels = batch()
    check_mixing(halves)
    real = jnp.asarray([True] * 4 + [False] * 2)
    out, others, weight = mixed(images, labels, KEY, halves, mask=real)
    half = images.shape[2] // 2
    assert (out[:, :, :half] == images[:, :, :half]).all() and (weight == 0.5).all()
    partner = partners(KEY, real)
    assert sorted(partner[:4].tolist()) == [0, 1, 2, 3]
    assert (out[:, :, half:] == images[partner][:, :, half:]).all()
    assert (others == labels[partner]).all()


def test_what_mixes_wrongly_is_said():
    images, labels = batch()
    with pytest.raises(TypeError, match="does not take these four"):
        check_mixing(lambda images, labels: images)
    with pytest.raises(TypeError, match=r"MixUp\(...\) with brackets"):
        check_mixing(MixUp)
    for wrong in (lambda i, y, k, m: i, lambda i, y, k, m: (i[:1], y, m)):
        with pytest.raises(TypeError, match="must return images, labels and weights"):
            mix(images, labels, KEY, wrong)
