// Maximum and average of windows and of bins, forward and backward. A thread has N channels of one place. Gradients are gathered: each
// element looks at the windows that cover it, in the order of their elements, so that nothing is added by two threads.
#include "window.cuh"

#define SHUT 4  // what is added to the winner's number where relu lets nothing through

// ---- windows ----------------------------------------------------------------------------------------------------------

template <typename T, int N>
__device__ __forceinline__ void max_forward(
    const T* __restrict__ x, i64 samples, const Window& w, int relu, T* __restrict__ y, unsigned char* __restrict__ index) {
    const i64 all = samples * w.places() * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = output_spot<N>(w, at);
        float best[N];
        Pack<unsigned char, N> winner;
#pragma unroll
        for (int k = 0; k < N; ++k) best[k] = -INFINITE, winner.at[k] = 0;
        int number = 0;
        for (int i = 0; i < w.line[0].kernel; ++i)
            for (int j = 0; j < w.line[1].kernel; ++j)
                for (int l = 0; l < w.line[2].kernel; ++l, ++number) {
                    const int a = w.line[0].element(spot.a, i), b = w.line[1].element(spot.b, j), c = w.line[2].element(spot.c, l);
                    if (!w.line[0].has(a) || !w.line[1].has(b) || !w.line[2].has(c)) continue;
                    float values[N];
                    load_floats<N>(x + w.input(spot.sample, a, b, c) + spot.channel, values);
#pragma unroll
                    for (int k = 0; k < N; ++k)  // NaN is better than all numbers and not bettered
                        if (!(values[k] <= best[k]) && best[k] == best[k]) best[k] = values[k], winner.at[k] = number;
                }
        if (relu) {
#pragma unroll
            for (int k = 0; k < N; ++k) {
                if (!(best[k] > 0.0f)) winner.at[k] += SHUT;
                if (best[k] <= 0.0f) best[k] = 0.0f;
            }
        }
        const i64 to = w.output(spot.sample, spot.a, spot.b, spot.c) + spot.channel;
        store_floats<N>(y + to, best);
        store_pack<N>(index + to, winner);
    }
}

template <typename T, int N>
__device__ __forceinline__ void max_backward(
    const T* __restrict__ gradient, const unsigned char* __restrict__ index, i64 samples, const Window& w, T* __restrict__ dx) {
    const i64 all = samples * w.sizes() * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = input_spot<N>(w, at);
        float total[N];
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] = 0.0f;
        int number = 0;
        for (int i = 0; i < w.line[0].kernel; ++i)
            for (int j = 0; j < w.line[1].kernel; ++j)
                for (int l = 0; l < w.line[2].kernel; ++l, ++number) {
                    const int a = w.line[0].window(spot.a, i), b = w.line[1].window(spot.b, j), c = w.line[2].window(spot.c, l);
                    if (a < 0 || b < 0 || c < 0) continue;
                    const i64 from = w.output(spot.sample, a, b, c) + spot.channel;
                    float g[N];
                    load_floats<N>(gradient + from, g);
                    const Pack<unsigned char, N> winner = load_pack<N>(index + from);
#pragma unroll
                    for (int k = 0; k < N; ++k)
                        if (winner.at[k] == number) total[k] += g[k];
                }
        store_floats<N>(dx + w.input(spot.sample, spot.a, spot.b, spot.c) + spot.channel, total);
    }
}

// What window (a, b, c) divides by: `divisor`, or its elements.
__device__ __forceinline__ float divisor_of(const Window& w, int a, int b, int c, int padding_counts, int divisor) {
    if (divisor) return (float)divisor;
    return (float)(w.line[0].count(a, padding_counts) * w.line[1].count(b, padding_counts) * w.line[2].count(c, padding_counts));
}

template <typename T, int N>
__device__ __forceinline__ void average_forward(
    const T* __restrict__ x, i64 samples, const Window& w, int padding_counts, int divisor, T* __restrict__ y) {
    const i64 all = samples * w.places() * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = output_spot<N>(w, at);
        float total[N];
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] = 0.0f;
        for (int i = 0; i < w.line[0].kernel; ++i)
            for (int j = 0; j < w.line[1].kernel; ++j)
                for (int l = 0; l < w.line[2].kernel; ++l) {
                    const int a = w.line[0].element(spot.a, i), b = w.line[1].element(spot.b, j), c = w.line[2].element(spot.c, l);
                    if (!w.line[0].has(a) || !w.line[1].has(b) || !w.line[2].has(c)) continue;
                    float values[N];
                    load_floats<N>(x + w.input(spot.sample, a, b, c) + spot.channel, values);
#pragma unroll
                    for (int k = 0; k < N; ++k) total[k] += values[k];
                }
        const float by = divisor_of(w, spot.a, spot.b, spot.c, padding_counts, divisor);
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] /= by;
        store_floats<N>(y + w.output(spot.sample, spot.a, spot.b, spot.c) + spot.channel, total);
    }
}

