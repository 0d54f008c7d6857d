"""Runs the command as `python -m rsseg_tf`."""

from rsseg_tf.cli.main import main

if __name__ == "__main__":
    main()
