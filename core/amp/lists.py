"""Which ops autocast runs low, and which in float32; all others run in what they get, two dtypes meeting in the wider one.

As PyTorch's lists for CUDA, on every device, but for the norms: their statistics are float32 anyway, so that their output may stay in the
precision of their input, which is half of the memory traffic.
"""

from __future__ import annotations

LOW = frozenset(
    """
    linear linear_cross_entropy linear_gelu linear_relu feed_forward matmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d attention packed_attention rnn lstm gru
    """.split()  # noqa: SIM905
)
"""Products: what tensor cores do, with sums in float32."""

FIRST = {"linear_cross_entropy": 2, "add_layer_norm": 2, "add_rms_norm": 2, "batch_norm_add_relu": 2}
"""Of these only so many inputs are cast: others are weights of classes, or parameters that may stay float32."""

FLOAT32 = frozenset(
    """
    pow exp expm1 exp2 log log2 log10 log1p log_sigmoid softplus rsqrt reciprocal acos asin cosh sinh tan erfinv lgamma digamma sum mean
    prod cumsum cumprod norm p_norm logcumsumexp logaddexp softmax log_softmax cross_entropy nll_loss mse_loss bce_with_logits
    binary_cross_entropy ctc inv solve cholesky det slogdet eigh svd qr
    """.split()  # noqa: SIM905
)
"""What halves overflow or lose digits in."""

WIDEST = frozenset(
    """
    cat stack where index_put scatter_reduce atan2 add_layer_norm add_rms_norm batch_norm_add_relu add sub mul div maximum minimum
    """.split()  # noqa: SIM905
)
"""Whose inputs must be of one dtype: the widest among them."""
