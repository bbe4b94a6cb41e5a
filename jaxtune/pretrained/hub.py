"""Fetches one file from the Hugging Face hub.

In: repository, file name, revision. Out: the file in a folder of ours, with the sha256
that the hub gives for it. The one rule: no other file imports huggingface_hub, and a
hub out of reach is known within seconds.
"""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from jaxtune.pretrained.progress import say, transfer_bar

TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True)
class HubFile:
    """A file that came from the hub.

    Attributes:
        path: where it lies.
        sha256: what the hub says its sha256 is; None for small files kept in plain
            git, where the hub gives none.
    """

    path: Path
    sha256: str | None


def fetch_from_hub(
    repo: str,
    file: str,
    *,
    folder: Path,
    revision: str | None = None,
    kept_as: Path | None = None,
) -> HubFile:
    """Fetches a file from the hub, or copies it from huggingface_hub's own cache.

    The hub's usual settings hold (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies). One
    request with a timeout of 5 s comes first, because the download itself retries for
    half a minute where there is no network.

    Args:
        repo: repository, such as "timm/resnet18.tv_in1k".
        file: name of the file in it.
        folder: folder to put it in.
        revision: branch, tag or commit; the main branch by default.
        kept_as: where the file will lie in the end, for the line that tells.

    Raises:
        Exception: whatever the hub's client raises: no network, no such file, no
            access.
    """
    import huggingface_hub as hub

    kept = hub.try_to_load_from_cache(repo, file, revision=revision)
    if isinstance(kept, str):
        path = Path(shutil.copyfile(kept, folder / Path(file).name))
        # Its cache names a large file's content by the sha256 the hub gave for it.
        return HubFile(path, _as_sha256(Path(kept).resolve().name))
    about = hub.get_hf_file_metadata(
        hub.hf_hub_url(repo, file, revision=revision), timeout=TIMEOUT_S
    )
    size = f", {about.size / 1e6:.1f} MB" if about.size else ""
    say(
        f"fetching {file} of {repo} from the Hugging Face hub{size}; kept as "
        f"{kept_as or folder / file}"
    )
    with transfer_bar(file, about.size) as advance:
        path = hub.hf_hub_download(
            repo,
            file,
            revision=revision,
            local_dir=folder,
            etag_timeout=TIMEOUT_S,
            tqdm_class=_forwarding_bar(advance),
        )
    return HubFile(Path(path), _as_sha256(about.etag))


def _as_sha256(tag: str | None) -> str | None:
    return tag if tag and re.fullmatch("[0-9a-f]{64}", tag) else None


def _forwarding_bar(advance: Callable[[int], None]) -> type:
    """Returns a class in tqdm's form that draws nothing and tells us the bytes."""
    from huggingface_hub.utils import tqdm

    first: list[object] = []

    class Bar(tqdm):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **(options | {"disable": True}))
            first.append(self)

        def update(self, n: float | None = 1) -> None:
            if self is first[0] and n:  # further bars count the same bytes again
                advance(int(n))

    return Bar
