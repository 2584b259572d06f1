"""What makers state of their GPUs: dense products, in operations a second. From the data sheets, without sparsity."""

from __future__ import annotations

_HALF = {
    "GB200": 2500e12, "B200": 2250e12, "H200 NVL": 836e12, "H200": 989e12, "GH200": 989e12, "H100 PCIe": 756e12,
    "H100 NVL": 836e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "A40": 150e12, "A30": 165e12,
    "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "V100": 125e12,
    "T4": 65e12,
}  # fmt: skip
"""bfloat16 or float16 with float32 sums. A name counts if it is part of what the driver says; the first one that is."""
_TF32_SHARE = 0.5


def stated_peak(name: str, dtype: str) -> float | None:
    """Operations a second of the GPU called ``name`` for ``dtype`` ("bfloat16", "float16" or "tf32"); None if it is not in the table.

    >>> stated_peak("NVIDIA H100 80GB HBM3", "bfloat16")
    989000000000000.0
    """
    if dtype not in ("bfloat16", "float16", "tf32"):
        return None
    before_ampere = ("V100", "T4")
    for known, peak in _HALF.items():
        if known in name:
            if known in before_ampere and dtype != "float16":
                return None
            return peak * _TF32_SHARE if dtype == "tf32" else peak
    return None
