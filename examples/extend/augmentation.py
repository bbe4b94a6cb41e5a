"""Augmentations: one that draws for each photo, and one that draws for each batch."""

import jax
import jax.numpy as jnp

from jaxtune import Augmentation, ImageDataLoaders, batchwise, vision_learner


def grey_or_not(image, key):
    grey = image.mean(axis=-1, keepdims=True)
    return jnp.where(jax.random.bernoulli(key, 0.2), grey, image)


@batchwise
def tinted(images, key):
    tint = jax.random.uniform(key, images.shape[-1:], minval=0.8, maxval=1.2)
    return jnp.clip(images * tint, 0, 1)


def main(photos, network):
    data = ImageDataLoaders.from_folder(
        photos,
        size=32,
        batch_size=8,
        augmentation=[Augmentation(max_rotate=10), grey_or_not, tinted],
    )
    model = vision_learner(data, network, hidden=())
    model.fit_one_cycle(1)
    return model
