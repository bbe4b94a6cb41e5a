"""Maps are fastai's, and where nothing turns pixels are those of Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxtune.data import Augmentation
from jaxtune.data.warp import (
    compose,
    draw_matrix,
    frame,
    in_shape,
    perspective,
    resample,
    rotation,
    symmetry,
    zoom,
)

# fastai 2.8.12 with these draws: where the middles of the pixels in the four corners,
# and of the one at (height // 2, width // 3), come from. In its grid's x, y.
RECORDED = [
    dict(size=(8, 12), symmetry=1, degrees=9.0, zoom=(1.08, 0.2, 0.9),
         tilts=(0.15, -0.1),
         places=[[1.029565, -0.577651], [-0.833028, -0.797076], [0.607967, 1.155778],
                 [-0.88075, 0.662435], [0.092113, 0.335663]]),
    dict(size=(12, 8), symmetry=0, degrees=-7.0, zoom=(1.1, 1.0, 0.0),
         tilts=(-0.2, 0.2),
         places=[[-0.213838, -1.043053], [0.946095, -0.815573], [-1.020729, 0.806081],
                 [0.899723, 0.539682], [-0.032302, -0.238603]]),
    dict(size=(8, 8), symmetry=5, degrees=10.0, zoom=(1.05, 0.3, 0.6),
         tilts=(0.2, 0.2),
         places=[[-0.854536, 0.760166], [-0.908941, -0.710264], [1.289352, 0.880667],
                 [0.368031, -1.046708], [0.005467, 0.167064]]),
    dict(size=(10, 8), symmetry=3, degrees=-3.0, zoom=(0.9, 0.3, 0.6),
         tilts=(0.0, -0.2),
         places=[[1.526247, -0.55405], [1.036046, 0.914612], [-1.396347, -0.691926],
                 [-1.108597, 0.840499], [-0.103069, -0.098946]]),
]  # fmt: skip
EYE = np.eye(3, dtype=np.float32)
shown = jax.jit(resample, static_argnames=("size", "pad_mode", "shrink"))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(height, width, channels=3):
    """Pixels without an edge, of which any decent filter gives the same."""
    y, x = np.mgrid[:height, :width] + 0.5
    waves = [np.sin(x / 7 + k) * np.cos(y / 5 - k) for k in range(channels)]
    return (np.stack(waves, -1) * 100 + 128).round().astype(np.uint8)


def matrix_of(case):
    affine = compose(
        symmetry(case["symmetry"]), rotation(case["degrees"]), zoom(*case["zoom"])
    )
    return compose(perspective(*case["tilts"]), in_shape(affine, case["size"]))


def places_of(matrix, size):
    """Where each pixel comes from, in double precision: x and y in -1..1."""
    height, width = size
    y, x = (np.mgrid[:height, :width] + 0.5) * 2 / np.array([height, width])[
        :, None, None
    ] - 1
    points = np.stack([x, y, np.ones_like(x)], -1) @ np.asarray(matrix, float).T
    return points[..., :2] / points[..., 2:]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: str(case["size"]))
def test_pixels_come_from_where_fastai_takes_them(case):
    height, width = case["size"]
    found = places_of(matrix_of(case), case["size"])
    rows = [0, 0, -1, -1, height // 2]
    columns = [0, -1, 0, -1, width // 3]
    np.testing.assert_allclose(found[rows, columns], case["places"], atol=2e-6)


def coefficients(x, y):
    """fastai's way to the perspective: eight equations for four corners."""
    corners = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    moved = [(u - y * u * v, v - x * u * v) for u, v in corners]
    rows, wanted = [], []
    for (u, v), (a, b) in zip(corners, moved, strict=True):
        rows += [[a, b, 1, 0, 0, 0, -u * a, -u * b], [0, 0, 0, a, b, 1, -v * a, -v * b]]
        wanted += [u, v]
    return np.append(np.linalg.solve(rows, wanted), 1).reshape(3, 3)


