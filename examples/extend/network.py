"""A network of your own, registered by name, for images of any number of channels."""

from flax import nnx

from jaxtune import ImageDataLoaders, load_predictor, register_model, vision_learner


class Net(nnx.Module):
    def __init__(self, num_classes=10, *, rngs):
        self.stem = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.stage = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.fc = nnx.Linear(32, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.stage(nnx.relu(self.stem(x)))).mean((1, 2)))


GREY = {
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "groups": {"stem": "stem", "top": "stage"},
}
net = register_model("net", Net, cut="stage", first_conv="stem", **GREY)


def main(photos, folder):
    data = ImageDataLoaders.from_folder(photos, size=32, batch_size=8, in_channels=4)
    model = vision_learner(data, "net", pretrained=False, hidden=())
    model.fit_one_cycle(1)
    return model, load_predictor(model.save(folder))
