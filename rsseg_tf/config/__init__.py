"""YAML configs: strict, merged from bases, checked before anything runs."""

from rsseg_tf.config.loader import AnyConfig, dump_config, load_any_config, load_config, load_pretrain_config
from rsseg_tf.config.pretrain import PretrainConfig
from rsseg_tf.config.schema import Config

__all__ = [
    "AnyConfig",
    "Config",
    "PretrainConfig",
    "dump_config",
    "load_any_config",
    "load_config",
    "load_pretrain_config",
]
