// Activations and other functions of single elements, forward and backward, in memory order.
//
// Each is a struct with `forward(x)` and `backward(g, s)`, s what the op has saved (its input or its output), and two numbers of its own.
#include "common.cuh"

#define ELEMENT_THREADS 256

template <typename... Pointers> __device__ __forceinline__ bool on_16_bytes(Pointers... arrays) {
    return (0ull | ... | (unsigned long long)arrays) % 16 == 0;
}

// y = f(x), in packs as far as they go, one element at a time where an array does not start on 16 bytes, and at the end.
template <typename T, typename F> __device__ __forceinline__ void map_one(const T* x, T* y, i64 n, F f) {
    constexpr int N = Full<T>::N;
    const i64 packs = on_16_bytes(x, y) ? n / N : 0;
    for (i64 i = global_thread(); i < packs; i += global_threads()) {
        float v[N];
        load_floats<N>(x + i * N, v);
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = f(v[k]);
        store_floats<N>(y + i * N, v);
    }
    for (i64 i = packs * N + global_thread(); i < n; i += global_threads()) y[i] = from_float<T>(f(to_float(x[i])));
}

template <typename T, typename F> __device__ __forceinline__ void map_two(const T* a, const T* b, T* y, i64 n, F f) {
    constexpr int N = Full<T>::N;
    const i64 packs = on_16_bytes(a, b, y) ? n / N : 0;
    for (i64 i = global_thread(); i < packs; i += global_threads()) {
        float v[N], w[N];
        load_floats<N>(a + i * N, v);
        load_floats<N>(b + i * N, w);
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = f(v[k], w[k]);
        store_floats<N>(y + i * N, v);
    }
    for (i64 i = packs * N + global_thread(); i < n; i += global_threads())
        y[i] = from_float<T>(f(to_float(a[i]), to_float(b[i])));
}

// ---- parts of several -------------------------------------------------------------------------------------------------

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

