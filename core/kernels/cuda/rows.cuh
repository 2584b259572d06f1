// One row of a matrix in the registers of the threads that share it: a warp, or a whole block where the row is longer.
//
// blockDim.x threads share a row and blockDim.y rows share a block; with blockDim.x > 32 blockDim.y is 1. A row of up to
// blockDim.x * HELD elements is held whole; what is longer is gone through again instead. PACKED: every row starts on 16 bytes and
// has a multiple of 16 bytes, so that a thread has whole packs; otherwise it has single elements.
#ifndef PHALANX_ROWS_CUH
#define PHALANX_ROWS_CUH

#include "common.cuh"

#define ROW_THREADS 512  // and not more: a thread may then use 128 registers

template <typename T, bool PACKED, int COUNT = 4> struct Row {
    static constexpr int N = Full<T>::N;
    static constexpr int PACKS = COUNT;
    static constexpr int HELD = N * PACKS;

    // The column of element k of this thread.
    static __device__ __forceinline__ int column(int k) {
        return PACKED ? ((k / N) * (int)blockDim.x + (int)threadIdx.x) * N + k % N : k * (int)blockDim.x + (int)threadIdx.x;
    }

    // Whether element k of this thread is one of the row's.
    static __device__ __forceinline__ bool has(int k, int columns) {
        return (PACKED ? column(k - k % N) : column(k)) < columns;
    }

    // As it is stored, 0 where there is nothing.
    static __device__ __forceinline__ void load_raw(const T* row, int columns, Pack<T, N>* held) {
#pragma unroll
        for (int p = 0; p < PACKS; ++p) {
            if (PACKED) {
                if (has(p * N, columns)) {
                    held[p] = load_pack<N>(row + column(p * N));
                } else {
#pragma unroll
                    for (int k = 0; k < N; ++k) held[p].at[k] = from_float<T>(0.0f);
                }
            } else {
#pragma unroll
                for (int k = 0; k < N; ++k)
                    held[p].at[k] = has(p * N + k, columns) ? row[column(p * N + k)] : from_float<T>(0.0f);
            }
        }
    }

    static __device__ __forceinline__ float at(const Pack<T, N>* held, int k) { return to_float(held[k / N].at[k % N]); }

    static __device__ __forceinline__ void load(const T* row, int columns, float missing, float* held) {
#pragma unroll
        for (int p = 0; p < PACKS; ++p) load_part(row, columns, p, missing, held + p * N);
    }

    // N elements of this thread, the p-th of PACKS times; of another type than the row's too, which then starts on 16 bytes as well.
    template <typename U>
    static __device__ __forceinline__ void load_part(const U* row, int columns, int p, float missing, float* to) {
        if (PACKED) {
            if (has(p * N, columns)) {
                constexpr int AT_ONCE = N < Full<U>::N ? N : Full<U>::N;
#pragma unroll
                for (int k = 0; k < N; k += AT_ONCE) load_floats<AT_ONCE>(row + column(p * N) + k, to + k);
            } else {
#pragma unroll
                for (int k = 0; k < N; ++k) to[k] = missing;
            }
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) to[k] = has(p * N + k, columns) ? to_float(row[column(p * N + k)]) : missing;
        }
    }

    static __device__ __forceinline__ void store_part(T* row, int columns, int p, const float* from) {
        if (PACKED) {
            if (has(p * N, columns)) store_floats<N>(row + column(p * N), from);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k)
                if (has(p * N + k, columns)) row[column(p * N + k)] = from_float<T>(from[k]);
        }
    }

    static __device__ __forceinline__ void store(T* row, int columns, const float* held) {
#pragma unroll
        for (int p = 0; p < PACKS; ++p) store_part(row, columns, p, held + p * N);
    }
};

template <int N> struct Count {
    static constexpr int value = N;
};

// Calls `each(values, column of the first, Count)` for all packs (or elements) of this thread, for rows that are not held. ANY_END:
// PACKED rows need only start on 16 bytes, and what is no whole pack at their end goes by elements.
template <bool PACKED, bool ANY_END = false, typename T, typename Each>
__device__ __forceinline__ void for_row(const T* row, int columns, Each each) {
    constexpr int N = PACKED ? Full<T>::N : 1;
#pragma unroll 4
    for (int at = threadIdx.x * N; (ANY_END ? at + N <= columns : at < columns); at += blockDim.x * N) {
        float values[N];
        load_floats<N>(row + at, values);
        each(values, at, Count<N>());
    }
    for (int at = columns - columns % N + threadIdx.x; PACKED && ANY_END && at < columns; at += blockDim.x) {
        float value = to_float(row[at]);
        each(&value, at, Count<1>());
    }
}

// The same, and stores in `to` what `each` has made of the values.
template <bool PACKED, bool ANY_END = false, typename T, typename Each>
__device__ __forceinline__ void map_row(const T* row, T* to, int columns, Each each) {
    constexpr int N = PACKED ? Full<T>::N : 1;
#pragma unroll 2
    for (int at = threadIdx.x * N; (ANY_END ? at + N <= columns : at < columns); at += blockDim.x * N) {
        float values[N];
        load_floats<N>(row + at, values);
        each(values, at, Count<N>());
        store_floats<N>(to + at, values);
    }
    for (int at = columns - columns % N + threadIdx.x; PACKED && ANY_END && at < columns; at += blockDim.x) {
        float value = to_float(row[at]);
        each(&value, at, Count<1>());
        to[at] = from_float<T>(value);
    }
}

// Over the threads of this row; all of them call and get the result.
template <typename Join> __device__ __forceinline__ float row_reduce(float value) {
    return blockDim.x == 32 ? warp_reduce<Join>(value) : block_reduce<Join>(value);
}

// The number of this thread's row, where the grid has a place for each. No loop over rows: in one, the compiler would keep the addresses
// of all elements in registers.
__device__ __forceinline__ i64 this_row() { return (i64)blockIdx.x * blockDim.y + threadIdx.y; }

// Whether rows of this many elements all start on 16 bytes, in each of the arrays (null pointers do).
template <typename T, typename... Pointers> __device__ __forceinline__ bool in_packs(i64 columns, Pointers... arrays) {
    return ((unsigned long long)(columns * sizeof(T)) | ... | (unsigned long long)arrays) % 16 == 0;
}

#endif
