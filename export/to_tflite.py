"""Exports a checkpoint as TFLite files: the command `rsseg-tf export --format tflite`, with its options.

python export/to_tflite.py output/best_model -o exported/dubai
"""

import sys

from rsseg_tf.cli import main

if __name__ == "__main__":
    main(["export", "--format", "tflite", *sys.argv[1:]], prog_name="to_tflite.py")
