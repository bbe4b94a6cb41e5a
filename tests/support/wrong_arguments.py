"""Calls every public function of a room with wrong values, in a process of its own.

There the tests' type checker does not stand before the functions' own checks.
"""

import functools
import math
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxtune.data import (
    Augmentation,
    CutMix,
    ImageDataLoaders,
    Loader,
    MixUp,
    Preparation,
    as_size,
    as_table,
    aug_transforms,
    augment,
    check_image,
    check_mixing,
    class_weights,
    find_images,
    folder_label,
    is_image,
    item_weights,
    label_items,
    label_kind,
    labelled_folder,
    load_image,
    load_resized,
    mix,
    normalize,
    parent_label,
    per_image_keys,
    prepare_image,
    presize,
    read_csv,
    regex_label,
    shard_items,
    show_batch,
    source_items,
    split_folders,
    split_items,
    stratified_split,
    table_items,
    to_float,
    train_preparation,
    training_images,
    validation_images,
    validation_preparation,
    validation_presize,
    with_classes,
)


class Thing:
    """An instance of a class that nobody asked for."""


VALUES = {
    "None": None,
    "str": "no such thing",
    "empty": "",
    "int": 7,
    "zero": 0,
    "negative": -3,
    "float": 64.5,
    "nan": math.nan,
    "inf": math.inf,
    "bool": True,
    "list": [1, 2, 3],
    "empty list": [],
    "tuple": (1, 2, 3, 4, 5),
    "dict": {"a": 1},
    "object": Thing(),
    "class": Thing,
    "array": np.zeros((2, 3)),
    "bytes": b"ab",
}
TEXT = {"str", "empty"}
#: What numbers of each kind may be; the rest must be refused.
COUNT = {"int", "zero"}
POSITIVE = {"int"}
SCALARS = (3, np.int64(3), np.uint8(3), np.array(3), jnp.array(3), jnp.int32(3))
REALS = (0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), jnp.array(0.5))


