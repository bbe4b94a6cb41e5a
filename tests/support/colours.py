"""Data of some of the made-up coloured photos, labelled as one likes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtune import ImageDataLoaders
from jaxtune.data import find_images, label_items


def colours(
    root: Path,
    labels: Mapping[str, object],
    *,
    classes: Sequence[str] | None = None,
    kind: str | None = None,
    **options,
) -> ImageDataLoaders:
    """Returns photos of the colours that have a label, 16 px, in batches of 8."""
    items = []
    for split in ("train", "valid"):
        paths = [
            path for path in find_images(root / split) if path.parent.name in labels
        ]
        named = [labels[path.parent.name] for path in paths]
        items.append(label_items(paths, named, classes=classes, kind=kind))
    options = {"size": 16, "batch_size": 8, "seed": 0, "workers": 0} | options
    return ImageDataLoaders(*items, **options)


def named(*names: str) -> dict[str, str]:
    """Returns colours each of which is a class of its own name."""
    return {name: name for name in names}
