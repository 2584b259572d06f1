"""The inverse of the normal distribution function."""

from __future__ import annotations

import numpy as np


def normal_quantile(p: np.ndarray) -> np.ndarray:
    """Inverse of the normal distribution function, relative error below 1.2e-9.

    Rational approximations of P. J. Acklam, "An algorithm for computing the inverse normal cumulative distribution function".
    """
    a = [-3.969683028665376e01, 2.209460984245205e02, -2.759285104469687e02, 1.383577518672690e02]
    a += [-3.066479806614716e01, 2.506628277459239e00]
    b = [-5.447609879822406e01, 1.615858368580409e02, -1.556989798598866e02, 6.680131188771972e01]
    b += [-1.328068155288572e01, 1.0]
    c = [-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e00, -2.549732539343734e00]
    c += [4.374664141464968e00, 2.938163982698783e00]
    d = [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e00, 3.754408661907416e00, 1.0]
    p = np.clip(p, 1e-300, 1.0 - 1e-16)
    near, side = p - 0.5, np.minimum(p, 1.0 - p)
    middle = near * np.polyval(a, near * near) / np.polyval(b, near * near)
    far = np.sqrt(-2.0 * np.log(side))
    tail = np.polyval(c, far) / np.polyval(d, far)
    return np.where(side < 0.02425, np.where(p < 0.5, tail, -tail), middle)
