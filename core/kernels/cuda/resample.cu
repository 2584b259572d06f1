// Resizing along one dimension by weighted neighbours: x (outer, length, inner) -> y (outer, out, inner).
#include "common.cuh"

// Each element is a weighted sum of `from` the others along its line: numbers starts[j] up to starts[j + 1] of `index` and `weight`.
// Forward and its transpose alike.
template <typename T>
__device__ __forceinline__ void gather(
    const T* __restrict__ x, i64 outer, i64 length, i64 out, i64 inner, const int* __restrict__ starts, const int* __restrict__ index,
    const float* __restrict__ weight, T* __restrict__ y) {
    const i64 all = outer * out * inner;
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        i64 rest = at;
        const i64 i = digit(rest, inner), j = digit(rest, out), base = rest * length * inner + i;
        float total = 0.0f;
        for (int tap = starts[j]; tap < starts[j + 1]; ++tap) total += to_float(x[base + index[tap] * inner]) * weight[tap];
        y[at] = from_float<T>(total);
    }
}

#define RESAMPLE(suffix, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) gather_##suffix(                                                \
        const T* x, i64 outer, i64 length, i64 out, i64 inner, const int* starts, const int* index,                   \
        const float* weight, T* y) {                                                                                  \
        gather(x, outer, length, out, inner, starts, index, weight, y);                                               \
    }
FOR_FLOATS(RESAMPLE)
