"""The new classifier on top of a body: fastai's concat-pool head.

Maps feature maps (b, h, w, c) to logits (b, num_classes). Layers, their order, sizes
and initial values are fastai v2's.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxtune.arguments import (
    Integer,
    Number,
    check_flag,
    check_function,
    check_instance,
    check_integer,
    check_number,
    check_numbers,
    described,
)
from jaxtune.models import (
    BatchNorm,
    GlobalAvgPool,
    Linear,
    ReLU,
    Sequential,
    global_max,
    kaiming_normal,
)


class ConcatPool(nnx.Module):
    """Maximum and mean over height and width, side by side, maximum first.

    References:
        fastai 2.8.12, layers.py `AdaptiveConcatPool2d` (whose docstring names the
        reverse order; the code is max, then average).
    """

    @staticmethod
    def features(num_features: int) -> int:
        """Returns the number of output features for `num_features` channels."""
        return 2 * num_features

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c2"]:
        """Returns (b, 2c): c maxima, then c means."""
        return jnp.concatenate([global_max(x), x.mean((1, 2))], axis=-1)


class SigmoidRange(nnx.Module):
    """Maps outputs into an open interval by a sigmoid; fastai's `SigmoidRange`."""

    def __init__(self, low: float, high: float):
        """Takes the ends of the interval, in the unit of the target."""
        self.low, self.high = low, high

    def __call__(self, x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns sigmoid(x) * (high - low) + low."""
        return nnx.sigmoid(x) * (self.high - self.low) + self.low


class Denormalize(nnx.Module):
    """Converts outputs to the targets' own units: x * std + mean, in float32.

    Mean and standard deviation are statistics, which training doesn't change.

    References:
        Keras 3, `Normalization(invert=True)`; scikit-learn,
        `TransformedTargetRegressor`.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        """Takes mean and standard deviation of each training target."""
        self.mean = nnx.BatchStat(jnp.asarray(mean, jnp.float32))
        self.std = nnx.BatchStat(jnp.asarray(std, jnp.float32))

    def __call__(self, x: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
        """Returns x * std + mean."""
        return x.astype(jnp.float32) * self.std[...] + self.mean[...]


def denormalizing(network: nnx.Module) -> Denormalize | None:
    """Returns the `Denormalize` layer that a network's head ends in, or None."""
    head = network[-1] if isinstance(network, Sequential) else None
    last = head[-1] if isinstance(head, Sequential) else None
    return last if isinstance(last, Denormalize) else None


def create_head(
    num_features: Integer,
    num_classes: Integer,
    *,
    hidden: Integer | Sequence[Integer] | None = None,
    dropout: Number | Sequence[Number] = 0.5,
    concat_pool: bool = True,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: Sequence[Number] | None = None,
    target_stats: Sequence[Sequence[float]] | None = None,
    init: Callable = kaiming_normal,
    rngs: nnx.Rngs,
) -> Sequential:
    """Returns fastai's head: pool, then per layer batch norm, dropout, linear, ReLU.

    With the defaults: pool, bn(2F), dropout .25, linear(2F, 512), relu, bn(512),
    dropout .5, linear(512, num_classes). Linear layers after a batch norm have no bias;
    by default these are all of them, the last included.

    Args:
        num_features: Channels of the body's feature map, F.
        num_classes: Number of logits.
        hidden: Sizes of the hidden layers, or the size of one; (512,) if None, () for
            a single linear layer.
        dropout: Rate before the last linear layer, half of it before the others; or one
            rate for each linear layer. 0 omits the dropout layer.
        concat_pool: Concatenate maximum and average pooling; else average only.
        first_bn: Whether the first linear layer has a batch norm.
        bn_final: Whether a batch norm (momentum .01) ends the head.
        lin_first: Linear and ReLU before batch norm and dropout, in each layer.
        y_range: (low, high) for regression: outputs are in this open interval.
        target_stats: For regression, mean and standard deviation of each target, see
            `jaxtune.data.target_stats`: outputs are then in the targets' own units,
            while the layers before learn standardized values.
        init: Draws a linear layer's weight: `init(key, shape)` with shape (in, out).
        rngs: Stream `params` draws the weights.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If the number of rates isn't that of the linear layers, a rate is
            not in [0, 1), a size is less than 1, `y_range` isn't increasing, `y_range`
            and `target_stats` are both given, or the statistics are not one for each
            output.

    Example:
        >>> from flax import nnx
        >>> from jaxtune import create_head
        >>> create_head(512, 37, rngs=nnx.Rngs(0)).names[:4]
        ('pool', 'bn1', 'dropout1', 'linear1')

    References:
        fastai 2.8.12, vision/learner.py `create_head`, layers.py `LinBnDrop`.
    """
    num_features = check_integer(num_features, "num_features", least=1)
    num_classes = check_integer(num_classes, "num_classes", least=1)
    hidden = (512,) if hidden is None else _sizes(hidden)
    concat_pool = check_flag(concat_pool, "concat_pool")
    first_bn = check_flag(first_bn, "first_bn")
    bn_final = check_flag(bn_final, "bn_final")
    lin_first = check_flag(lin_first, "lin_first")
    check_function(init, "init", "a function (key, shape) -> array")
    check_instance(rngs, "rngs", nnx.Rngs, "flax.nnx.Rngs, such as nnx.Rngs(0)")
    if y_range is not None:
        y_range = check_numbers(
            y_range, "y_range", count=2, what="numbers, low and high"
        )
        if y_range[0] >= y_range[1]:
            raise ValueError(
                f"y_range must be two numbers, the lower one first; received {y_range}."
            )
    pooled = ConcatPool.features(num_features) if concat_pool else num_features
    sizes = [pooled, *hidden, num_classes]
    count = len(sizes) - 1
    rates = _rates(dropout, count)
    if lin_first:
        rates.append(0.0)
    ends: dict[str, nnx.Module] = {}
    if y_range is not None:
        ends["range"] = SigmoidRange(*y_range)
    if target_stats is not None:
        if y_range is not None:
            raise ValueError("give y_range or target_stats, not both.")
        mean, std = target_stats
        options = {"count": num_classes, "what": "numbers, one for each output"}
        ends["denormalize"] = Denormalize(
            check_numbers(mean, "the mean in target_stats", **options),
            check_numbers(std, "the std in target_stats", **options, above=0),
        )

    plan = _Plan(
        sizes=tuple(sizes),
        rates=tuple(rates),
        concat_pool=concat_pool,
        first_bn=first_bn,
        bn_final=bn_final,
        lin_first=lin_first,
    )
    if init is kaiming_normal:
        head = _drawn(plan, rngs)
    else:
        # One's own `init` may be NumPy's.
        head = plan.build(rngs, init)
    if not ends:
        return head
    return Sequential({name: head[name] for name in head.names} | ends)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What decides a head's layers, up to what follows the last one."""

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    concat_pool: bool
    first_bn: bool
    bn_final: bool
    lin_first: bool

    def build(self, rngs: nnx.Rngs, init: Callable = kaiming_normal) -> Sequential:
        layers: dict[str, nnx.Module] = {
            "pool": ConcatPool() if self.concat_pool else GlobalAvgPool()
        }
        if self.lin_first:
            layers["dropout0"] = nnx.Dropout(self.rates[0])
        count = len(self.sizes) - 1
        rates = self.rates[self.lin_first :]
        for i, (size, out, rate) in enumerate(
            zip(self.sizes[:-1], self.sizes[1:], rates, strict=True)
        ):
            last = i == count - 1
            has_bn = i > 0 or self.first_bn
            if self.lin_first:
                has_bn = self.bn_final if last else has_bn
            # fastai's bias of a fresh batch norm is 1e-3, PyTorch's 0.
            features = out if self.lin_first else size
            before = {f"bn{i + 1}": BatchNorm(features, bias=1e-3)} if has_bn else {}
            if rate > 0:
                before[f"dropout{i + 1}"] = nnx.Dropout(rate)
            linear = Linear(size, out, use_bias=not has_bn, rngs=rngs)
            linear.weight.set_value(init(rngs.params(), (size, out)))
            work: dict[str, nnx.Module] = {f"linear{i + 1}": linear}
            if not last:
                work[f"relu{i + 1}"] = ReLU()
            layers |= (work | before) if self.lin_first else (before | work)
        if self.bn_final and not self.lin_first:
            layers["bn_final"] = BatchNorm(self.sizes[-1], momentum=0.01, bias=1e-3)
        return Sequential(layers)


@functools.partial(nnx.jit, static_argnums=0)
def _drawn(plan: _Plan, rngs: nnx.Rngs) -> Sequential:
    """One program, without the values that are replaced; the next head finds it."""
    return plan.build(rngs)


def _rates(dropout, count: int) -> list[float]:
    wanted = (
        f"dropout must be a rate in [0, 1), or {count} of them, one for each linear "
        f"layer; received {described(dropout)}."
    )
    try:
        if isinstance(dropout, list | tuple) or getattr(dropout, "ndim", 0) == 1:
            limits = {"least": 0, "below": 1}
            return [*check_numbers(dropout, "dropout", count=count, **limits)]
        rate = check_number(dropout, "dropout", least=0, below=1)
    except (TypeError, ValueError) as error:
        raise type(error)(wanted) from None
    return [rate / 2] * (count - 1) + [rate]


def _sizes(hidden) -> tuple[int, ...]:
    listed = isinstance(hidden, list | tuple | range) or getattr(hidden, "ndim", 0) == 1
    sizes = tuple(hidden) if listed else (hidden,)
    try:
        return tuple(check_integer(size, "hidden", least=1) for size in sizes)
    except (TypeError, ValueError) as error:
        raise type(error)(
            "hidden must be the size of a hidden layer, a whole number of at least 1, "
            f"or a list of them; received {described(hidden)}."
        ) from None
