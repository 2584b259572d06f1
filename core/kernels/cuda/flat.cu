// Over flat arrays: norms on the chunk grid and clipping by them, whether all is finite, hashes, averages.
#include "common.cuh"

#define CHUNK 16384
#define BLOCK 256
#define NOTHING (-0.0)  // the number that changes no other in a sum

// ---- norms ------------------------------------------------------------------------------------------------------------

// How |x|^p is summed. 0: the largest |x|; 1, 2: by its own rule; 3: any p.
struct Power {
    int kind;
    float p;
    __device__ __forceinline__ float join(float total, float x) const {
        const float size = fabsf(x);
        if (kind == 0) return largest(total, size);
        return total + (kind == 2 ? size * size : kind == 1 ? size : powf(size, p));
    }
};

// One number of a chunk, by one block. Where an element's share goes depends on its place in the chunk alone.
template <typename T> __device__ __forceinline__ float chunk_norm(const T* x, int count, Power power) {
    constexpr int N = Full<T>::N;
    const bool packed = reinterpret_cast<size_t>(x) % 16 == 0;
    float total = 0.0f;
    for (int at = N * threadIdx.x; at < count; at += N * BLOCK) {
        if (packed && at + N <= count) {
            float values[N];
            load_floats<N>(x + at, values);
#pragma unroll
            for (int k = 0; k < N; ++k) total = power.join(total, values[k]);
        } else {
            for (int k = 0; k < N && at + k < count; ++k) total = power.join(total, to_float(x[at + k]));
        }
    }
    return power.kind == 0 ? block_largest(total) : block_sum(total);
}

// Chunks of several arrays: the address and the length of each, one after the other.
template <typename T>
__device__ __forceinline__ void listed_norms(const i64* chunks, int kind, float p, double* out) {
    const T* x = reinterpret_cast<const T*>(chunks[2 * blockIdx.x]);
    const float found = chunk_norm(x, (int)chunks[2 * blockIdx.x + 1], Power{kind, p});
    if (threadIdx.x == 0) out[blockIdx.x] = found;
}

template <typename T> __device__ __forceinline__ void scale_listed(const i64* chunks, const float* by) {
    constexpr int N = Full<T>::N;
    const float scale = *by;
    if (scale >= 1.0f) return;
    T* x = reinterpret_cast<T*>(chunks[2 * blockIdx.x]);
    const int count = (int)chunks[2 * blockIdx.x + 1];
    const bool packed = reinterpret_cast<size_t>(x) % 16 == 0;
    for (int at = N * threadIdx.x; at < count; at += N * BLOCK) {
        if (packed && at + N <= count) {
            float values[N];
            load_floats<N>(x + at, values);
#pragma unroll
            for (int k = 0; k < N; ++k) values[k] *= scale;
            store_floats<N>(x + at, values);
        } else {
            for (int k = 0; k < N && at + k < count; ++k) x[at + k] = from_float<T>(to_float(x[at + k]) * scale);
        }
    }
}

__device__ __forceinline__ double larger(double a, double b) { return (a > b || a != a) ? a : b; }

// 32 neighbours in pairs, pairs of pairs and so on: the tree of core/flat.py's `tree_sum`.
__device__ __forceinline__ double warp_tree(double value, bool top) {
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
        const double other = __shfl_xor_sync(EVERY_LANE, value, apart);
        value = top ? larger(value, other) : value + other;
    }
    return value;
}

