"""Connectionist temporal classification."""

from __future__ import annotations

from typing import Any

from ..backend import array_module, device_kind
from ..errors import RangeError, ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from . import expect

_OP = "ctc_loss"


def _check(log_p: Array, labels: Array, lengths: Array, label_lengths: Array, blank: int) -> None:
    expect.one_float_dtype(_OP, log_probs=log_p)
    expect.dimensions(_OP, "log_probs", log_p, 3, "(time, batch, classes)")
    expect.dimensions(_OP, "targets", labels, 2, "(batch, labels)")
    steps, batch, classes = log_p.shape
    if not 0 <= blank < classes:
        raise RangeError(f"{_OP}: blank must be one of the {classes} classes, got {blank}")
    for name, array, most in (("input_lengths", lengths, steps), ("target_lengths", label_lengths, labels.shape[1])):
        expect.integers(_OP, name, array)
        if array.shape != (batch,):
            raise ShapeError(f"{_OP}: {name} must have one number for each of {batch} samples, got shape {array.shape}")
        expect.within(_OP, name, array, most + 1)
    expect.integers(_OP, "targets", labels)
    xp = array_module(labels)
    counted = xp.arange(labels.shape[1])[None, :] < label_lengths[:, None]
    expect.within(_OP, "label", xp.where(counted, labels, 0), classes, f": log_probs has {classes} classes")


def _ctc(
    log_p: Array, labels: Array, lengths: Array, label_lengths: Array, *, blank: int = 0, zero_infinity: bool = False
) -> tuple[Array, Any]:
    _check(log_p, labels, lengths, label_lengths, blank)
    xp = array_module(log_p)
    counted = xp.arange(labels.shape[1])[None, :] < label_lengths[:, None]
    labels = xp.where(counted, labels, blank)  # what lies behind the labels may be anything
    losses, alpha = kernel("ctc_forward", device_kind(log_p))(log_p, labels, lengths, label_lengths, blank)
    endless = losses == float("inf")
    shown = xp.where(endless, losses.dtype.type(0), losses) if zero_infinity else losses
    options = (labels, lengths, label_lengths, blank)
    return shown.astype(log_p.dtype, copy=False), (log_p, alpha, losses, options, endless if zero_infinity else None)


def _ctc_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    log_p, alpha, losses, options, endless = saved
    xp = array_module(log_p)
    dx = kernel("ctc_backward", device_kind(log_p))(gradient, log_p, alpha, losses, options)
    if endless is not None:
        dx = xp.where(endless[None, :, None], dx.dtype.type(0), dx)
    return dx, None, None, None


CTC = define("ctc", _ctc, _ctc_vjp)
"""Inputs log-probabilities (T, N, C), labels (N, S), their lengths in time (N,) and labels (N,); output the losses (N,)."""
