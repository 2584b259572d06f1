// The elements of all windows laid out for a matrix product, and their sums back at their places.
#include "window.cuh"

// ---- channels last: x (samples, places, C), columns (G, samples, windows, K, C / G) --------------------------------------

// Where the columns of a window begin for the group of `channel`, element 0, and how far the next element is.
struct Columns {
    i64 at;
    int step;
    __device__ __forceinline__ Columns(const Window& w, i64 samples, int groups, i64 sample, int a, int b, int c, int channel) {
        step = w.channels / groups;
        const i64 row = ((sample * w.line[0].places + a) * w.line[1].places + b) * w.line[2].places + c;
        at = ((i64)(channel / step) * samples * w.places() + row) * w.elements() * step + channel % step;
    }
};

template <typename T, int N>
__device__ __forceinline__ void unfold_last(const T* __restrict__ x, i64 samples, const Window& w, int groups, T* __restrict__ columns) {
    const int elements = w.elements();
    const i64 all = samples * w.places() * elements * (w.channels / N);
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        i64 rest = at;
        const int channel = (int)digit(rest, w.channels / N) * N;
        const int number = (int)digit(rest, elements);
        const int c = (int)digit(rest, w.line[2].places), b = (int)digit(rest, w.line[1].places), a = (int)digit(rest, w.line[0].places);
        const int l = number % w.line[2].kernel, j = number / w.line[2].kernel % w.line[1].kernel;
        const int i = number / w.line[2].kernel / w.line[1].kernel;
        const int p = w.line[0].element(a, i), q = w.line[1].element(b, j), r = w.line[2].element(c, l);
        Pack<T, N> pack;
        if (w.line[0].has(p) && w.line[1].has(q) && w.line[2].has(r)) {
            pack = load_pack<N>(x + w.input(rest, p, q, r) + channel);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) pack.at[k] = from_float<T>(0.0f);
        }
        const Columns to(w, samples, groups, rest, a, b, c, channel);
        store_pack<N>(columns + to.at + (i64)number * to.step, pack);
    }
}

template <typename T, int N>
__device__ __forceinline__ void fold_last(const T* __restrict__ columns, i64 samples, const Window& w, int groups, T* __restrict__ x) {
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
                    const Columns from(w, samples, groups, spot.sample, a, b, c, spot.channel);
                    float values[N];
                    load_floats<N>(columns + from.at + (i64)number * from.step, values);
#pragma unroll
                    for (int k = 0; k < N; ++k) total[k] += values[k];
                }
        store_floats<N>(x + w.input(spot.sample, spot.a, spot.b, spot.c) + spot.channel, total);
    }
}

// ---- channels first, where samples and channels are one: x (samples, places), columns (samples, K, windows) -------------

template <typename T>
__device__ __forceinline__ void unfold_first(const T* __restrict__ x, i64 samples, const Window& w, T* __restrict__ columns) {
    const int elements = w.elements();
    const i64 all = samples * elements * w.places();
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        i64 rest = at;
        const int c = (int)digit(rest, w.line[2].places), b = (int)digit(rest, w.line[1].places), a = (int)digit(rest, w.line[0].places);
        const int number = (int)digit(rest, elements);
        const int l = number % w.line[2].kernel, j = number / w.line[2].kernel % w.line[1].kernel;
        const int i = number / w.line[2].kernel / w.line[1].kernel;
        const int p = w.line[0].element(a, i), q = w.line[1].element(b, j), r = w.line[2].element(c, l);
        const bool inside = w.line[0].has(p) && w.line[1].has(q) && w.line[2].has(r);
        columns[at] = inside ? x[w.input(rest, p, q, r)] : from_float<T>(0.0f);
    }
}

template <typename T>
__device__ __forceinline__ void fold_first(const T* __restrict__ columns, i64 samples, const Window& w, T* __restrict__ x) {
    const i64 all = samples * w.sizes(), places = w.places();
    for (i64 at = global_thread(); at < all; at += global_threads()) {
        const Spot spot = input_spot<1>(w, at);
        float total = 0.0f;
        int number = 0;
        for (int i = 0; i < w.line[0].kernel; ++i)
            for (int j = 0; j < w.line[1].kernel; ++j)
                for (int l = 0; l < w.line[2].kernel; ++l, ++number) {
                    const int a = w.line[0].window(spot.a, i), b = w.line[1].window(spot.b, j), c = w.line[2].window(spot.c, l);
                    if (a < 0 || b < 0 || c < 0) continue;
                    const i64 place = ((i64)a * w.line[1].places + b) * w.line[2].places + c;
                    total += to_float(columns[(spot.sample * w.elements() + number) * places + place]);
                }
        x[at] = from_float<T>(total);
    }
}

#define IM2COL(suffix, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) unfold_last_##suffix(                                           \
        const T* x, i64 samples, WINDOW_ARGUMENTS, int packed, int groups, T* columns) {                              \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (unfold_last<T, N>(x, samples, w, groups, columns)))                                                \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) fold_last_##suffix(                                             \
        const T* columns, i64 samples, WINDOW_ARGUMENTS, int packed, int groups, T* x) {                              \
        const Window w = WINDOW;                                                                                      \
        EITHER(T, (fold_last<T, N>(columns, samples, w, groups, x)))                                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) unfold_first_##suffix(                                          \
        const T* x, i64 samples, WINDOW_ARGUMENTS, T* columns) {                                                      \
        const Window w = WINDOW;                                                                                      \
        unfold_first(x, samples, w, columns);                                                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) fold_first_##suffix(                                            \
        const T* columns, i64 samples, WINDOW_ARGUMENTS, T* x) {                                                      \
        const Window w = WINDOW;                                                                                      \
        fold_first(columns, samples, w, x);                                                                           \
    }
FOR_FLOATS(IM2COL)
