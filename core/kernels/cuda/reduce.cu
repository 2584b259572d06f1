// Sums in two stages: each block takes a fixed part of the rows, and the parts are then added in order.
#include "common.cuh"

#define LANES 32
#define LINES 8  // threads that share a column

// A part of the sums of columns: x (rows, columns), the rows of part blockIdx.y in order, 8 threads a column and N columns a thread.
// `step` is from one row to the next; a row's columns lie side by side.
template <typename T, int N>
__device__ void column_part(const T* x, i64 step, float* parts, i64 rows, i64 columns) {
    __shared__ float shares[LINES][LANES * N + 1];
    const i64 c = ((i64)blockIdx.x * LANES + threadIdx.x) * N, count = (rows + gridDim.y - 1) / gridDim.y;
    const i64 from = blockIdx.y * count, to = from + count < rows ? from + count : rows;
    float sums[N];
#pragma unroll
    for (int k = 0; k < N; ++k) sums[k] = 0.0f;
    if (c < columns) {
#pragma unroll 4
        for (i64 r = from + threadIdx.y; r < to; r += LINES) {
            float values[N];
            load_floats<N>(x + r * step + c, values);
#pragma unroll
            for (int k = 0; k < N; ++k) sums[k] += values[k];
        }
    }
#pragma unroll
    for (int k = 0; k < N; ++k) shares[threadIdx.y][threadIdx.x * N + k] = sums[k];
    __syncthreads();
    for (int k = threadIdx.y * LANES + threadIdx.x; k < LANES * N; k += LANES * LINES) {
        const i64 column = (i64)blockIdx.x * LANES * N + k;
        if (column >= columns) continue;
        float sum = shares[0][k];
        for (int line = 1; line < LINES; ++line) sum += shares[line][k];
        parts[blockIdx.y * columns + column] = sum;
    }
}

// Sums of the parts in order: 32 columns a block, 8 threads a column.
template <typename T> __device__ void column_fold(const float* parts, i64 count, i64 columns, T* out) {
    __shared__ float shares[LINES][LANES + 1];
    const i64 c = (i64)blockIdx.x * LANES + threadIdx.x;
    float sum = 0.0f;
    if (c < columns) {
#pragma unroll 4
        for (i64 p = threadIdx.y; p < count; p += LINES) sum += parts[p * columns + c];
    }
    shares[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || c >= columns) return;
    for (int line = 1; line < LINES; ++line) sum += shares[line][threadIdx.x];
    out[c] = from_float<T>(sum);
}

// A part of the sum of each channel of (N, C, S): blockIdx.x the channel, blockIdx.y the part of the samples.
template <typename T> __device__ void channel_part(const T* x, float* parts, i64 samples, i64 channels, i64 places) {
    const i64 c = blockIdx.x, count = (samples + gridDim.y - 1) / gridDim.y, from = blockIdx.y * count;
    float sum = 0.0f;
    for (i64 n = from; n < samples && n < from + count; ++n) {
        const T* plane = x + (n * channels + c) * places;
#pragma unroll 4
        for (i64 s = threadIdx.x; s < places; s += blockDim.x) sum += to_float(plane[s]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.y * channels + c] = sum;
}

// A part of each of several long sums: blockIdx.y which sum, blockIdx.x which part.
extern "C" __global__ void __launch_bounds__(512) sum_part(const float* a, const float* b, float* parts, i64 n) {
    const float* x = blockIdx.y ? b : a;
    const i64 count = (n + gridDim.x - 1) / gridDim.x, from = blockIdx.x * count, to = from + count < n ? from + count : n;
    float sum = 0.0f;
#pragma unroll 4
    for (i64 i = from + threadIdx.x; i < to; i += blockDim.x) sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(512) sum_fold(const float* parts, i64 count, float* out) {
    float sum = 0.0f;
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) sum += parts[blockIdx.x * count + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

#define REDUCE(s, T)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(LANES * LINES)                                                                \
        column_part_##s(const T* x, i64 step, float* parts, i64 rows, i64 columns) {                                           \
        column_part<T, 1>(x, step, parts, rows, columns);                                                                      \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(LANES * LINES)                                                                \
        column_part_packed_##s(const T* x, i64 step, float* parts, i64 rows, i64 columns) {                                    \
        column_part<T, Full<T>::N>(x, step, parts, rows, columns);                                                             \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(LANES * LINES)                                                                \
        column_fold_##s(const float* parts, i64 count, i64 columns, T* out) {                                                  \
        column_fold<T>(parts, count, columns, out);                                                                            \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        channel_part_##s(const T* x, float* parts, i64 samples, i64 channels, i64 places) {                                    \
        channel_part<T>(x, parts, samples, channels, places);                                                                  \
    }

FOR_FLOATS(REDUCE)
