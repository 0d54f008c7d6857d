"""How users name a server: `HOST:PORT` for gRPC, `http://HOST:PORT` for REST."""

from __future__ import annotations

import re
from typing import NamedTuple

from rsseg_tf.errors import ConfigError

__all__ = ["Address"]

_FORM = re.compile(r"(?:(?P<scheme>grpc|http)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<port>\d{1,5})/?")


class Address(NamedTuple):
    """Where a server listens, and for what.

    Attributes:
        api: `grpc` or `rest`.
        host: without the brackets of an IPv6 address.
        port: 1..65535.
    """

    api: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `HOST:PORT`, `grpc://HOST:PORT` or `http://HOST:PORT`.

        Raises:
            ConfigError: when it is none of them.
        """
        match = _FORM.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ConfigError(
                f"A server is named as HOST:PORT for gRPC or http://HOST:PORT for REST; got {text!r:.200}. TensorFlow "
                "Serving's usual ports are 8500 for gRPC and 8501 for REST. For TLS put a proxy in between."
            )
        api = "rest" if match["scheme"] == "http" else "grpc"
        return cls(api, match["host"].strip("[]"), int(match["port"]))

    @property
    def netloc(self) -> str:
        """`HOST:PORT`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
