"""Labels one image through a model server, and prints the share of each class.

    python client.py IMAGE [--server 127.0.0.1:8500] [--model-name example_model]

`rsseg-tf predict --server` does more: scenes of any size, pictures, GeoTIFFs. This shows how little a program needs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import rsseg_tf
from rsseg_tf.predict import open_scene


def main() -> None:
    """Reads the arguments and prints a table."""
    parser = argparse.ArgumentParser(description="Label one image through a model server.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--server", default="127.0.0.1:8500", help="HOST:PORT for gRPC, http://HOST:PORT for REST")
    parser.add_argument("--model-name", default="example_model")
    arguments = parser.parse_args()
    try:
        model = rsseg_tf.load_remote_model(arguments.server, arguments.model_name)
        with open_scene(arguments.image) as scene:
            pixels, _ = scene.read()
        labels = model.predict(pixels)
    except rsseg_tf.errors.RssegError as error:
        sys.exit(f"Error: {error}")
    for index, name in enumerate(model.spec.classes):
        print(f"{name:24s} {np.mean(labels == index):7.2%}")


if __name__ == "__main__":
    main()
