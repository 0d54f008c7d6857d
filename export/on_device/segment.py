"""Segments an image on a device: a .tflite file, LiteRT, NumPy and OpenCV; neither rsseg_tf nor TensorFlow.

    pip install ai-edge-litert numpy opencv-python-headless
    python segment.py model_dynamic.tflite image.png -o labels.png

The model file says itself what it needs: its manifest lies in a zip archive at the end of it. Images are 8-bit PNG or
JPEG files of three bands, of any size; labels are class ids in a grey PNG. With the same file they equal those of
`rsseg-tf predict --blend mean`.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    """Reads a model and an image, writes labels, and prints the share of each class."""
    parser = argparse.ArgumentParser(description="Segments an image with a TFLite file of rsseg-tf export.")
    parser.add_argument("model", help="a .tflite file")
    parser.add_argument("image", help="a PNG or JPEG file with three bands of 8 bits")
    parser.add_argument("-o", "--output", default="labels.png", help="PNG of class ids (default: labels.png)")
    parser.add_argument("--threads", type=int, help="threads of LiteRT (default: its own choice)")
    options = parser.parse_args()
    try:
        with zipfile.ZipFile(options.model) as archive:
            manifest = json.loads(archive.read("manifest.json"))
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        sys.exit(f"{options.model} is no TFLite file of rsseg-tf export: {error}")
    if manifest["dataset"]["bands"] != 3 or manifest["dataset"]["max_value"] != 255:
        sys.exit("This example reads images of three bands of 8 bits; the model was made for others.")
    picture = cv2.imread(options.image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        sys.exit(f"{options.image} is no image that OpenCV reads.")
    model = Model(options.model, manifest, options.threads)
    labels = segment(model, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    if not cv2.imwrite(options.output, labels):
        sys.exit(f"{options.output} cannot be written.")
    for class_id, name in enumerate(manifest["dataset"]["classes"]):
        print(f"{100 * np.mean(labels == class_id):5.1f} %  {name}")


class Model:
    """A TFLite file and the windows that it takes."""

    def __init__(self, path: str, manifest: dict, threads: int | None = None) -> None:
        self.artifact = manifest["artifacts"][0]
        self.tile = self.artifact["tile"]  # (height, width), or None for any size
        inference = manifest["inference"]
        if self.tile and inference["is_slide"] and inference["crop_size"] == self.tile[::-1]:
            self.stride = inference["stride"][::-1]  # the manifest has width first here
        elif self.tile:
            self.stride = [max(1, side * 3 // 4) for side in self.tile]
        self.interpreter = Interpreter(model_path=path, num_threads=threads)
        self.run = self.interpreter.get_signature_runner("serving_default")

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) bytes to (H, W, classes) float32; pixels go in as they are, normalisation is in the model."""
        rows, columns = pixels.shape[:2]
        if self.tile:  # an image that is smaller is continued by its mirror image
            extra = ((0, self.tile[0] - rows), (0, self.tile[1] - columns), (0, 0))
            pixels = np.pad(pixels, extra, mode="reflect")
        stored = self.run(pixels=pixels[np.newaxis].astype(self.artifact["input"]["dtype"]))["logits"][0]
        output = next(tensor for tensor in self.artifact["outputs"] if tensor["name"] == "logits")
        if output["scale"]:  # whole numbers
            stored = (stored.astype(np.float32) - np.float32(output["zero_point"])) * np.float32(output["scale"])
        return stored[:rows, :columns]


def segment(model: Model, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes to (H, W) class ids: overlapping windows, whose logits are averaged."""
    if model.tile is None:
        return model.logits(pixels).argmax(-1).astype(np.uint8)
    height, width = pixels.shape[:2]
    sums: np.ndarray | None = None
    counts = np.zeros((height, width, 1))
    for top in starts(height, model.tile[0], model.stride[0]):
        for left in starts(width, model.tile[1], model.stride[1]):
            window = np.s_[top : top + model.tile[0], left : left + model.tile[1]]
            logits = model.logits(pixels[window])
            if sums is None:
                sums = np.zeros((height, width, logits.shape[-1]))
            sums[window] += logits
            counts[window] += 1
    assert sums is not None  # an image has a window
    return (sums / counts).astype(np.float32).argmax(-1).astype(np.uint8)


def starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along an axis; the last one ends with the image."""
    last = max(0, size - window)
    return [*range(0, last, stride), last]


if __name__ == "__main__":
    main()
