"""Compares exported models with the Keras model: the command `rsseg-tf verify`, with its options.

python export/verify.py exported/dubai --checkpoint output/best_model --images data/dubai/val.txt
"""

import sys

from rsseg_tf.cli import main

if __name__ == "__main__":
    main(["verify", *sys.argv[1:]], prog_name="verify.py")
