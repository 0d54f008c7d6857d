"""Serves this folder on http://localhost:8000 with the headers that let the page use several threads.

    python serve.py [--port 8000] [--host 127.0.0.1]

Any other web server does too; without these two headers the page computes in one thread. It needs Python 3 alone.
"""

from __future__ import annotations

import argparse
import functools
import http.server
from pathlib import Path

HEADERS = {
    # Browsers share memory between threads only in pages that are isolated from other sites.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json", ".svg": "image/svg+xml"}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Adds the headers, and types that do not depend on the machine's settings."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | TYPES

    def end_headers(self) -> None:
        """Ends the headers of an answer."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()


def main() -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description="Serves the page in this folder.")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines too (default: 127.0.0.1)")
    options = parser.parse_args()
    handler = functools.partial(Handler, directory=str(Path(__file__).resolve().parent))
    with http.server.ThreadingHTTPServer((options.host, options.port), handler) as server:
        print(
            f"http://{'localhost' if options.host == '127.0.0.1' else options.host}:{server.server_port}/", flush=True
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