// log(1 + exp(x)) without overflow.
__device__ __forceinline__ float softplus_of(float x) { return largest(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// ---- functions --------------------------------------------------------------------------------------------------------

struct Numbers {
    float a, b;
};

struct relu : Numbers {
    __device__ float forward(float x) const { return x <= 0.0f ? 0.0f : x; }
    __device__ float backward(float g, float y) const { return g * (y > 0.0f ? 1.0f : 0.0f); }
};

struct sigmoid : Numbers {
    __device__ float forward(float x) const { return sigmoid_of(x); }
    __device__ float backward(float g, float y) const { return g * (y * (1.0f - y)); }
};

struct tanh_ : Numbers {
    __device__ float forward(float x) const { return tanhf(x); }
    __device__ float backward(float g, float y) const { return g * (1.0f - y * y); }
};

struct silu : Numbers {
    __device__ float forward(float x) const { return x * sigmoid_of(x); }
    __device__ float backward(float g, float x) const {
        const float s = sigmoid_of(x);
        return g * (s * (1.0f + x * (1.0f - s)));
    }
};

struct softplus : Numbers {  // a: beta, b: threshold
    __device__ float forward(float x) const { return x * a > b ? x : softplus_of(x * a) / a; }
    __device__ float backward(float g, float x) const { return g * (x * a > b ? 1.0f : sigmoid_of(x * a)); }
};

struct leaky_relu : Numbers {  // a: the slope below 0
    __device__ float forward(float x) const { return x > 0.0f ? x : x * a; }
    __device__ float backward(float g, float x) const { return x > 0.0f ? g : g * a; }
};

struct elu : Numbers {  // a: minus the limit
    __device__ float below(float x) const { return expm1f(x > 0.0f ? 0.0f : x) * a; }
    __device__ float forward(float x) const { return x > 0.0f ? x : below(x); }
    __device__ float backward(float g, float x) const { return x > 0.0f ? g : g * (below(x) + a); }
};

struct hardtanh : Numbers {  // a, b: the bounds
    __device__ float forward(float x) const {
        const float least = x < a ? a : x;
        return least > b ? b : least;
    }
    __device__ float backward(float g, float x) const { return g * (x > a && x < b ? 1.0f : 0.0f); }
};

struct hardswish : Numbers {
    __device__ float forward(float x) const {
        float v = x + 3.0f;
        v = v < 0.0f ? 0.0f : v;
        return x * (v > 6.0f ? 6.0f : v) / 6.0f;
    }
    __device__ float backward(float g, float x) const {
        return g * (x <= -3.0f ? 0.0f : x < 3.0f ? x / 3.0f + 0.5f : 1.0f);
    }
};

struct log_sigmoid : Numbers {
    __device__ float forward(float x) const { return -softplus_of(-x); }
    __device__ float backward(float g, float x) const { return g * sigmoid_of(-x); }
};

struct mish : Numbers {
    __device__ float forward(float x) const { return x * tanhf(softplus_of(x)); }
    __device__ float backward(float g, float x) const {
        const float t = tanhf(softplus_of(x));
        return g * (t + x * sigmoid_of(x) * (1.0f - t * t));
    }
};

// Hendrycks and Gimpel, Gaussian error linear units, 2016 (arXiv 1606.08415).
struct gelu : Numbers {
    __device__ float forward(float x) const { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
    __device__ float backward(float g, float x) const {
        const float cdf = 0.5f * (1.0f + erff(x * 0.70710678f));
        return g * (cdf + x * 0.39894228f * expf(-0.5f * x * x));
    }
};

struct gelu_tanh : Numbers {
    __device__ float forward(float x) const {
        return 0.5f * x * (1.0f + tanhf(0.79788456f * x * (1.0f + 0.044715f * x * x)));
    }
    __device__ float backward(float g, float x) const {
        const float square = x * x, t = tanhf(0.79788456f * x * (1.0f + 0.044715f * square));
        const float slope = 0.79788456f * x * (1.0f + 0.134145f * square);
        return g * (0.5f * (1.0f + t + (1.0f - t * t) * slope));
    }
};

struct erf_ : Numbers {
    __device__ float forward(float x) const { return erff(x); }
};

#define FORWARD(name, F, s, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)                                                              \
        name##_forward_##s(const T* x, T* y, i64 n, float a, float b) {                                                        \
        F f{a, b};                                                                                                             \
        map_one(x, y, n, [&](float v) { return f.forward(v); });                                                               \
    }
#define BOTH(name, F, s, T)                                                                                                    \
    FORWARD(name, F, s, T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)                                                              \
        name##_backward_##s(const T* g, const T* saved, T* dx, i64 n, float a, float b) {                                      \
        F f{a, b};                                                                                                             \
        map_two(g, saved, dx, n, [&](float v, float w) { return f.backward(v, w); });                                          \
    }

// ---- binary cross-entropy of logits -----------------------------------------------------------------------------------

// (1 - t) x + (1 + (p - 1) t) log(1 + exp(-x)); p is 1 for all (step 0 and no pointer), one number (step 0), or each element's.
template <typename T>
__device__ void bce_logits_forward(const T* x, const T* target, const T* pos_weight, int step, T* y, i64 n) {
    for (i64 i = global_thread(); i < n; i += global_threads()) {
        const float v = to_float(x[i]), t = to_float(target[i]);
        const float scale = pos_weight ? 1.0f + (to_float(pos_weight[i * step]) - 1.0f) * t : 1.0f;
        y[i] = from_float<T>((1.0f - t) * v + scale * softplus_of(-v));
    }
}

template <typename T>
__device__ void bce_logits_backward(const T* g, int g_step, const T* x, const T* target, const T* pos_weight, int step, T* dx, i64 n) {
    for (i64 i = global_thread(); i < n; i += global_threads()) {
        const float v = to_float(x[i]), t = to_float(target[i]);
        const float scale = pos_weight ? 1.0f + (to_float(pos_weight[i * step]) - 1.0f) * t : 1.0f;
        dx[i] = from_float<T>(to_float(g[i * g_step]) * ((1.0f - t) - scale * sigmoid_of(-v)));
    }
}

// x times a number that lies in device memory.
template <typename T> __device__ void scaled(const T* x, T* y, i64 n, const float* factor) {
    const float by = *factor;
    map_one(x, y, n, [&](float v) { return v * by; });
}

#define ELEMENTWISE(s, T)                                                                                                      \
    BOTH(relu, relu, s, T)                                                                                                     \
    BOTH(sigmoid, sigmoid, s, T)                                                                                               \
    BOTH(tanh, tanh_, s, T)                                                                                                    \
    BOTH(silu, silu, s, T)                                                                                                     \
    BOTH(softplus, softplus, s, T)                                                                                             \
    BOTH(leaky_relu, leaky_relu, s, T)                                                                                         \
    BOTH(elu, elu, s, T)                                                                                                       \
    BOTH(hardtanh, hardtanh, s, T)                                                                                             \
    BOTH(hardswish, hardswish, s, T)                                                                                           \
    BOTH(log_sigmoid, log_sigmoid, s, T)                                                                                       \
    BOTH(mish, mish, s, T)                                                                                                     \
    BOTH(gelu, gelu, s, T)                                                                                                     \
    BOTH(gelu_tanh, gelu_tanh, s, T)                                                                                           \
    FORWARD(erf, erf_, s, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)                                                              \
        scaled_##s(const T* x, T* y, i64 n, const float* factor) {                                                             \
        scaled<T>(x, y, n, factor);                                                                                            \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)                                                              \
        bce_logits_forward_##s(const T* x, const T* target, const T* pos_weight, int step, T* y, i64 n) {                      \
        bce_logits_forward<T>(x, target, pos_weight, step, y, n);                                                              \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS) bce_logits_backward_##s(                                     \
        const T* g, int g_step, const T* x, const T* target, const T* pos_weight, int step, T* dx, i64 n) {                    \
        bce_logits_backward<T>(g, g_step, x, target, pos_weight, step, dx, n);                                                 \
    }

FOR_FLOATS(ELEMENTWISE)