@pytest.mark.parametrize("tilts", [(0.2, 0.2), (-0.17, 0.03), (0, 0), (0.4, -0.4)])
def test_perspective_solves_the_equations(tilts):
    np.testing.assert_allclose(perspective(*tilts), coefficients(*tilts), atol=2e-6)


def sampled(image, matrix, size):
    """Bilinear, the mirror image beyond the edges: torch's grid_sample, by hand."""
    height, width = image.shape[:2]

    def folded(place, side):
        place = np.mod((place + 1) * side / 2, 2 * side)
        return np.clip(np.minimum(place, 2 * side - place) - 0.5, 0, side - 1)

    places = places_of(matrix, size)
    x, y = folded(places[..., 0], width), folded(places[..., 1], height)
    left, top = (np.minimum(p.astype(int), n - 2) for p, n in ((x, width), (y, height)))
    x, y = (x - left)[..., None], (y - top)[..., None]
    image = image.astype(float)
    upper = image[top, left] * (1 - x) + image[top, left + 1] * x
    lower = image[top + 1, left] * (1 - x) + image[top + 1, left + 1] * x
    return upper * (1 - y) + lower * y


@pytest.mark.parametrize(
    ("case", "channels"),
    list(zip(RECORDED, (3, 13, 1, 4), strict=True)),
    ids=lambda value: str(value["size"]) if isinstance(value, dict) else str(value),
)
def test_pixels_are_bilinear_and_mirrored_beyond_the_edge(case, channels):
    image = noise(*case["size"], channels)
    matrix = matrix_of(case)
    got = shown(image, matrix, size=case["size"])
    wanted = sampled(image, matrix, case["size"])
    # Weights are rounded, to about one part in 2 ** 14.
    np.testing.assert_allclose(got * 255, wanted, atol=0.02)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((20, 30), (20, 30)), ((20, 30), (32, 48)), ((56, 40), (24, 24))],
)
def test_nothing_drawn_is_the_plain_resize(shape, size):
    image = noise(*shape, 3)
    got = shown(image, EYE, size=size)
    wanted = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    # Pillow rounds to whole grey levels twice.
    assert np.abs(np.asarray(got) * 255 - np.asarray(wanted)).max() <= 1.1


def test_a_crop_is_the_resize_of_a_box():
    image, crop = noise(50, 60, 3), jnp.asarray([0.1, 0.25, 0.8, 0.5])
    got = shown(image, frame(crop), size=(20, 20))
    box = (15, 5, 45, 45)
    wanted = Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR, box=box)
    # At the box's edge the filter sees what is beside it; Pillow cuts it off.
    inner = np.s_[1:-1, 1:-1]
    assert np.abs(np.asarray(got) * 255 - np.asarray(wanted))[inner].max() <= 1.1


@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_what_shrinks_does_not_flicker(degrees):
    """A chessboard of single pixels is grey at half its size, however it is turned."""
    board = np.indices((64, 64)).sum(0)[..., None].astype(np.uint8) % 2 * 255
    got = np.asarray(shown(board, rotation(float(degrees)), size=(32, 32)))
    inner = got[8:-8, 8:-8]
    assert np.abs(inner - 0.5).max() < 0.13
    far = np.asarray(shown(board, zoom(0.5, 0.5, 0.5), size=(64, 64), shrink=2.0))
    assert np.abs(far[20:-20, 20:-20] - 0.5).max() < 0.01


def test_a_turn_is_clockwise_and_there_and_back_is_the_same():
    image = np.zeros((9, 9, 1), np.uint8)
    image[0, 4] = 255
    turned = np.asarray(shown(image, rotation(90.0), size=(9, 9)))[..., 0]
    assert turned[4, 8] == pytest.approx(1, abs=1e-4)
    assert turned.sum() == pytest.approx(1, abs=1e-3)
    for one, other in (
        (rotation(33.0), rotation(-33.0)),
        (zoom(1.25, 0.5, 0.5), zoom(0.8, 0.5, 0.5)),
        (symmetry(3), symmetry(5)),
    ):
        np.testing.assert_allclose(compose(one, other), EYE, atol=1e-6)


