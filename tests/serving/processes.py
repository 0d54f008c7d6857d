"""`rsseg-tf serve` as users run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


class Process:
    """`rsseg-tf serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "rsseg_tf.cli", "serve", str(folder), "--model_name", "tiny", *options]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        else:
            pytest.fail("".join(self.lines))
        told = "".join(self.lines)
        self.rest_port = int(re.search(r"REST: http://127.0.0.1:(\d+)/", told)[1])  # type: ignore[index]
        self.grpc_port = int(re.search(r"gRPC: 127.0.0.1:(\d+)", told)[1])  # type: ignore[index]

    def end(self, number: int) -> tuple[int, str]:
        """Sends a signal; returns the exit code and what was said last."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        rest = self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(60), rest
