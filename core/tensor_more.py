"""Tensor's methods that are functions, too: ``x.sinh()`` is ``phalanx.sinh(x)``. Defined and documented in ``functions_*``."""

from __future__ import annotations

from . import functions_elementary as elementary
from . import functions_indexing as indexing
from . import functions_order as order
from . import functions_pairs as pairs
from . import functions_products as products
from . import functions_reduce as reduce
from . import functions_shape as shape
from . import linalg
from .graph import Variable


class TensorMore(Variable):
    """The functions as methods."""

    __slots__ = ()

    # elementwise, of one
    sinh, cosh, asin, acos = elementary.sinh, elementary.cosh, elementary.asin, elementary.acos
    asinh, acosh, atanh = elementary.asinh, elementary.acosh, elementary.atanh
    arcsin, arccos, arcsinh, arccosh, arctanh = asin, acos, asinh, acosh, atanh
    exp2, sinc, erfc, erfinv = elementary.exp2, elementary.sinc, elementary.erfc, elementary.erfinv
    lgamma, digamma, logit = elementary.lgamma, elementary.digamma, elementary.logit
    isposinf, isneginf, signbit = elementary.isposinf, elementary.isneginf, elementary.signbit
    positive, frac, round = elementary.positive, elementary.frac, elementary.round
    rad2deg, deg2rad, nan_to_num = elementary.rad2deg, elementary.deg2rad, elementary.nan_to_num

    # elementwise, of two
    atan2, hypot, logaddexp, logaddexp2 = pairs.atan2, pairs.hypot, pairs.logaddexp, pairs.logaddexp2
    arctan2 = atan2
    xlogy, fmod, copysign, fmax, fmin = pairs.xlogy, pairs.fmod, pairs.copysign, pairs.fmax, pairs.fmin
    heaviside, nextafter, gcd, lcm = pairs.heaviside, pairs.nextafter, pairs.gcd, pairs.lcm
    bitwise_and, bitwise_or, bitwise_xor = pairs.bitwise_and, pairs.bitwise_or, pairs.bitwise_xor
    bitwise_not = pairs.bitwise_not
    bitwise_left_shift, bitwise_right_shift = pairs.bitwise_left_shift, pairs.bitwise_right_shift
    __lshift__, __rshift__ = bitwise_left_shift, bitwise_right_shift
    ldexp, float_power, dist = pairs.ldexp, pairs.float_power, pairs.dist
    addcmul, addcdiv = pairs.addcmul, pairs.addcdiv

    # reductions, running and by order
    aminmax, nansum, nanmean, count_nonzero = reduce.aminmax, reduce.nansum, reduce.nanmean, reduce.count_nonzero
    norm, cumprod, cummax, cummin = reduce.norm, reduce.cumprod, reduce.cummax, reduce.cummin
    logcumsumexp, diff = reduce.logcumsumexp, reduce.diff
    msort, kthvalue, median, nanmedian = order.msort, order.kthvalue, order.median, order.nanmedian
    mode, quantile, nanquantile = order.mode, order.quantile, order.nanquantile
    histc, bincount, unique = order.histc, order.bincount, order.unique
    unique_consecutive = order.unique_consecutive

    # positions
    index_put, index_add, index_copy = indexing.index_put, indexing.index_add, indexing.index_copy
    index_fill, scatter, scatter_add = indexing.index_fill, indexing.scatter, indexing.scatter_add
    scatter_reduce, masked_scatter, take = indexing.scatter_reduce, indexing.masked_scatter, indexing.take
    put, take_along_dim, argwhere = indexing.put, indexing.take_along_dim, indexing.argwhere
    select_scatter, slice_scatter = indexing.select_scatter, indexing.slice_scatter
    diagonal_scatter = indexing.diagonal_scatter

    # shape
    tensor_split, hsplit, vsplit, dsplit = shape.tensor_split, shape.hsplit, shape.vsplit, shape.dsplit
    unfold, fliplr, flipud, rot90, tile = shape.unfold, shape.fliplr, shape.flipud, shape.rot90, shape.tile
    diagonal, diag_embed, diagflat, trace = shape.diagonal, shape.diag_embed, shape.diagflat, shape.trace

    # products and matrices
    mm, bmm, mv, dot = products.mm, products.bmm, products.mv, products.dot
    addmm, addmv, addr = products.addmm, products.addmv, products.addr
    baddbmm, addbmm, inner, vdot = products.baddbmm, products.addbmm, products.inner, products.vdot
    outer, ger = products.outer, products.ger
    kron, cross, matrix_power = products.kron, products.cross, linalg.matrix_power
    cov, corrcoef = products.cov, products.corrcoef
    inverse, det, slogdet, logdet = linalg.inv, linalg.det, linalg.slogdet, linalg.logdet
    cholesky, pinverse = linalg.cholesky, linalg.pinv