def test_zoom_keeps_its_point():
    image = smooth(40, 40)
    for column, row, corner in ((0, 0, (0, 0)), (1, 0, (0, -1)), (0.0, 1.0, (-1, 0))):
        place = places_of(zoom(2.0, column, row), (40, 40))[corner]
        outer = np.array([column, row]) * 2 - 1
        # The corner pixel's middle is half a pixel from the edge, here a quarter.
        np.testing.assert_allclose(np.abs(place - outer), 1 / 80, atol=1e-6)
    half = shown(image, zoom(2.0, 1.0, 0.0), size=(40, 40))
    wanted = Image.fromarray(image[:20, 20:]).resize(
        (40, 40), Image.Resampling.BILINEAR
    )
    inner = np.s_[:-2, 2:]
    assert np.abs(np.asarray(half) * 255 - np.asarray(wanted))[inner].max() <= 1.1


@pytest.mark.parametrize(("pad_mode", "level"), [("zeros", 0), ("border", 200)])
def test_what_lies_beyond_the_photo(pad_mode, level):
    image = np.full((8, 8, 2), 100, np.uint8)
    image[:, -1] = 200
    right = frame(jnp.asarray([0.0, 1.0, 1.0, 1.0]))
    got = shown(image, right, size=(8, 8), pad_mode=pad_mode)
    np.testing.assert_allclose(got * 255, np.full((8, 8, 2), level), atol=1e-3)
    mirrored = shown(image, right, size=(8, 8), pad_mode="reflection")
    np.testing.assert_allclose(mirrored * 255, image[:, ::-1], atol=1e-3)


def test_the_eight_symmetries_are_eight():
    image = noise(5, 5, 1)
    seen = {
        np.asarray(shown(image, symmetry(i), size=(5, 5)) * 255).round().tobytes()
        for i in range(8)
    }
    wanted = {
        np.rot90(side, turns).astype(np.float32).tobytes()
        for side in (image, image[:, ::-1])
        for turns in range(4)
    }
    assert seen == wanted
    same = shown(image, symmetry(0), size=(5, 5))
    mirror = shown(image, symmetry(1), size=(5, 5))
    np.testing.assert_allclose(same * 255, image, atol=1e-3)
    np.testing.assert_allclose(mirror * 255, image[:, ::-1], atol=1e-3)


draw_many = jax.jit(
    jax.vmap(draw_matrix, in_axes=(0, None, None, None)), static_argnums=(2, 3)
)


def drawn(augmentation, number=4000, flip=False, size=(8, 8)):
    keys = jax.random.split(jax.random.key(1), 4000)
    matrices = draw_many(keys, jnp.asarray(flip), size, augmentation)
    return np.asarray(matrices, np.float64)[:number]


def only(**options):
    return Augmentation(min_scale=1, **options)


def uniform(values, low, high):
    middle, spread = (low + high) / 2, (high - low) / 12**0.5
    assert low - 1e-4 <= values.min() and values.max() <= high + 1e-4
    assert values.mean() == pytest.approx(middle, abs=0.07 * spread)
    assert values.std() == pytest.approx(spread, rel=0.04)


def test_angles_are_uniform_and_some_are_none():
    matrices = drawn(only(max_rotate=10))
    angles = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    moved = angles[angles != 0]
    assert len(moved) / 4000 == pytest.approx(0.75, abs=0.03)
    uniform(moved, -10, 10)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-5)


