"""Looks between a model's layers whether anybody still waits for what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ekiben.contract import EngineError, GivenUp, Run
from ekiben_sentence_transformers.graphs import GraphModel


class Watch:
    """Of one model, whose computations are on one thread."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._run: Run | None = None
        for layer in _layers(model):
            layer.register_forward_pre_hook(self._before_layer)
        for graph in model.modules():
            if isinstance(graph, GraphModel):
                graph.wanted = self._is_wanted

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
        if not self._is_wanted():
            raise GivenUp

    def _is_wanted(self) -> bool:
        return self._run is None or self._run.wanted


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The model's parts, and what it has many of in a row; not the small pieces that those are made of."""
    rows = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return [model, *model.children(), *(layer for row in rows for layer in row)]
