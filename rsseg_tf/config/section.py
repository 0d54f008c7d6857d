"""The base of all sections of a config, and the types that their fields share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AboveZero", "ClassWeights", "Fraction", "Momentum", "NotNegative", "Positive", "Section"]

Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
AboveZero = Annotated[float, Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
ClassWeights = tuple[Annotated[float, Field(ge=0)], ...] | None


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are never converted, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
