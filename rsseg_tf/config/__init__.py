"""YAML configs: strict, merged from bases, checked before anything runs."""

from rsseg_tf.config.loader import dump_config, load_config
from rsseg_tf.config.schema import Config

__all__ = ["Config", "dump_config", "load_config"]
