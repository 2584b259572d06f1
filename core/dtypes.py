"""PyTorch's names for element types (they are NumPy dtypes), for shapes (tuples) and for constants: ``phalanx.float32``."""

import math

import numpy as np

float16 = half = np.dtype(np.float16)
float32 = np.dtype(np.float32)
float64 = double = np.dtype(np.float64)
int8 = np.dtype(np.int8)
int16 = short = np.dtype(np.int16)
int32 = np.dtype(np.int32)
int64 = long = np.dtype(np.int64)
uint8 = np.dtype(np.uint8)
e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi
dtype, Size = np.dtype, tuple
# these three hide the built-ins, so that nothing else may stand in this file
float = float32
int = int32
bool = np.dtype(np.bool_)
