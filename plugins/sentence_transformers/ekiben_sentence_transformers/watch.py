"""Looks between a model's layers whether anybody still waits for what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ekiben.contract import EngineError, GivenUp, Run


class Watch:
    """Of one model, whose computations are on one thread."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._run: Run | None = None
        for layer in _layers(model):
            layer.register_forward_pre_hook(self._before_layer)

    @contextmanager
    def over(self, run: Run) -> Iterator[None]:
        """Within, the model computes for `run`. Raises GivenUp, and EngineError for all that goes wrong."""
        self._run = run
        try:
            with torch.inference_mode():
                yield
        except (GivenUp, EngineError):
            raise
        except Exception as error:
            raise EngineError(f"the model could not compute this: {type(error).__name__}") from error
        finally:
            self._run = None

    def _before_layer(self, module: object, inputs: object) -> None:
        if self._run is not None and not self._run.wanted:
            raise GivenUp


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The model's parts, and what it has many of in a row; not the small pieces that those are made of."""
    rows = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return [model, *model.children(), *(layer for row in rows for layer in row)]
