"""`rsseg-tf serve` and `rsseg-tf serve init`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, WithDefault, combined, group, needed
from rsseg_tf.cli.options import EXPORT_STEP, picked, trust_option

__all__ = ["command"]

_MB = 2**20


@click.group(name="serve", cls=WithDefault)
def command() -> None:
    """Answer requests on this machine as TensorFlow Serving does.

    EXPORT_DIR is a folder of a SavedModel export: EXPORT_DIR/1, EXPORT_DIR/2, ... New versions are loaded when they
    appear and replace the old one without a gap; a broken one is reported and changes nothing.

    The REST and gRPC interfaces are those of TensorFlow Serving, with dynamic batching, limits, status, health and
    Prometheus metrics. This server is for a laptop, a test or a demonstration. For production use TensorFlow Serving
    itself, which is faster and has been hardened for years; `rsseg-tf serve init` writes the files for it. There is no
    authentication and no TLS in either: keep them behind something that has both.

    It listens on 127.0.0.1, which only this machine reaches, unless --host says otherwise. SIGTERM and Ctrl-C end it
    after the requests that run.
    """


def _labels(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    labels = {}
    for value in values:
        label, _, number = value.partition("=")
        if not (label and number.isascii() and number.isdecimal()):
            raise click.BadParameter(f"must be LABEL=VERSION, such as stable=1; got {value!r}")
        labels[label] = int(number)
    return labels


_PORT, _COUNT, _NONE_OR_MORE = click.IntRange(0, 65535), click.IntRange(min=1), click.IntRange(min=0)
_SECONDS = click.FloatRange(min=0, min_open=True)
# flag, type, default, help; the defaults are those of `rsseg_tf.serving`, whose import takes seconds
_PORTS = (
    ("--rest-port", _PORT, 8501, "REST; 0 for any free port."),
    ("--grpc-port", _PORT, 8500, "gRPC; 0 for any free port."),
)
_VERSIONS = (
    ("--keep", _NONE_OR_MORE, 1, "How many of the newest versions answer; 0 for all."),
    ("--poll", click.FloatRange(min=0.05), 2.0, "Seconds between looks for new versions."),
)
_BATCHING = (
    ("--max-batch-size", _COUNT, 8, "Images computed together; 1 turns batching off."),
    ("--batch-timeout-micros", _NONE_OR_MORE, 2000, "How long a batch that is not full waits, in microseconds."),
    ("--max-enqueued-batches", _COUNT, 32, "Full batches that may wait; requests beyond get status 503."),
    ("--num-batch-threads", _COUNT, 1, "Batches computed at the same time; more make smaller batches."),
)
_LIMITS = (
    ("--max-body-mb", _COUNT, 32, "Largest request, in MiB."),
    ("--max-pixels", _COUNT, 2048 * 2048, "Most pixels of a request, also of encoded images."),
    ("--max-pixels-in-work", _COUNT, 4 * 2048 * 2048,
     "Most pixels of all requests that wait or are computed; more get status 429."),
    ("--max-concurrent", _COUNT, 32, "Requests computed or waiting; more get status 503."),
    ("--client-timeout", _SECONDS, 30.0, "Seconds a client may take to send a request or read an answer."),
    ("--request-timeout", _SECONDS, 120.0, "Seconds a request may wait and compute."),
)  # fmt: skip


def _number_options(rows: tuple[tuple[str, click.ParamType, float, str], ...]) -> Callable[[Any], Any]:
    """Returns a decorator that adds options which take a number and show their default."""
    return combined(
        *(
            click.option(flag, type=kind, default=default, show_default=True, metavar="N", help=text)
            for flag, kind, default, text in rows
        )
    )


@command.command(name=WithDefault.default, cls=ManyValues)
@needed(EXPORT_STEP, click.argument("export_dir", type=Path))
@click.option("--model-name", metavar="NAME", help="Name in requests. Default: the folder's.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Address to listen on; 0.0.0.0 for all.")  # fmt: skip
@_number_options(_PORTS)
@click.option("--threads", type=_COUNT, metavar="N", help="How many one operation uses. Default: all cores.")
@click.option("--metrics-path", default="/monitoring/prometheus/metrics", show_default=True, metavar="PATH",
              help="Where Prometheus reads, on the REST port.")  # fmt: skip
@click.option("--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN...",
              help="Origin whose pages may ask over REST, e.g. https://example.org; * for all.")  # fmt: skip
@trust_option
@group(
    "Versions",
    _number_options(_VERSIONS),
    click.option("--label", "labels", multiple=True, callback=_labels, metavar="LABEL=VERSION...",
                 help="Names for versions, which then answer too, e.g. stable=1 canary=2."),
)  # fmt: skip
@group("Batching", _number_options(_BATCHING))
@group("Limits", _number_options(_LIMITS))
def serve_model(export_dir: Path, model_name: str | None, **values: Any) -> None:
    """Answer requests about the model in EXPORT_DIR."""
    from rsseg_tf.cli.output import load_tensorflow
    from rsseg_tf.errors import ServingError
    from rsseg_tf.extras import require

    if not export_dir.is_dir():  # first of all, and not a missing package
        why = "is a file" if export_dir.exists() else "does not exist"
        raise ServingError(f"{export_dir} {why}; a folder of a SavedModel export is needed. {EXPORT_STEP}")
    # Before TensorFlow, so that a missing extra is told at once.
    for module in ("tensorflow_serving", "uvicorn", "starlette", "prometheus_client", "grpc_health", "orjson"):
        require(module, "serving")
    load_tensorflow()
    from rsseg_tf.serving.limits import BatchOptions, Limits
    from rsseg_tf.serving.server import Server, ServerOptions
    from rsseg_tf.serving.transports import netloc

    limits = Limits(
        **picked(values, "max_pixels", "max_pixels_in_work", "max_concurrent"),
        max_body_bytes=values["max_body_mb"] * _MB,
        client_timeout_s=values["client_timeout"],
        request_timeout_s=values["request_timeout"],
    )
    batching = BatchOptions(
        **picked(values, "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    )
    options = ServerOptions(
        **picked(values, "host", "rest_port", "grpc_port", "keep", "labels", "threads", "metrics_path", "cors_origins"),
        poll_s=values["poll"],
        limits=limits,
        batching=batching,
    )
    server = Server(export_dir, model_name, options, report=click.echo)

    def started() -> None:
        click.echo(f"REST: http://{netloc(options.host, server.rest_port)}/v1/models/{server.name}")
        click.echo(f"gRPC: {netloc(options.host, server.grpc_port)}")
        click.echo("Ctrl-C ends the server.")

    server.run(started)
    click.echo("The server has stopped.")


@command.command(name="init", cls=ManyValues)
@click.argument("directory", metavar="DIR", type=Path)
@needed(
    EXPORT_STEP,
    click.option("--export", "export_dir", type=Path, required=True, metavar="EXPORT_DIR",
                 help="The model: a folder of `rsseg-tf export --format savedmodel`."),
)  # fmt: skip
@click.option("--model-name", metavar="NAME", help="Name in requests. Default: the folder's.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def initialise(directory: Path, export_dir: Path, model_name: str | None, overwrite: bool) -> None:
    """Write files that deploy TensorFlow Serving for an export.

    DIR gets a compose file and a Kubernetes manifest for TensorFlow Serving's official image, its configurations of
    models, batching and monitoring, a client and a smoke test, all filled in for the model, and a README.
    """
    from rsseg_tf.cli.output import load_tensorflow

    load_tensorflow()
    from rsseg_tf.serving.deployment import write_deployment

    for path in write_deployment(directory, export_dir, model_name, overwrite=overwrite):
        click.echo(f"Wrote {path}")