template <typename T, int N>
__device__ __forceinline__ void average_backward(
    const T* __restrict__ gradient, i64 samples, const Window& w, int padding_counts, int divisor, T* __restrict__ dx) {
    const i64 all = samples * w.sizes() * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = input_spot<N>(w, at);
        float total[N];
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] = 0.0f;
        for (int i = 0; i < w.line[0].kernel; ++i)
            for (int j = 0; j < w.line[1].kernel; ++j)
                for (int l = 0; l < w.line[2].kernel; ++l) {
                    const int a = w.line[0].window(spot.a, i), b = w.line[1].window(spot.b, j), c = w.line[2].window(spot.c, l);
                    if (a < 0 || b < 0 || c < 0) continue;
                    const float by = divisor_of(w, a, b, c, padding_counts, divisor);
                    float g[N];
                    load_floats<N>(gradient + w.output(spot.sample, a, b, c) + spot.channel, g);
#pragma unroll
                    for (int k = 0; k < N; ++k) total[k] += g[k] / by;
                }
        store_floats<N>(dx + w.input(spot.sample, spot.a, spot.b, spot.c) + spot.channel, total);
    }
}

// ---- a given number of bins -------------------------------------------------------------------------------------------
// Bin b of B takes elements floor(b size / B) up to ceil((b + 1) size / B); only size and places of a line mean something.

__device__ __forceinline__ int bin_start(const Line& line, int bin) { return (int)((i64)bin * line.size / line.places); }
__device__ __forceinline__ int bin_stop(const Line& line, int bin) {
    return (int)(((i64)(bin + 1) * line.size + line.places - 1) / line.places);
}
// The first bin that takes element `at`; those that do are neighbours. The one before it ends at ceil(bin size / B), which is not behind `at`.
__device__ __forceinline__ int first_bin(const Line& line, int at) { return (int)((i64)at * line.places / line.size); }

template <typename T, int N>
__device__ __forceinline__ void bins_average_forward(const T* __restrict__ x, i64 samples, const Window& w, T* __restrict__ y) {
    const i64 all = samples * w.places() * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = output_spot<N>(w, at);
        const int a0 = bin_start(w.line[0], spot.a), a1 = bin_stop(w.line[0], spot.a);
        const int b0 = bin_start(w.line[1], spot.b), b1 = bin_stop(w.line[1], spot.b);
        const int c0 = bin_start(w.line[2], spot.c), c1 = bin_stop(w.line[2], spot.c);
        float total[N];
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] = 0.0f;
        for (int a = a0; a < a1; ++a)
            for (int b = b0; b < b1; ++b) {
                float along[N];  // a row by itself: sums of sums lose less
#pragma unroll
                for (int k = 0; k < N; ++k) along[k] = 0.0f;
                for (int c = c0; c < c1; ++c) {
                    float values[N];
                    load_floats<N>(x + w.input(spot.sample, a, b, c) + spot.channel, values);
#pragma unroll
                    for (int k = 0; k < N; ++k) along[k] += values[k];
                }
#pragma unroll
                for (int k = 0; k < N; ++k) total[k] += along[k];
            }
        const float count = (float)(a1 - a0) * (float)(b1 - b0) * (float)(c1 - c0);
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] /= count;
        store_floats<N>(y + w.output(spot.sample, spot.a, spot.b, spot.c) + spot.channel, total);
    }
}