def test_zooms_are_uniform_about_uniform_points():
    matrices = drawn(only(max_zoom=1.5, min_zoom=0.8))
    zooms = 1 / matrices[:, 0, 0]
    moved = zooms != 1
    assert moved.mean() == pytest.approx(0.75, abs=0.03)
    uniform(zooms[moved], 0.8, 1.5)
    far = np.abs(zooms - 1) > 0.1
    points = matrices[far][:, :2, 2] / (1 - matrices[far, 0, 0])[:, None]
    for axis in range(2):
        uniform(points[:, axis], -1, 1)
    assert abs(np.corrcoef(points.T)[0, 1]) < 0.06
    assert (matrices[~moved] == np.eye(3)).all()


def test_tilts_are_uniform_each_by_itself():
    matrices = drawn(only(max_warp=0.2))
    # Where the lower right corner has gone.
    corner = np.linalg.solve(matrices, np.ones((4000, 3, 1)))[..., 0]
    tilts = (1 - corner[:, :2] / corner[:, 2:])[:, ::-1]
    still = np.abs(tilts) < 1e-6
    for axis in range(2):
        assert still[:, axis].mean() == pytest.approx(0.25, abs=0.03)
        uniform(tilts[~still[:, axis], axis], -0.2, 0.2)
    assert still.all(axis=1).mean() == pytest.approx(0.0625, abs=0.015)
    assert abs(np.corrcoef(tilts.T)[0, 1]) < 0.06


def test_p_affine_of_0_and_1():
    every = dict(max_rotate=10, max_zoom=1.1, max_warp=0.2)
    assert (drawn(only(p_affine=0, **every), 100) == np.eye(3)).all()
    moved = drawn(only(p_affine=1, **every), 100)
    assert (np.abs(moved - np.eye(3)).max(axis=(1, 2)) > 1e-4).all()


def test_flips_are_mirrors_or_one_of_eight():
    mirrored = drawn(only(max_rotate=10, p_affine=0), 50, flip=True)
    assert (mirrored == np.diag([-1, 1, 1])).all()
    some = drawn(only(flip_vert=True), 4000, flip=True)
    kinds, counts = np.unique(some.reshape(4000, 9), axis=0, return_counts=True)
    assert len(kinds) == 8
    np.testing.assert_allclose(counts / 4000, 1 / 8, atol=0.025)
    assert (drawn(only(flip_vert=True), 50, flip=False) == np.eye(3)).all()


def test_order_is_fastais_zoom_first():
    """Each draw by itself, put together by hand, is the draw of all."""
    size, bound = (12, 8), dict(max_rotate=10, max_zoom=1.3, max_warp=0.2)
    together = drawn(only(**bound), 20, flip=True, size=size)
    square = (8, 8)
    turn = drawn(only(max_rotate=10), 20, size=square)
    near = drawn(only(max_zoom=1.3), 20, size=square)
    tilt = drawn(only(max_warp=0.2), 20, size=square)
    affine = np.diag([-1.0, 1, 1]) @ turn @ near
    affine[:, 0, 1] *= 12 / 8
    affine[:, 1, 0] *= 8 / 12
    np.testing.assert_allclose(together, tilt @ affine, atol=1e-6)


def test_places_behind_the_viewer_give_pixels_all_the_same():
    steep = compose(perspective(0.5, 0.5), zoom(0.5, 0.5, 0.5))
    got = np.asarray(shown(smooth(16, 16), steep, size=(16, 16)))
    assert np.isfinite(got).all() and 0 <= got.min() and got.max() <= 1


def test_it_composes_with_vmap():
    image = smooth(16, 16)
    angles = jnp.asarray([0.0, 5.0, -5.0])
    several = jax.jit(
        jax.vmap(lambda a: resample(jnp.asarray(image), rotation(a), size=(12, 12)))
    )(angles)
    for angle, one in zip(angles, several, strict=True):
        alone = shown(image, rotation(angle), size=(12, 12))
        np.testing.assert_allclose(one, alone, atol=1e-5)
