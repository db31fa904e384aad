"""A MONAI Label server with our packed bundles, on loopback, and the calls of its clients."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tools.release.pack import pack_bundle

__all__ = ["MODELS", "Answer", "Client", "install_app", "running_server"]

# name among the models: bundle. 3D Slicer sends clicks to models with "deepgrow" in their names.
MODELS = {
    "diffmask": "diffmask",
    "diffmask_deepgrow": "diffmask",
    "lefusion_lidc": "lefusion_lidc",
    "hr_ldm": "hr_ldm",
}


def install_app(work: Path, bundles: Path, environment: Path) -> Path:
    """Return MONAI Label's app for bundles with ours in it, each from its zip.

    Args:
        work: folder to write to.
        bundles: folder of the bundles.
        environment: with MONAI Label in it.
    """
    words = ["apps", "--download", "--name", "monaibundle", "--output", str(work / "apps")]
    subprocess.run([python_of(environment), "-m", "monailabel.main", *words], check=True)
    app = work / "apps" / "monaibundle"
    for model, name in MODELS.items():
        with zipfile.ZipFile(pack_bundle(bundles / name, work / "dist")) as archive:
            archive.extractall(work / "unpacked")
        shutil.move(work / "unpacked" / name, app / "model" / model)
    return app


def python_of(environment: Path) -> str:
    """Return the Python of a virtual environment; its link must not be followed."""
    return str(environment.absolute() / "bin" / "python")


class Answer(bytes):
    """The body of a response.

    Attributes:
        status: of HTTP.
        seconds: it took.
    """

    status: int
    seconds: float


class Client:
    """Calls of MONAI Label's REST interface.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, timeout: float = 60) -> Answer:
        """Return the answer to GET."""
        return self._send(Request(self.url + path), timeout)

    def infer(self, model: str, params: Mapping[str, Any], **files: Path) -> Answer:
        """Run a model on an image (``file``), with a mask (``label``) if it takes one."""
        return self._form("POST", f"/infer/{model}?output=image", params, files)

    def add(self, image: str, file: Path, label: Path | None = None) -> list[Answer]:
        """Add an image to the datastore, and its final label."""
        name = urlencode({"image": image})
        answers = [self._form("PUT", f"/datastore/?{name}", {}, {"file": file})]
        if label is not None:
            answers.append(self._form("PUT", f"/datastore/label?{name}", {}, {"label": label}))
        return answers

    def train(self, model: str, params: Mapping[str, Any]) -> Answer:
        """Train a model with the labelled images of the datastore and wait for the end."""
        headers = {"Content-Type": "application/json"}
        body = json.dumps(params).encode()
        url = f"{self.url}/train/{model}?run_sync=true"
        return self._send(Request(url, body, headers, method="POST"))

    def _form(
        self, method: str, path: str, params: Mapping[str, Any], files: Mapping[str, Path]
    ) -> Answer:
        boundary = uuid.uuid4().hex
        parts = [('name="params"', json.dumps(params).encode())]
        for name, path_ in files.items():
            parts.append((f'name="{name}"; filename="{path_.name}"', path_.read_bytes()))
        head = f"--{boundary}\r\nContent-Disposition: form-data; "
        body = b"".join(
            head.encode() + name.encode() + b"\r\n\r\n" + data + b"\r\n" for name, data in parts
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        body += f"--{boundary}--\r\n".encode()
        return self._send(Request(self.url + path, body, headers, method=method))

    @staticmethod
    def _send(request: Request, timeout: float = 1800) -> Answer:
        start = time.perf_counter()
        try:
            with urlopen(request, timeout=timeout) as response:
                answer = Answer(response.read())
                answer.status = response.status
        except HTTPError as error:
            answer = Answer(error.read())
            answer.status = error.code
        answer.seconds = time.perf_counter() - start
        return answer


@contextmanager
def running_server(
    app: Path, studies: Path, environment: Path, log: Path, device: str = "cpu"
) -> Iterator[Client]:
    """Start the server on a free port of loopback; it is stopped at the end, whatever happens.

    Args:
        app: see :func:`install_app`.
        studies: folder of images, made if need be.
        environment: with MONAI Label in it.
        log: file for what the server prints.
        device: ``cpu`` hides CUDA devices from it.

    Raises:
        RuntimeError: if it ends or is silent for three minutes.
    """
    studies.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["start_server", "--app", app, "--studies", studies, "--host", "127.0.0.1"]
    # any other source than the default: else the model zoo is listed over the net first
    words += ["--port", port, "--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    words += ["--conf", "models", ",".join(MODELS)]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    # training calls programs by name
    variables["PATH"] = f"{Path(python_of(environment)).parent}:{variables['PATH']}"
    command = [python_of(environment), "-m", "monailabel.main", *map(str, words)]
    with log.open("w") as out:
        # in a folder of its own, as nothing of the repository may be found from there
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=variables, cwd=app.parent
        )
        try:
            client = Client(f"http://127.0.0.1:{port}")
            _wait(client, server, log)
            yield client
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(client: Client, server: subprocess.Popen, log: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server must run, got exit code {server.returncode}, see {log}")
        try:
            if client.get("/info/").status == 200:
                return
        except (URLError, OSError):
            pass
        time.sleep(0.5)
    raise RuntimeError(f"the server must answer within {seconds:.0f} s, got nothing, see {log}")