// 1024 neighbours, by 1024 threads; all of them get the result.
__device__ __forceinline__ double block_tree(double value, bool top) {
    __shared__ double shares[32];
    value = warp_tree(value, top);
    if (threadIdx.x % 32 == 0) shares[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_tree(shares[threadIdx.x % 32], top);
    __syncthreads();
    return value;
}

// One block of 1024 threads, up to 1024^2 chunks: the norm, and by what gradients are multiplied to have at most the norm `most`.
extern "C" __global__ void __launch_bounds__(1024) norm_of_chunks(
    const double* chunks, i64 count, int kind, double p, double most, double* norm, float* scale) {
    __shared__ double parts[1024];
    const bool top = kind == 0;
    const double none = top ? 0.0 : NOTHING;
    parts[threadIdx.x] = none;
    for (i64 begin = 0; begin < count; begin += 1024) {
        const double part = block_tree(begin + threadIdx.x < count ? chunks[begin + threadIdx.x] : none, top);
        if (threadIdx.x == 0) parts[begin / 1024] = part;
    }
    __syncthreads();
    const double total = block_tree(parts[threadIdx.x], top) + 0.0;  // no chunks: 0, not -0
    const double found = kind == 2 ? sqrt(total) : kind == 3 ? pow(total, 1.0 / p) : total;
    if (threadIdx.x == 0) {
        *norm = found;
        *scale = (float)(most / (found + 1e-6));
    }
}

// ---- whether all is finite, and hashes --------------------------------------------------------------------------------

// Sets `found` where a number is NaN or infinite; whoever sets it writes the same.
template <typename T> __device__ __forceinline__ void find_not_finite(const T* x, i64 n, int* found) {
    constexpr int N = Full<T>::N;
    const bool packed = reinterpret_cast<size_t>(x) % 16 == 0;
    bool finite = true;
    for (i64 at = N * global_thread(); at < n; at += N * global_threads()) {
        if (packed && at + N <= n) {
            float values[N];
            load_floats<N>(x + at, values);
#pragma unroll
            for (int k = 0; k < N; ++k) finite = finite && fabsf(values[k]) < INFINITE;
        } else {
            for (int k = 0; k < N && at + k < n; ++k) finite = finite && fabsf(to_float(x[at + k])) < INFINITE;
        }
    }
    if (!finite) *found = 1;
}

typedef unsigned long long u64;

// Sums of a 64-bit mix of (word, position), one for each block: integers, whose sum has no order.
extern "C" __global__ void __launch_bounds__(BLOCK) hash_words(const unsigned* words, i64 n, u64 start, u64* out) {
    __shared__ u64 shares[BLOCK];
    const u64 first = 0x9E3779B97F4A7C15ull, second = 0xD6E8FEB86659FD93ull;
    u64 total = 0;
    for (i64 i = global_thread(); i < n; i += global_threads()) {
        u64 x = (start + (u64)i + 1) * first;
        x = (x ^ words[i]) * second;
        x = (x ^ (x >> 32)) * second;
        total += x ^ (x >> 32);
    }
    shares[threadIdx.x] = total;
    for (int apart = BLOCK / 2; apart > 0; apart /= 2) {
        __syncthreads();
        if (threadIdx.x < apart) shares[threadIdx.x] += shares[threadIdx.x + apart];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = shares[0];
}

// ---- element by element -----------------------------------------------------------------------------------------------

// average += share (data - average)
template <typename T> __device__ __forceinline__ void average(T* mean, const T* data, i64 n, const float* numbers) {
    const float share = numbers[0];
    for (i64 i = global_thread(); i < n; i += global_threads()) {
        const float held = to_float(mean[i]);
        mean[i] = from_float<T>(__fadd_rn(held, __fmul_rn(__fsub_rn(to_float(data[i]), held), share)));
    }
}

// Each gets the other's bits.
extern "C" __global__ void __launch_bounds__(BLOCK) exchange(unsigned char* first, unsigned char* second, i64 bytes) {
    const bool packed = (reinterpret_cast<size_t>(first) | reinterpret_cast<size_t>(second)) % 16 == 0;
    for (i64 at = 16 * global_thread(); at < bytes; at += 16 * global_threads()) {
        if (packed && at + 16 <= bytes) {
            const Pack<unsigned char, 16> kept = load_pack<16>(first + at);
            store_pack<16>(first + at, load_pack<16>(second + at));
            store_pack<16>(second + at, kept);
        } else {
            for (i64 i = at; i < bytes && i < at + 16; ++i) {
                const unsigned char kept = first[i];
                first[i] = second[i];
                second[i] = kept;
            }
        }
    }
}

#define FLAT(suffix, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK) norms_##suffix(                                               \
        const i64* chunks, int kind, float p, double* out) {                                                          \
        listed_norms<T>(chunks, kind, p, out);                                                                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(BLOCK) scale_##suffix(const i64* chunks, const float* by) {          \
        scale_listed<T>(chunks, by);                                                                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(BLOCK) not_finite_##suffix(const T* x, i64 n, int* found) {          \
        find_not_finite(x, n, found);                                                                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(BLOCK) average_##suffix(                                             \
        T* mean, const T* data, i64 n, const float* numbers) {                                                        \
        average(mean, data, n, numbers);                                                                              \
    }
FOR_FLOATS(FLAT)