template <typename T, int N>
__device__ __forceinline__ void bins_average_backward(const T* __restrict__ gradient, i64 samples, const Window& w, T* __restrict__ dx) {
    const i64 all = samples * w.sizes() * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = input_spot<N>(w, at);
        float total[N];
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] = 0.0f;
        for (int a = first_bin(w.line[0], spot.a); a < w.line[0].places && bin_start(w.line[0], a) <= spot.a; ++a)
            for (int b = first_bin(w.line[1], spot.b); b < w.line[1].places && bin_start(w.line[1], b) <= spot.b; ++b)
                for (int c = first_bin(w.line[2], spot.c); c < w.line[2].places && bin_start(w.line[2], c) <= spot.c; ++c) {
                    const float count = (float)(bin_stop(w.line[0], a) - bin_start(w.line[0], a)) *
                                        (float)(bin_stop(w.line[1], b) - bin_start(w.line[1], b)) *
                                        (float)(bin_stop(w.line[2], c) - bin_start(w.line[2], c));
                    float g[N];
                    load_floats<N>(gradient + w.output(spot.sample, a, b, c) + spot.channel, g);
#pragma unroll
                    for (int k = 0; k < N; ++k) total[k] += g[k] / count;
                }
        store_floats<N>(dx + w.input(spot.sample, spot.a, spot.b, spot.c) + spot.channel, total);
    }
}

// The maximum and its place in the row-major order of depth, height and width: the first of equals, the first NaN before all.
template <typename T, int N>
__device__ __forceinline__ void bins_max_forward(
    const T* __restrict__ x, i64 samples, const Window& w, T* __restrict__ y, i64* __restrict__ index) {
    const i64 all = samples * w.places() * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = output_spot<N>(w, at);
        const int a0 = bin_start(w.line[0], spot.a), a1 = bin_stop(w.line[0], spot.a);
        const int b0 = bin_start(w.line[1], spot.b), b1 = bin_stop(w.line[1], spot.b);
        const int c0 = bin_start(w.line[2], spot.c), c1 = bin_stop(w.line[2], spot.c);
        float best[N];
        i64 winner[N];
#pragma unroll
        for (int k = 0; k < N; ++k) {
            best[k] = -INFINITE;
            winner[k] = ((i64)a0 * w.line[1].size + b0) * w.line[2].size + c0;
        }
        for (int a = a0; a < a1; ++a)
            for (int b = b0; b < b1; ++b)
                for (int c = c0; c < c1; ++c) {
                    float values[N];
                    load_floats<N>(x + w.input(spot.sample, a, b, c) + spot.channel, values);
#pragma unroll
                    for (int k = 0; k < N; ++k)
                        if (!(values[k] <= best[k]) && best[k] == best[k]) {
                            best[k] = values[k];
                            winner[k] = ((i64)a * w.line[1].size + b) * w.line[2].size + c;
                        }
                }
        const i64 to = w.output(spot.sample, spot.a, spot.b, spot.c) + spot.channel;
        store_floats<N>(y + to, best);
#pragma unroll
        for (int k = 0; k < N; ++k) index[to + k] = winner[k];
    }
}

// ---- names ------------------------------------------------------------------------------------------------------------

#define POOL(suffix, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 2) max_forward_##suffix(                                        \
        const T* x, i64 samples, WINDOW_ARGUMENTS, int packed, int relu, T* y, unsigned char* index) {                \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (max_forward<T, N>(x, samples, w, relu, y, index)))                                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2) max_backward_##suffix(                                       \
        const T* gradient, i64 samples, WINDOW_ARGUMENTS, int packed, const unsigned char* index, T* dx) {            \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (max_backward<T, N>(gradient, index, samples, w, dx)))                                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2) average_forward_##suffix(                                    \
        const T* x, i64 samples, WINDOW_ARGUMENTS, int packed, int padding_counts, int divisor, T* y) {               \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (average_forward<T, N>(x, samples, w, padding_counts, divisor, y)))                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2) average_backward_##suffix(                                   \
        const T* gradient, i64 samples, WINDOW_ARGUMENTS, int packed, int padding_counts, int divisor, T* dx) {       \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (average_backward<T, N>(gradient, samples, w, padding_counts, divisor, dx)))                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2) bins_average_forward_##suffix(                               \
        const T* x, i64 samples, WINDOW_ARGUMENTS, int packed, T* y) {                                                \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (bins_average_forward<T, N>(x, samples, w, y)))                                                     \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2) bins_average_backward_##suffix(                              \
        const T* gradient, i64 samples, WINDOW_ARGUMENTS, int packed, T* dx) {                                        \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (bins_average_backward<T, N>(gradient, samples, w, dx)))                                            \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2) bins_max_forward_##suffix(                                   \
        const T* x, i64 samples, WINDOW_ARGUMENTS, int packed, T* y, i64* index) {                                    \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (bins_max_forward<T, N>(x, samples, w, y, index)))                                                  \
    }
FOR_FLOATS(POOL)
