"""Google Cloud Storage for tests: an emulator, with the conditions that Orbax asks for.

    python storage.py PORT

serves an empty bucket called "bucket" until it is killed.
"""

import contextlib
import functools
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus

_BUCKET = "bucket"


@contextlib.contextmanager
def emulated_storage() -> Iterator[dict[str, str]]:
    """Yields the variables with which a process finds an empty "gs://bucket"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, __file__, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"{url}/storage/v1/b/{_BUCKET}").close()
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() - began > 30:
                    raise
                time.sleep(0.1)
        yield {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
    finally:
        process.kill()
        process.wait()


def serve(port: int) -> None:
    """Serves the bucket; each request is answered before the next is looked at."""
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import objects

    def generation(storage, bucket, name):
        try:
            return storage.get_file_obj(bucket, name)["generation"]
        except Exception:
            return "0"

    @functools.wraps(objects.get)
    def get(request, response, storage, *args, **kwargs):
        place = request.params["bucket_name"], request.params["object_id"]
        now = generation(storage, *place)
        if request.query.get("ifGenerationNotMatch") == [now] and now != "0":
            response.status = HTTPStatus.NOT_MODIFIED
            return
        objects.get(request, response, storage, *args, **kwargs)
        if request.query.get("alt") == ["media"]:
            response["x-goog-generation"] = now

    @functools.wraps(objects.insert)
    def insert(request, response, storage, *args, **kwargs):
        wanted = request.query.get("ifGenerationMatch")
        if wanted:
            place = request.params["bucket_name"], request.query["name"][0]
            if wanted != [generation(storage, *place)]:
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
        objects.insert(request, response, storage, *args, **kwargs)

    changed = {objects.get: get, objects.insert: insert}
    for _, handlers in server.HANDLERS:
        for method, handler in handlers.items():
            handlers[method] = changed.get(handler, handler)
    running = server.Server("127.0.0.1", port, True, default_bucket=_BUCKET)
    running.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
