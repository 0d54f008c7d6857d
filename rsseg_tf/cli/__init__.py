"""The command `rsseg-tf`.

This module and its siblings import click at the top and everything heavy inside of the commands, so that help and usage
errors answer at once.
"""

from rsseg_tf.cli.main import main

__all__ = ["main"]
