"""Sends an image to a model server and saves the labels as PNG. Needs `requests` alone: no rsseg_tf, no TensorFlow.

    pip install requests
    python client_requests.py tile.png -o labels.png [--url http://127.0.0.1:8501] [--model-name example_model]

The image is a PNG, JPEG, BMP or GIF file of three bands of 8 bits (behind `rsseg-tf serve` a TIFF too), sent as it is.
Labels are class ids, 0 to 255, in a PNG of the same size; its palette shows them in the classes' colours. The whole
image goes through the model at once: for scenes of any size there is `rsseg-tf predict --server`.
"""

from __future__ import annotations

import argparse
import base64
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry


class Failure(Exception):
    """What went wrong, in one line."""


class Server:
    """A model on TensorFlow Serving or `rsseg-tf serve`.

    Args:
        url: Such as http://127.0.0.1:8501.
        model: Name of the model.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, url: str, model: str, timeout_s: float) -> None:
        self.predict_url = f"{url.rstrip('/')}/v1/models/{model}:predict"
        self.timeout_s = timeout_s
        self.session = requests.Session()
        # A server that is busy says 429 or 503; requests change nothing there, so that they may be sent again.
        again = Retry(total=5, connect=1, backoff_factor=0.5, status_forcelist=(429, 503), allowed_methods=None)
        again = again.new(raise_on_status=False)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=again))

    def predict(self, signature: str, instance: Any) -> Any:
        """Runs a signature for one instance and returns its prediction."""
        body = {"signature_name": signature, "instances": [instance]}
        try:
            answer = self.session.post(self.predict_url, json=body, timeout=self.timeout_s)
        except requests.RequestException as error:
            raise Failure(f"{self.predict_url}: {type(error).__name__}. Is the server running there?") from error
        try:
            content = answer.json()
            if answer.ok:
                return content["predictions"][0]
            told = content["error"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Failure(f"{self.predict_url}: HTTP {answer.status_code}, and no answer of a model server") from error
        raise Failure(f"{self.predict_url}: HTTP {answer.status_code}: {told}")

    def labels(self, image: bytes) -> bytes:
        """Returns class ids as a grey PNG file, from an image file."""
        found = self.predict("predict_bytes", {"image_bytes": {"b64": base64.b64encode(image).decode()}})
        return base64.b64decode(found["b64"])

    def classes(self) -> tuple[list[str], list[list[int]]]:
        """Returns names and colours of the classes; none if the model was exported without its manifest."""
        try:
            found = self.predict("manifest", {"query": ""})
        except Failure:
            return [], []
        dataset = json.loads(found)["dataset"]
        return dataset["classes"], dataset["palette"]


def coloured(png: bytes, palette: list[list[int]]) -> bytes:
    """Adds a palette to a grey PNG of 8 bits: its values stay, and viewers show them in colours."""
    ihdr = bytearray(png[16:29])  # after the file's 8 bytes, the chunk's length and its name
    ihdr[9] = 3  # the kind of pixels: a palette's instead of grey
    colours = b"".join(bytes(colour) for colour in palette) + bytes(3 * (256 - len(palette)))
    return png[:8] + _chunk(b"IHDR", bytes(ihdr)) + _chunk(b"PLTE", colours) + png[33:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def main() -> None:
    """Reads the arguments, asks the server and writes a file."""
    parser = argparse.ArgumentParser(description="Send an image to a model server and save the labels as PNG.")
    parser.add_argument("image", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("labels.png"), help="default: labels.png")
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="of the server's REST port")
    parser.add_argument("--model-name", default="example_model")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for an answer")
    arguments = parser.parse_args()
    server = Server(arguments.url, arguments.model_name, arguments.timeout)
    try:
        labels = server.labels(arguments.image.read_bytes())
        classes, palette = server.classes()
        arguments.output.write_bytes(coloured(labels, palette) if palette else labels)
    except (Failure, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {arguments.output}" + "".join(f"\n{index:3d} {name}" for index, name in enumerate(classes)))


if __name__ == "__main__":
    main()
