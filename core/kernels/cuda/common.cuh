// What all kernels share: storage types, 16-byte packs, reductions in a fixed order, Philox.
//
// The same text is compiled by NVRTC, by nvcc, and by g++ with a header that stands in for the device. Storage is float, bfloat16 or
// float16, arithmetic is float. No result depends on the order in which blocks or warps happen to run.
#ifndef PHALANX_COMMON_CUH
#define PHALANX_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long i64;

#define INFINITE __int_as_float(0x7f800000)  // NVRTC has no names for these
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

// ---- storage types ----------------------------------------------------------------------------------------------------

// KERNEL(suffix, type) once for each storage type: a kernel is a template and a macro that gives it its names.
#define FOR_FLOATS(KERNEL) KERNEL(f32, float) KERNEL(bf16, __nv_bfloat16) KERNEL(f16, __half)

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16(x); }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half(x); }

// What is rounded to 8 or 11 bits afterwards may be computed by the hardware's own function: two instructions, not ten.
template <typename T> __device__ __forceinline__ float exp_as(float x) { return __expf(x); }
template <> __device__ __forceinline__ float exp_as<float>(float x) { return expf(x); }

// ---- packs ------------------------------------------------------------------------------------------------------------

// N elements that one instruction loads or stores; the address must be a multiple of its size.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

// Elements of 16 bytes.
template <typename T> struct Full {
    static constexpr int N = 16 / sizeof(T);
    typedef Pack<T, N> type;
};

template <int N, typename T> __device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, typename T> __device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// N values as floats, and back.
template <int N, typename T> __device__ __forceinline__ void load_floats(const T* from, float* to) {
    const Pack<T, N> pack = load_pack<N>(from);
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = to_float(pack.at[k]);
}

template <int N, typename T> __device__ __forceinline__ void store_floats(T* to, const float* from) {
    Pack<T, N> pack;
#pragma unroll
    for (int k = 0; k < N; ++k) pack.at[k] = from_float<T>(from[k]);
    store_pack<N>(to, pack);
}

// A call with N elements to a pack of 16 bytes where what it goes through is `packed`, else one by one.
#define EITHER(T, call)                                                                                               \
    if (packed) {                                                                                                     \
        constexpr int N = Full<T>::N;                                                                                 \
        call;                                                                                                         \
    } else {                                                                                                          \
        constexpr int N = 1;                                                                                          \
        call;                                                                                                         \
    }

// ---- where this thread stands -----------------------------------------------------------------------------------------

__device__ __forceinline__ i64 global_thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ i64 global_threads() { return (i64)gridDim.x * blockDim.x; }

// The last of mixed digits: `number` loses it. Divisions of 32 bits are several times faster.
__device__ __forceinline__ i64 digit(i64& number, i64 base) {
    if ((number | base) >> 32) {
        const i64 rest = number / base;
        const i64 found = number - rest * base;
        number = rest;
        return found;
    }
    const unsigned whole = (unsigned)number, rest = whole / (unsigned)base;
    number = rest;
    return whole - rest * (unsigned)base;
}

// ---- reductions -------------------------------------------------------------------------------------------------------

#define EVERY_LANE 0xffffffffu

// The maximum as NumPy has it: NaN wins.
__device__ __forceinline__ float largest(float a, float b) { return (a > b || a != a) ? a : b; }

struct Sum {
    static __device__ __forceinline__ float start() { return 0.0f; }
    static __device__ __forceinline__ float join(float a, float b) { return a + b; }
};

struct Largest {
    static __device__ __forceinline__ float start() { return -INFINITE; }
    static __device__ __forceinline__ float join(float a, float b) { return largest(a, b); }
};

// Over `width` lanes side by side (a power of two); all of them get the same bits, for a + b is b + a. All 32 lanes must call.
template <typename Join> __device__ __forceinline__ float warp_reduce(float value, int width = 32) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        if (apart < width) value = Join::join(value, __shfl_xor_sync(EVERY_LANE, value, apart));
    return value;
}

__device__ __forceinline__ float warp_sum(float value) { return warp_reduce<Sum>(value); }
__device__ __forceinline__ float warp_largest(float value) { return warp_reduce<Largest>(value); }

// Over the whole block (a multiple of 32 threads); every thread calls and gets the result.
template <typename Join> __device__ __forceinline__ float block_reduce(float value) {
    __shared__ float shares[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = warp_reduce<Join>(value);
    if (lane == 0) shares[warp] = value;
    __syncthreads();
    value = warp_reduce<Join>(lane < warps ? shares[lane] : Join::start());
    __syncthreads();  // the next reduction writes to the same place
    return value;
}

__device__ __forceinline__ float block_sum(float value) { return block_reduce<Sum>(value); }
__device__ __forceinline__ float block_largest(float value) { return block_reduce<Largest>(value); }

// ---- Philox4x32-10 ----------------------------------------------------------------------------------------------------

// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
struct Words {
    unsigned at[4];
};

__device__ __forceinline__ Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
        const unsigned high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

// Words 4 i to 4 i + 3 of a draw; `draw` holds its two words of key and its three words of counter.
__device__ __forceinline__ Words random_words(i64 i, const unsigned* draw) {
    return philox((unsigned)i, draw[2], draw[3], draw[4], draw[0], draw[1]);
}

#endif