def photos(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for n in range(3):
                pixels = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{n}.png")
    rows = [f"{p.relative_to(root)},{p.parent.name}" for p in root.rglob("*.png")]
    (root / "labels.csv").write_text("\n".join(["fn,label", *rows]))
    return root


def cases(root: Path):
    """Yields (function, argument, values that may be right, numbers to be taken)."""
    small = {"size": 8, "batch_size": 2, "workers": 0}
    folder = functools.partial(ImageDataLoaders.from_folder, root)
    options = {
        "size": (POSITIVE, SCALARS),
        "valid_size": (POSITIVE | {"None"}, SCALARS),
        "presize": (POSITIVE | {"None"}, (64, np.int64(64), jnp.array(64))),
        "batch_size": (POSITIVE, SCALARS),
        "seed": (COUNT, SCALARS),
        "workers": (COUNT | {"None"}, SCALARS),
        "cache_bytes": (COUNT, (10**6, np.int64(10**6))),
        "in_channels": ({"None"}, SCALARS),
        "augmentation": ({"None"}, ()),
        "resize": ({"None"}, ()),
        "pad_mode": (set(), ()),
        "on_error": (set(), ()),
        "weights": ({"None", "dict"}, ()),
    }
    data = folder(**small)
    items, valid = data.train_items, data.valid_items
    paths = [str(p) for p in items.paths]
    names = ["ant", "bee"] * 3
    frame = {"fn": paths, "y": names, "v": [True, False] * 3}
    arrays = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3)).astype(np.uint8)
    F = ImageDataLoaders
    split = {"valid_pct": (set(), REALS), "stratify": ({"bool"}, (True, np.True_))}
    split |= {"kind": ({"None"}, ()), "classes": ({"None"}, ())}
    for name, (fine, numbers) in options.items():
        call = functools.partial(
            folder, **{k: v for k, v in small.items() if k != name}
        )
        yield call, name, fine, numbers
        direct = {k: v for k, v in small.items() if k != name}
        yield functools.partial(F, items, valid, **direct), name, fine, numbers
        direct = functools.partial(F.from_lists, paths, names, **direct)
        yield direct, name, fine, numbers
    for name, (fine, numbers) in split.items():
        for call in (
            functools.partial(F.from_lists, paths, names, **small),
            functools.partial(F.from_df, frame, **small),
            functools.partial(F.from_arrays, (arrays, names), **small),
        ):
            yield (
                call,
                name,
                fine | ({"list", "tuple"} if name == "classes" else set()),
                numbers,
            )
    made = functools.partial
    yield made(F, valid_items=valid, **small), "train_items", set(), ()
    yield made(F, train_items=items, **small), "valid_items", set(), ()
    for factory in (F.from_folder,):
        yield made(factory, **small), "root", set(), ()
        for name in ("train", "valid"):
            yield made(factory, root, **small), name, set(), ()
        yield made(factory, root / "train", **small), "valid_pct", set(), REALS
        yield made(factory, root, **small), "stratify", {"bool"}, ()
        yield made(factory, root, **small), "classes", {"None"}, ()
    for factory, argument, fine in (
        (F.from_name_re, "pattern", set()),
        (F.from_path_re, "pattern", set()),
        (F.from_name_func, "label_func", {"class"}),
        (F.from_path_func, "label_func", {"class"}),
    ):
        yield made(factory, root, **small), argument, fine, ()
        given = {argument: r"(\d)" if argument == "pattern" else str}
        yield made(factory, **given, **small), "root", set(), ()
    yield made(F.from_lists, labels=names, **small), "paths", set(), ()
    yield made(F.from_lists, paths, **small), "labels", set(), ()
    yield (
        made(F.from_lists, [Path(p).name for p in paths], names, **small),
        "root",
        set(),
        (),
    )
    yield made(F.from_df, **small), "df", set(), ()
    csv = made(F.from_csv, root, **small)
    for call in (made(F.from_df, frame, **small), csv):
        yield call, "fn_col", {"zero", "negative"}, ()
        yield call, "label_col", set(), (1, np.int64(1), jnp.array(1))
        yield call, "label_delim", TEXT - {"empty"} | {"None"}, ()
        yield call, "valid_col", {"None"}, ()
        yield call, "suff", {"empty"}, ()
        yield call, "folder", {"None", "empty", "str"}, ()
    yield made(F.from_df, frame, **small), "root", set(), ()
    yield made(F.from_csv, **small), "root", set(), ()
    yield csv, "csv_fname", set(), ()
    yield csv, "header", {"int", "zero", "None"}, (0, np.int64(0))
    yield csv, "delimiter", {"None"}, ()
    yield csv, "encoding", {"None"}, ()
    yield csv, "keep_default_na", {"bool"}, ()
    yield made(F.from_arrays, **small), "train", set(), ()
    yield made(F.from_arrays, (arrays, names), **small), "valid", {"None"}, ()

    fields = {f: {"int", "zero", "float"} for f in (
        "min_scale", "max_scale", "max_rotate", "min_zoom", "max_zoom", "max_warp",
        "max_lighting", "p_affine", "p_lighting")}  # fmt: skip
    for call in (Augmentation, aug_transforms):
        for name, fine in fields.items():
            numbers = (1.0, np.float32(1.0), jnp.array(1.0))
            numbers = (
                numbers if "zoom" in name or "scale" in name else (0.5, *REALS[1:])
            )
            yield call, name, fine, numbers if call is Augmentation else ()
        yield call, "ratio", {"None"}, ()
        yield call, "flip_vert", {"bool"}, ()
        yield call, "pad_mode", set(), ()
    yield Augmentation, "flip", {"bool"}, (True, np.True_)
    yield Augmentation, "functions", {"empty list"}, ()
    yield aug_transforms, "do_flip", {"bool"}, ()
    yield aug_transforms, "xtra_tfms", {"empty list", "None"}, ()
    yield aug_transforms, "mult", {"int", "zero"}, REALS
    for call in (MixUp, CutMix):
        yield call, "alpha", {"int", "float"}, REALS
    yield check_mixing, "mixing", {"None"}, ()

    yield class_weights, "items", set(), ()
    yield made(item_weights, weights="balanced"), "items", set(), ()
    picture = np.zeros((9, 9, 3), np.uint8)
    yield load_image, "source", {"array"}, ()
    yield (
        made(load_image, picture),
        "channels",
        POSITIVE,
        (3, np.int64(3), jnp.array(3)),
    )
    yield made(load_resized, size=(4, 4)), "source", {"array"}, ()
    resize = made(load_resized, picture)
    yield resize, "size", POSITIVE, SCALARS
    for name, fine in (("resample", set()), ("resize", set()), ("pad_mode", set())):
        yield made(load_resized, picture, (4, 4)), name, fine, ()
    yield made(load_resized, picture, (4, 4)), "channels", POSITIVE, (np.int64(3),)
    for call in (made(prepare_image, picture), data.prepare_image):
        if call == data.prepare_image:
            yield call, "source", {"array"}, ()
            continue
        yield call, "size", POSITIVE, SCALARS
        yield made(call, size=8), "resize", {"None"}, ()
        yield made(call, size=8), "pad_mode", set(), ()
        yield made(call, size=8), "channels", POSITIVE, (np.int64(3),)
    yield check_image, "path", set(), ()
    for call in (as_size, validation_presize, validation_preparation):
        yield call, "size", POSITIVE, SCALARS
    yield made(presize, 8), "min_scale", set(), REALS
    yield made(train_preparation, min_scale=0.5), "size", POSITIVE, SCALARS
    yield made(train_preparation, 8), "min_scale", set(), REALS
    yield made(train_preparation, 8, 0.5), "squash", {"None", "int"}, (64, np.int64(64))
    yield made(train_preparation, 8, 0.5), "channels", POSITIVE, SCALARS
    for name, fine in (
        ("resize", {"None"}),
        ("pad_mode", set()),
        ("channels", POSITIVE),
    ):
        yield made(validation_preparation, 8), name, fine, ()
    preparation = data.valid_loader.preparation
    yield made(Preparation, crop=(8, 8)), "squash", set(), (8, np.int64(9))
    yield made(Preparation, (8, 8)), "crop", POSITIVE, (8, np.int64(3))
    yield made(Loader, preparation=preparation), "items", set(), ()
    yield made(Loader, items), "preparation", set(), ()
    loader = made(Loader, items, preparation)
    yield loader, "shuffle", {"bool"}, ()
    for name in ("batch_size", "seed", "workers", "cache_bytes", "on_error"):
        yield loader, name, options[name][0], options[name][1]
    yield data.train_loader.batches, "epoch", COUNT, SCALARS
    yield data.train_loader.batches, "start", {"zero"}, SCALARS
    yield data.train_loader.order, "epoch", COUNT, SCALARS
    yield data.check, "workers", COUNT | {"None"}, ()
    yield data.check, "verbose", {"bool"}, ()
    yield show_batch, "data", set(), ()
    for name, fine in (
        ("max_n", POSITIVE),
        ("split", set()),
        ("epoch", COUNT),
        ("augment", {"bool"}),
        ("columns", POSITIVE | {"None"}),
    ):
        yield data.show_batch, name, fine, ()

    key, keys = jax.random.key(0), jax.random.split(jax.random.key(0), 6)
    floats, aspect = arrays / np.float32(255), np.ones(6, np.float32)
    index = np.arange(6)
    yield made(per_image_keys, index=index), "key", set(), ()
    yield made(per_image_keys, key), "index", {"list", "tuple"}, ()
    device = made(
        augment, arrays, aspect, keys, size=(8, 8), augmentation=Augmentation()
    )
    yield (
        made(augment, aspect=aspect, keys=keys, size=8, augmentation=Augmentation()),
        "images",
        set(),
        (),
    )
    for name in ("size", "augmentation"):
        yield device, name, POSITIVE if name == "size" else set(), ()
    yield (
        made(augment, arrays, keys=keys, size=8, augmentation=Augmentation()),
        "aspect",
        set(),
        (),
    )
    yield (
        made(augment, arrays, aspect, size=8, augmentation=Augmentation()),
        "keys",
        set(),
        (),
    )
    batch = {"image": arrays, "aspect": aspect, "index": index}
    yield made(training_images, key=key, size=8, augmentation=None), "batch", set(), ()
    yield made(training_images, batch, size=8, augmentation=None), "key", set(), ()
    yield made(training_images, batch, key, augmentation=None), "size", POSITIVE, ()
    yield made(training_images, batch, key, size=8), "augmentation", {"None"}, ()
    for call in (to_float, validation_images):
        yield call, "images", set(), ()
    yield made(normalize, mean=[0.5] * 3, std=[0.5] * 3), "images", {"array"}, ()
    numbers = {"int", "zero", "negative", "float", "list"}
    three = ([0.5] * 3, np.full(3, 0.5), jnp.full(3, 0.5), (0.5,) * 3, np.float32(0.5))
    yield made(normalize, floats, std=[0.5] * 3), "mean", numbers, three
    yield made(normalize, floats, [0.5] * 3), "std", {"int", "float", "list"}, three
    yield made(validation_images, arrays, std=[0.5] * 3), "mean", numbers, three
    yield (
        made(validation_images, arrays, mean=[0.5] * 3),
        "std",
        {"int", "float", "list"},
        three,
    )
    yield made(mix, labels=index, key=key, mixing=MixUp()), "images", set(), ()
    yield made(mix, floats, key=key, mixing=MixUp()), "labels", set(), ()
    yield made(mix, floats, index, mixing=MixUp()), "key", set(), ()
    yield made(mix, floats, index, key), "mixing", set(), ()
    yield made(mix, floats, index, key, MixUp()), "mask", {"None"}, ()

    yield find_images, "root", set(), ()
    yield labelled_folder, "folder", set(), ()
    yield split_folders, "root", set(), ()
    yield folder_label, "root", TEXT - {"empty"}, ()
    yield parent_label, "path", TEXT - {"empty"}, ()
    yield is_image, "path", TEXT, ()
    yield regex_label, "pattern", set(), ()
    yield made(label_items, labels=names), "paths", set(), ()
    yield made(label_items, paths), "labels", set(), ()
    yield made(label_items, paths, names), "classes", {"None"}, ()
    yield made(label_items, paths, names), "kind", {"None"}, ()
    yield label_kind, "labels", {"list", "empty list", "tuple", "array"}, ()
    yield made(with_classes, classes=["ant", "bee"]), "items", set(), ()
    yield made(with_classes, items), "classes", set(), ()
    yield made(split_items, valid_pct=0.5), "items", set(), ()
    for name, fine, numbers in (("valid_pct", set(), REALS), ("seed", COUNT, SCALARS)):
        given = {} if name == "valid_pct" else {"valid_pct": 0.5}
        yield made(split_items, items, **given), name, fine, numbers
    yield stratified_split, "labels", {"list", "tuple"}, ()
    yield as_table, "frame", set(), ()
    yield read_csv, "path", set(), ()
    yield made(table_items, folder=root), "table", set(), ()
    yield source_items, "source", set(), ()
    yield shard_items, "shards", set(), ()
    yield made(shard_items, [root / "x.tar"]), "label", {"word", "empty"}, ()


