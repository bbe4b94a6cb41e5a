import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.models import BatchNorm
from jaxtune.train import split_module
from jaxtune.transfer import ConcatPool, create_head, evaluating


def size(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(split_module(module)[1]))


def test_concat_pool_is_maximum_then_mean():
    x = jnp.arange(24.0).reshape(1, 2, 3, 4)
    y = ConcatPool()(x)
    np.testing.assert_allclose(y[0, :4], x[0].reshape(-1, 4).max(0))
    np.testing.assert_allclose(y[0, 4:], x[0].reshape(-1, 4).mean(0))
    assert ConcatPool.features(512) == 1024


def test_the_default_head_is_fastais():
    head = create_head(512, 37, rngs=nnx.Rngs(0))
    assert head.names == (
        *("pool", "bn1", "dropout1", "linear1", "relu1"),
        *("bn2", "dropout2", "linear2"),
    )
    assert size(head) == 546_304
    assert head.dropout1.rate == 0.25 and head.dropout2.rate == 0.5
    shapes = {
        ".".join(path): leaf.shape
        for path, leaf in nnx.to_flat_state(nnx.state(head, nnx.Param))
    }
    assert shapes == {
        "bn1.weight": (1024,),
        "bn1.bias": (1024,),
        "linear1.weight": (1024, 512),
        "bn2.weight": (512,),
        "bn2.bias": (512,),
        "linear2.weight": (512, 37),
    }
    assert (head.bn1.bias[...] == 1e-3).all() and (head.bn1.weight[...] == 1).all()
    # Kaiming normal: the deviation of the first layer is sqrt(2 / 1024).
    assert float(head.linear1.weight[...].std()) == pytest.approx(0.0442, rel=0.01)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"hidden": ()}, ["pool", "bn1", "dropout1", "linear1"]),
        ({"hidden": (), "dropout": 0.0}, ["pool", "bn1", "linear1"]),
        (
            {"hidden": (), "dropout": 0.0, "first_bn": False, "bn_final": True},
            ["pool", "linear1", "bn_final"],
        ),
        (
            {"hidden": (8,), "lin_first": True, "dropout": 0.5},
            ["pool", "dropout0", "linear1", "relu1", "bn1", "dropout1", "linear2"],
        ),
        (
            {"hidden": (8, 6), "dropout": [0.0, 0.1, 0.2]},
            [
                *("pool", "bn1", "linear1", "relu1"),
                *("bn2", "dropout2", "linear2", "relu2", "bn3", "dropout3", "linear3"),
            ],
        ),
    ],
)
def test_options_make_fastais_layers(options, names):
    head = create_head(4, 3, **options, rngs=nnx.Rngs(0))
    assert list(head.names) == names
    assert evaluating(head)(jnp.ones((2, 5, 5, 4))).shape == (2, 3)


def test_a_linear_layer_without_a_norm_before_it_has_a_bias():
    head = create_head(4, 3, hidden=(), first_bn=False, rngs=nnx.Rngs(0))
    assert "bias" in nnx.state(head, nnx.Param)["linear1"]
    final = create_head(4, 3, hidden=(), bn_final=True, rngs=nnx.Rngs(0)).bn_final
    assert isinstance(final, BatchNorm) and final.momentum == 0.01


def test_average_pooling_alone_halves_the_input():
    head = create_head(4, 3, concat_pool=False, rngs=nnx.Rngs(0))
    assert head.linear1.weight.shape == (4, 512)


def test_y_range_bounds_the_output():
    head = create_head(4, 1, y_range=(-1, 3), rngs=nnx.Rngs(0))
    y = evaluating(head)(1e3 * jax.random.normal(jax.random.key(0), (64, 2, 2, 4)))
    assert y.min() >= -1 and y.max() <= 3 and y.min() < 0 < 2 < y.max()


@pytest.mark.parametrize("dropout", [1.0, -0.1, [0.5], [0.1, 0.2, 0.3]])
def test_a_wrong_rate_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout must be a rate in"):
        create_head(4, 3, dropout=dropout, rngs=nnx.Rngs(0))
