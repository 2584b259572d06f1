"""What a checkpoint is of: models and optimizers by name, their arrays and numbers by their names in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.checkpoint.manifest import Manifest
from ..core.checkpoint.parts import require_fit
from ..core.errors import StateError
from .checkpoint_names import MODEL, OPTIMIZER, dot, owner


class Subject:
    """Models and optimizers by the names that the user gave; one alone has the name ""."""

    def __init__(self, models: Mapping[str, Any], optimizers: Mapping[str, Any]) -> None:
        self.models, self.optimizers = models, optimizers

    def require_known_parameters(self) -> None:
        names = self.names()
        for name, optimizer in self.optimizers.items():
            unknown = sum(p not in names for group in optimizer.param_groups for p in group["params"])
            if unknown:
                raise StateError(
                    f"Checkpointer: optimizer {name or type(optimizer).__name__} updates {unknown} parameters that are in none of "
                    "the models given, so their values would not be saved; give all models that it trains"
                )

    def names(self) -> dict[Any, str]:
        return {
            parameter: dot(prefix) + name
            for prefix, model in self.models.items()
            for name, parameter in model.named_parameters()
        }

    def frozen(self) -> set[str]:
        """The names in the checkpoint of parameters that no optimizer trains, or that want no gradient."""
        trained = {
            p for optimizer in self.optimizers.values() for group in optimizer.param_groups for p in group["params"]
        }
        return {
            f"{MODEL}{name}"
            for parameter, name in self.names().items()
            if not getattr(parameter, "requires_grad", True) or (trained and parameter not in trained)
        }

    def model_arrays(self) -> dict[str, Any]:
        return {
            f"{MODEL}{dot(prefix)}{name}": tensor.array
            for prefix, model in self.models.items()
            for name, tensor in model.state_dict().items()
        }

    def arrays(self) -> dict[str, Any]:
        """All arrays by their name in the checkpoint: live views."""
        names = self.names()
        arrays = self.model_arrays()
        for prefix, optimizer in self.optimizers.items():
            arrays |= {f"{OPTIMIZER}{dot(prefix)}{key}": a for key, a in optimizer.state_arrays(names).items()}
        return arrays

    def scalars(self) -> dict[str, Any]:
        names = self.names()
        return {owner(name): optimizer.state_scalars(names) for name, optimizer in self.optimizers.items()}

    def wants(self, name: str) -> bool:
        """Is it of something that this Checkpointer was given? Without an optimizer its state stays on disk."""
        return name.startswith(MODEL) or (name.startswith(OPTIMIZER) and bool(self.optimizers))

    def refuse_other(self, path: Path | str, manifest: Manifest) -> None:
        """Before anything is changed: models by all names, optimizers by the parameters that they hold state of."""
        require_fit(path, (t for t in manifest.tensors if t.name.startswith(MODEL)), self.model_arrays())
        owners = {owner(name) for name in self.optimizers}
        if not owners <= manifest.scalars.keys():
            missing = ", ".join(sorted(owners - manifest.scalars.keys()))
            raise StateError(
                f"checkpoint {path} has no state of {missing} (it has: {', '.join(manifest.scalars) or 'none'}); "
                "give the Checkpointer the optimizers that it was saved with, or none"
            )
