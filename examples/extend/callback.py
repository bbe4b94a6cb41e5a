"""A callback: the whole training ends once a metric is good enough."""

from jaxtune import Callback, ImageDataLoaders, StopTraining, error_rate, vision_learner


class StopAt(Callback):
    affects_training = True

    def __init__(self, error):
        self.error = error

    def __repr__(self):  # a run that goes on later must have the same
        return f"StopAt({self.error})"

    def on_epoch_end(self, epoch, logs):
        if logs["error_rate"] <= self.error:
            raise StopTraining


def main(photos, network, error=0.1):
    data = ImageDataLoaders.from_folder(photos, size=32, batch_size=8)
    model = vision_learner(data, network, metrics=error_rate, hidden=())
    model.fit_one_cycle(5, callbacks=StopAt(error))
    return model
