// Random words of the counter-based generator, and dropout that draws its mask where it is applied.
//
// Word i of a draw belongs to element i in C order, so that a mask is the same on any device and of any launch. `draw` lies in device
// memory: two words of key, three of counter, and for dropout the threshold below which an element is dropped.
#include "common.cuh"

#define RANDOM_THREADS 256

extern "C" __global__ void __launch_bounds__(RANDOM_THREADS)
    random_bits(const unsigned* draw, i64 first_block, unsigned* out, i64 count) {
    for (i64 i = global_thread(); i * 4 < count; i += global_threads()) {
        const Words words = random_words(first_block + i, draw);
        if (i * 4 + 4 <= count) {  // `out` is a new array
            Pack<unsigned, 4> pack;
#pragma unroll
            for (int k = 0; k < 4; ++k) pack.at[k] = words.at[k];
            store_pack<4>(out + i * 4, pack);
        } else {
            for (int k = 0; i * 4 + k < count; ++k) out[i * 4 + k] = words.at[k];
        }
    }
}

extern "C" __global__ void __launch_bounds__(RANDOM_THREADS) random_mask(const unsigned* draw, unsigned char* keep, i64 count) {
    const unsigned threshold = draw[5];
    for (i64 i = global_thread(); i * 16 < count; i += global_threads()) {
        Pack<unsigned char, 16> pack;
#pragma unroll
        for (int block = 0; block < 4; ++block) {
            const Words words = random_words(i * 4 + block, draw);
#pragma unroll
            for (int k = 0; k < 4; ++k) pack.at[block * 4 + k] = words.at[k] >= threshold;
        }
        if (i * 16 + 16 <= count) {
            store_pack<16>(keep + i * 16, pack);
        } else {
#pragma unroll
            for (int k = 0; k < 16; ++k)
                if (i * 16 + k < count) keep[i * 16 + k] = pack.at[k];
        }
    }
}

// The words of a draw out of the memory in which numbers reach the device, to where they can stay.
extern "C" __global__ void keep_draw(const unsigned* from, unsigned* to, i64 count) {
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

// x * keep * scale: forward and backward alike; the mask is drawn anew each time and never written.
template <typename T> __device__ void dropout(const T* x, const unsigned* draw, float scale, T* y, i64 n) {
    constexpr int N = Full<T>::N;
    const unsigned threshold = draw[5];
    const bool packed = ((unsigned long long)x | (unsigned long long)y) % 16 == 0;
    for (i64 i = global_thread(); i * N < n; i += global_threads()) {
        const i64 at = i * N;
        const bool whole = packed && at + N <= n;
        float values[N];
        if (whole) {
            load_floats<N>(x + at, values);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) values[k] = at + k < n ? to_float(x[at + k]) : 0.0f;
        }
#pragma unroll
        for (int block = 0; block < N / 4; ++block) {
            const Words words = random_words(i * (N / 4) + block, draw);
#pragma unroll
            for (int k = 0; k < 4; ++k) values[block * 4 + k] *= words.at[k] >= threshold ? scale : 0.0f;
        }
        if (whole) {
            store_floats<N>(y + at, values);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k)
                if (at + k < n) y[at + k] = from_float<T>(values[k]);
        }
    }
}

// The same by a mask in memory.
template <typename T> __device__ void dropout_apply(const T* x, const unsigned char* keep, float scale, T* y, i64 n) {
    constexpr int N = Full<T>::N;
    const bool packed = ((unsigned long long)x | (unsigned long long)y | (unsigned long long)keep) % 16 == 0;
    const i64 packs = packed ? n / N : 0;
    for (i64 i = global_thread(); i < packs; i += global_threads()) {
        float values[N];
        load_floats<N>(x + i * N, values);
        const Pack<unsigned char, N> kept = load_pack<N>(keep + i * N);
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] *= kept.at[k] ? scale : 0.0f;
        store_floats<N>(y + i * N, values);
    }
    for (i64 i = packs * N + global_thread(); i < n; i += global_threads())
        y[i] = from_float<T>(to_float(x[i]) * (keep[i] ? scale : 0.0f));
}

#define RANDOM(s, T)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(RANDOM_THREADS)                                                               \
        dropout_##s(const T* x, const unsigned* draw, float scale, T* y, i64 n) {                                              \
        dropout<T>(x, draw, scale, y, n);                                                                                      \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(RANDOM_THREADS)                                                               \
        dropout_apply_##s(const T* x, const unsigned char* keep, float scale, T* y, i64 n) {                                   \
        dropout_apply<T>(x, keep, scale, y, n);                                                                                \
    }

FOR_FLOATS(RANDOM)
