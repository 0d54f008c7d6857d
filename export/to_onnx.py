"""Exports a checkpoint as an ONNX file: the command `rsseg-tf export --format onnx`, with its options.

python export/to_onnx.py output/best_model -o exported/dubai
"""

import sys

from rsseg_tf.cli import main

if __name__ == "__main__":
    main(["export", "--format", "onnx", *sys.argv[1:]], prog_name="to_onnx.py")
