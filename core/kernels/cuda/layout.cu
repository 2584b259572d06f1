// Images from channels first to channels last and back: a transposition of the last two of three axes.
#include "common.cuh"

#define TILE 32
#define LINES 8

// (batch, rows, columns) -> (batch, columns, rows), tile by tile through shared memory so that both sides are read and written in rows.
template <typename T>
__device__ __forceinline__ void transpose(const T* __restrict__ from, T* __restrict__ to, i64 batch, i64 rows, i64 columns) {
    __shared__ T tile[TILE][TILE + 1];  // one more, so that a column lies in 32 banks
    const int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
    const i64 across = (columns + TILE - 1) / TILE, down = (rows + TILE - 1) / TILE;
    for (i64 t = blockIdx.x; t < batch * across * down; t += gridDim.x) {
        const i64 column = t % across * TILE, row = t / across % down * TILE, base = t / across / down * rows * columns;
        for (int i = y; i < TILE; i += LINES)
            if (row + i < rows && column + x < columns) tile[i][x] = from[base + (row + i) * columns + column + x];
        __syncthreads();
        for (int i = y; i < TILE; i += LINES)
            if (column + i < columns && row + x < rows) to[base + (column + i) * rows + row + x] = tile[x][i];
        __syncthreads();
    }
}

#define TRANSPOSE(bytes, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) transpose_##bytes(                                              \
        const T* from, T* to, i64 batch, i64 rows, i64 columns) {                                                     \
        transpose(from, to, batch, rows, columns);                                                                    \
    }
TRANSPOSE(1, unsigned char)
TRANSPOSE(2, unsigned short)
TRANSPOSE(4, unsigned)
TRANSPOSE(8, unsigned long long)
