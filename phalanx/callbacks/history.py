"""What a fit returns."""

from __future__ import annotations

from typing import Any

from .base import Callback, Logs


class History(Callback):
    """The numbers of every epoch; :meth:`phalanx.Trainer.fit` returns one. After a resume earlier epochs are there too.

    Attributes:
        epoch: the numbers of the epochs, from 0.
        history: name -> one value for each epoch (``loss``, metrics, ``val_loss``, ...).

    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.ones((4, 2), np.float32)
    >>> history = trainer.fit((x, x[:, :1]), epochs=3, verbose=0)
    >>> history.epoch, list(history.history), len(history.history["loss"])
    ([0, 1, 2], ['loss'], 3)
    """

    place = 10

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[Any]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": list(self.epoch), "names": list(self.history), "values": list(self.history.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = [int(number) for number in state["epoch"]]
        self.history = {name: list(values) for name, values in zip(state["names"], state["values"], strict=True)}

    def __repr__(self) -> str:
        return f"History({len(self.epoch)} epochs of {', '.join(self.history) or 'nothing'})"
