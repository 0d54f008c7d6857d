"""Exports a checkpoint as a SavedModel: the command `rsseg-tf export --format savedmodel`, with its options.

python export/to_savedmodel.py output/best_model -o exported/dubai
"""

import sys

from rsseg_tf.cli import main

if __name__ == "__main__":
    main(["export", "--format", "savedmodel", *sys.argv[1:]], prog_name="to_savedmodel.py")