#: Where the argument is known by another name to the user, or by what is in it.
ALSO = {"frame": "df", "table": "table", "path": "csv_fname", "train": "source",
        "valid": "source", "root": "folder", "df": "table"}  # fmt: skip


def fault(call, argument, name, value):
    """Returns what is wrong with how a wrong value is refused; None if nothing is."""
    try:
        call(**{argument: value})
    except (TypeError, ValueError, FileNotFoundError, NotADirectoryError) as error:
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        ours = "jaxtune" in last.tb_frame.f_code.co_filename
        text = str(error)
        named = argument in text or ALSO.get(argument, argument) in text
        about_paths = isinstance(error, OSError) or "class" in text or "label" in text
        if ours and (named or about_paths or type(error).__name__ == "ImageError"):
            return None
        return f"{type(error).__name__}: {text[:150]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    return "taken"


def main() -> None:
    warnings.simplefilter("ignore")
    import matplotlib

    matplotlib.use("agg")
    root = photos(Path(tempfile.mkdtemp()))
    tried = 0
    for call, argument, fine, numbers in cases(root):
        function = getattr(call, "func", call)
        where = f"{getattr(function, '__qualname__', function)}({argument}="
        for name, value in VALUES.items():
            if name not in fine:
                tried += 1
                if found := fault(call, argument, name, value):
                    print(f"{where}{name}): {found}")
        for number in numbers:
            tried += 1
            try:
                call(**{argument: number})
            except Exception as error:
                print(f"{where}{number!r}) refused: {type(error).__name__}: {error}")
    print(f"{tried} tried")


if __name__ == "__main__":
    main()
