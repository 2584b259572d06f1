// Sums of gradients over shards: what the host's tree computes, to the bit.
//
// CuPy compiles with -ftz=true, and a compiler may join a product and a sum into one rounding. Neither may happen here, or the bits would
// depend on whether a sum was made on the device or on the host; so the two operations are named by their instructions.
#include "common.cuh"

__device__ __forceinline__ float exact_sum(float a, float b) {
#ifdef __CUDA_ARCH__
    float sum;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(sum) : "f"(a), "f"(b));
    return sum;
#else
    return a + b;
#endif
}

__device__ __forceinline__ float exact_product(float a, float b) {
#ifdef __CUDA_ARCH__
    float product;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(product) : "f"(a), "f"(b));
    return product;
#else
    return a * b;
#endif
}

__device__ __forceinline__ double exact_sum(double a, double b) { return a + b; }
__device__ __forceinline__ double exact_product(double a, double b) { return a * b; }

template <typename T> struct Leaf {
    typedef float type;
    static __device__ __forceinline__ float of(T x) { return to_float(x); }
};
template <> struct Leaf<double> {
    typedef double type;
    static __device__ __forceinline__ double of(double x) { return x; }
};

#define ALIGNED(pointer) (((unsigned long long)(pointer) & 15) == 0)

// out = x * scale, in the type of sums.
template <typename T> __device__ void fold_leaf(typename Leaf<T>::type* out, const T* x, double scale, i64 n) {
    typedef typename Leaf<T>::type L;
    const L factor = (L)scale;
    constexpr int N = 4;
    const bool packs = ALIGNED(out) && ALIGNED(x);
    const i64 full = packs ? n / N : 0;
    for (i64 i = global_thread(); i < full; i += global_threads()) {
        const Pack<T, N> from = load_pack<N>(x + i * N);
        Pack<L, N> to;
#pragma unroll
        for (int k = 0; k < N; ++k) to.at[k] = exact_product(Leaf<T>::of(from.at[k]), factor);
        store_pack<N>(out + i * N, to);
    }
    for (i64 i = full * N + global_thread(); i < n; i += global_threads()) out[i] = exact_product(Leaf<T>::of(x[i]), factor);
}

// out = a + b; out may be a or b.
template <typename L> __device__ void fold_sum(L* out, const L* a, const L* b, i64 n) {
    constexpr int N = 16 / sizeof(L);
    const bool packs = ALIGNED(out) && ALIGNED(a) && ALIGNED(b);
    const i64 full = packs ? n / N : 0;
    for (i64 i = global_thread(); i < full; i += global_threads()) {
        const Pack<L, N> left = load_pack<N>(a + i * N), right = load_pack<N>(b + i * N);
        Pack<L, N> to;
#pragma unroll
        for (int k = 0; k < N; ++k) to.at[k] = exact_sum(left.at[k], right.at[k]);
        store_pack<N>(out + i * N, to);
    }
    for (i64 i = full * N + global_thread(); i < n; i += global_threads()) out[i] = exact_sum(a[i], b[i]);
}

#define LEAF_KERNEL(suffix, T) \
    extern "C" __global__ void __launch_bounds__(256) \
        fold_leaf_##suffix(Leaf<T>::type* out, const T* x, double scale, i64 n) { \
        fold_leaf<T>(out, x, scale, n); \
    }
#define SUM_KERNEL(suffix, L) \
    extern "C" __global__ void __launch_bounds__(256) fold_sum_##suffix(L* out, const L* a, const L* b, i64 n) { \
        fold_sum<L>(out, a, b, n); \
    }

FOR_FLOATS(LEAF_KERNEL)
LEAF_KERNEL(f64, double)
SUM_KERNEL(f32, float)
SUM_KERNEL(f64, double)
