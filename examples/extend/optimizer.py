"""An optimizer: Lion, with a rate for each layer group and the schedule of the fit."""

import optax

from jaxtune import ImageDataLoaders, vision_learner


def lion(*, learning_rate, momentum, weight_decay, mask):
    return optax.lion(
        learning_rate, b1=momentum, b2=0.99, weight_decay=weight_decay, mask=mask
    )


def main(photos, network):
    data = ImageDataLoaders.from_folder(photos, size=32, batch_size=8)
    model = vision_learner(data, network, optimizer=lion, hidden=())
    model.fine_tune(1, base_lr=3e-4)
    return model
