"""The command `rsseg-tf`.

The modules here import click at the top and everything heavy inside of the commands, so that help and usage errors
appear at once.
"""

from rsseg_tf.cli.main import main

__all__ = ["main"]
