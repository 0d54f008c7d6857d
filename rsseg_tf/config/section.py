"""The base of all sections of a config, and the types that their fields share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AboveZero",
    "ClassWeights",
    "ClipNorm",
    "ClipValue",
    "Fraction",
    "Loggers",
    "Momentum",
    "NotNegative",
    "Positive",
    "Section",
    "plugin_path",
]

Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
AboveZero = Annotated[float, Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
ClipNorm = Annotated[
    AboveZero | None, Field(description="largest norm of a step's gradient, over all weights; null: no limit")
]
ClipValue = Annotated[
    AboveZero | None, Field(description="largest size of each number of a gradient, before clip_norm; null: no limit")
]
Loggers = Annotated[
    tuple[Literal["tensorboard", "csv", "mlflow", "wandb"], ...],
    Field(description="where losses and scores are logged: tensorboard, csv, mlflow, wandb; [] for the console alone"),
]
ClassWeights = tuple[Annotated[float, Field(ge=0)], ...] | None


def plugin_path(value: str, field: str) -> str:
    """Returns the name of a function of a user's own as it is.

    Args:
        value: `module:function`.
        field: The key in the config, for the message.

    Raises:
        ValueError: When it is not written so.
    """
    module, _, function = value.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{field} must be module:function, such as my_models.nets:my_net; got {value!r:.80}.")
    return value


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are never converted, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
