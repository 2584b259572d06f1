// Softmax and the losses over classes, a row at a time.
//
// A row that holds NaN or +inf, or -inf only, is NaN as a whole, as in the reference.
#include "rows.cuh"

// ---- softmax ----------------------------------------------------------------------------------------------------------

// exp(x - top). x is not above top, except that both may be infinite or missing, and then this is NaN.
template <typename T> __device__ __forceinline__ float share(float x, float top) { return exp_as<T>(x - top); }

struct Spread {
    float top, log_sum;
};

// Largest element of a held row and the logarithm of the sum of exponentials. Where there is nothing, `held` is -inf: no share, or NaN
// where all is NaN.
template <typename T, bool PACKED> __device__ __forceinline__ Spread spread_of_held(const float* held) {
    float top = -INFINITE, sum = 0.0f;
#pragma unroll
    for (int k = 0; k < Row<T, PACKED>::HELD; ++k) top = largest(top, held[k]);
    top = row_reduce<Largest>(top);
#pragma unroll
    for (int k = 0; k < Row<T, PACKED>::HELD; ++k) sum += share<T>(held[k], top);
    return Spread{top, logf(row_reduce<Sum>(sum))};
}

// The same of a row that is not held: one pass, in which each thread has a maximum of its own.
template <typename T, bool PACKED, bool ANY_END = false> __device__ __forceinline__ Spread spread_of(const T* row, int columns) {
    float top = -INFINITE, sum = 0.0f;
    for_row<PACKED, ANY_END>(row, columns, [&](const float* x, int c, auto count) {
        float higher = top;
#pragma unroll
        for (int k = 0; k < count.value; ++k) higher = largest(higher, x[k]);
        if (higher != top) {
            sum *= share<T>(top, higher);
            top = higher;
        }
        if (top != -INFINITE) {
#pragma unroll
            for (int k = 0; k < count.value; ++k) sum += share<T>(x[k], top);
        }
    });
    const float all = row_reduce<Largest>(top);
    sum = row_reduce<Sum>(top == -INFINITE ? 0.0f : sum * share<T>(top, all));
    return Spread{all, all == -INFINITE ? NOT_A_NUMBER : logf(sum)};
}

// exp(x - top) / sum, or its logarithm.
template <typename T, bool LOG, bool PACKED> __device__ void softmax_row(const T* x, T* y, int columns) {
    typedef Row<T, PACKED> R;
    if (columns <= (int)blockDim.x * R::HELD) {
        float held[R::HELD];
        R::load(x, columns, -INFINITE, held);
        if (LOG) {
            const Spread s = spread_of_held<T, PACKED>(held);
#pragma unroll
            for (int k = 0; k < R::HELD; ++k) held[k] = (held[k] - s.top) - s.log_sum;
        } else {
            float top = -INFINITE, sum = 0.0f;
#pragma unroll
            for (int k = 0; k < R::HELD; ++k) top = largest(top, held[k]);
            top = row_reduce<Largest>(top);
#pragma unroll
            for (int k = 0; k < R::HELD; ++k) {
                held[k] = share<T>(held[k], top);
                sum += held[k];
            }
            const float scale = 1.0f / row_reduce<Sum>(sum);
#pragma unroll
            for (int k = 0; k < R::HELD; ++k) held[k] *= scale;
        }
        R::store(y, columns, held);
    } else {
        const Spread s = spread_of<T, PACKED>(x, columns);
        map_row<PACKED>(x, y, columns, [&](float* v, int c, auto count) {
#pragma unroll
            for (int k = 0; k < count.value; ++k) {
                const float log = (v[k] - s.top) - s.log_sum;
                v[k] = LOG ? log : exp_as<T>(log);
            }
        });
    }
}

template <typename T, bool LOG> __device__ void softmax_forward(const T* x, T* y, i64 rows, i64 columns) {
    const bool packed = in_packs<T>(columns, x, y);
    const i64 r = this_row();
    if (r >= rows) return;
    if (packed)
        softmax_row<T, LOG, true>(x + r * columns, y + r * columns, columns);
    else
        softmax_row<T, LOG, false>(x + r * columns, y + r * columns, columns);
}

// y (g - sum(g y)) of softmax's y; g - exp(y) sum(g) of log-softmax's.
template <typename T, bool LOG, bool PACKED>
__device__ void softmax_row_gradient(const T* g, const T* y, T* dx, int columns) {
    typedef Row<T, PACKED> R;
    float sum = 0.0f;
    if (columns <= (int)blockDim.x * R::HELD) {
        Pack<T, R::N> gs[R::PACKS], ys[R::PACKS];
        R::load_raw(g, columns, gs);
        R::load_raw(y, columns, ys);
#pragma unroll
        for (int k = 0; k < R::HELD; ++k) sum += LOG ? R::at(gs, k) : R::at(gs, k) * R::at(ys, k);
        sum = row_reduce<Sum>(sum);
#pragma unroll
        for (int p = 0; p < R::PACKS; ++p) {
            float out[R::N];
#pragma unroll
            for (int k = 0; k < R::N; ++k) {
                const float gradient = to_float(gs[p].at[k]), of = to_float(ys[p].at[k]);
                out[k] = LOG ? gradient - exp_as<T>(of) * sum : of * (gradient - sum);
            }
            R::store_part(dx, columns, p, out);
        }
    } else {
        for_row<PACKED>(g, columns, [&](const float* v, int c, auto count) {
            float of[count.value];
            if (!LOG) load_floats<count.value>(y + c, of);
#pragma unroll
            for (int k = 0; k < count.value; ++k) sum += LOG ? v[k] : v[k] * of[k];
        });
        sum = row_reduce<Sum>(sum);
        map_row<PACKED>(g, dx, columns, [&](float* v, int c, auto count) {
            float of[count.value];
            load_floats<count.value>(y + c, of);
#pragma unroll
            for (int k = 0; k < count.value; ++k) v[k] = LOG ? v[k] - exp_as<T>(of[k]) * sum : of[k] * (v[k] - sum);
        });
    }
}

template <typename T, bool LOG>
__device__ void softmax_backward(const T* g, const T* y, T* dx, i64 rows, i64 columns) {
    const bool packed = in_packs<T>(columns, g, y, dx);
    const i64 r = this_row(), at = r * columns;
    if (r >= rows) return;
    if (packed)
        softmax_row_gradient<T, LOG, true>(g + at, y + at, dx + at, columns);
    else
        softmax_row_gradient<T, LOG, false>(g + at, y + at, dx + at, columns);
}

// ---- losses over classes ----------------------------------------------------------------------------------------------

// What the losses share: labels, the weights of classes (or null), the label that does not count, and smoothing. A label out of range
// is reported by a kernel of its own; here its row is NaN and nothing is read.
struct Target {
    const i64* labels;
    const float* weights;
    i64 ignored;
    i64 classes;
    float smoothing;

    __device__ __forceinline__ bool skips(i64 row) const { return labels[row] == ignored; }
    __device__ __forceinline__ bool fits(i64 row) const { return labels[row] >= 0 && labels[row] < classes; }
    __device__ __forceinline__ float weight_of(i64 c) const { return weights ? weights[c] : 1.0f; }

    __device__ __forceinline__ float weight(i64 row) const {
        return skips(row) ? 0.0f : fits(row) ? weight_of(labels[row]) : NOT_A_NUMBER;
    }

    // The loss of a row whose logarithm of the label's probability is given.
    template <typename T> __device__ __forceinline__ float loss(const T* x, i64 row, Spread s) const {
        const float w = weight(row);
        return w == 0.0f ? 0.0f : fits(row) ? -((to_float(x[labels[row]]) - s.top) - s.log_sum) * w : w;
    }

    // The share of smoothing in a row's loss; all threads of the row call.
    template <bool PACKED, bool ANY_END = false, typename T> __device__ __forceinline__ float smooth(const T* x, i64 row, Spread s) const {
        if (smoothing == 0.0f || skips(row)) return 0.0f;
        float sum = 0.0f;
        for_row<PACKED, ANY_END>(x, classes, [&](const float* v, int c, auto count) {
#pragma unroll
            for (int k = 0; k < count.value; ++k) sum -= ((v[k] - s.top) - s.log_sum) * weight_of(c + k);
        });
        return row_reduce<Sum>(sum) * (smoothing / (float)classes);
    }
};

// softmax * sum(q) - q with q the target's weights per class, times a row's gradient g.
struct Slope {
    float own, every, scale;
    i64 label;
    Spread spread;

    __device__ __forceinline__ Slope(const Target& target, i64 row, Spread s, float g, const float* weight_sum) : spread(s) {
        own = target.weight(row) * g * (1.0f - target.smoothing);
        every = target.skips(row) ? 0.0f : g * (target.smoothing / (float)target.classes);
        scale = own + every * (weight_sum ? *weight_sum : (float)target.classes);
        label = target.skips(row) ? -1 : target.labels[row];
    }

    template <typename T> __device__ __forceinline__ float at(const Target& target, float x, i64 c) const {
        float d = exp_as<T>((x - spread.top) - spread.log_sum) * scale;
        if (every != 0.0f) d -= every * target.weight_of(c);
        return c == label ? d - own : d;
    }
};

template <typename T, bool PACKED>
__device__ void cross_entropy_row(
    const T* row, const Target& target, float* losses, float* weights, float* tops, float* log_sums, i64 r
) {
    typedef Row<T, PACKED> R;
    const int columns = target.classes;
    Spread s;
    if (columns <= (int)blockDim.x * R::HELD) {
        float held[R::HELD];
        R::load(row, columns, -INFINITE, held);
        s = spread_of_held<T, PACKED>(held);
    } else {
        s = spread_of<T, PACKED>(row, columns);
    }
    const float smooth = target.smooth<PACKED>(row, r, s);
    if (threadIdx.x == 0) {
        losses[r] = (1.0f - target.smoothing) * target.loss(row, r, s) + smooth;
        weights[r] = target.weight(r);
        tops[r] = s.top;
        log_sums[r] = s.log_sum;
    }
}

template <typename T>
__device__ void cross_entropy_forward(
    const T* x, Target target, float* losses, float* weights, float* tops, float* log_sums, i64 rows
) {
    const bool packed = in_packs<T>(target.classes, x);
    const i64 r = this_row();
    if (r >= rows) return;
    if (packed)
        cross_entropy_row<T, true>(x + r * target.classes, target, losses, weights, tops, log_sums, r);
    else
        cross_entropy_row<T, false>(x + r * target.classes, target, losses, weights, tops, log_sums, r);
}

template <typename T, bool PACKED, bool ANY_END = false>
__device__ void cross_entropy_row_gradient(const T* x, T* dx, const Target& target, const Slope& slope) {
    map_row<PACKED, ANY_END>(x, dx, target.classes, [&](float* v, int c, auto count) {
#pragma unroll
        for (int k = 0; k < count.value; ++k) v[k] = slope.at<T>(target, v[k], c + k);
    });
}

template <typename T>
__device__ void cross_entropy_backward(
    const float* gradient, int step, const T* x, const float* tops, const float* log_sums, Target target,
    const float* weight_sum, T* dx, i64 rows
) {
    const bool packed = in_packs<T>(target.classes, x, dx);
    const i64 r = this_row(), at = r * target.classes;
    if (r >= rows) return;
    const Slope slope(target, r, Spread{tops[r], log_sums[r]}, gradient[r * step], weight_sum);
    if (packed)
        cross_entropy_row_gradient<T, true>(x + at, dx + at, target, slope);
    else
        cross_entropy_row_gradient<T, false>(x + at, dx + at, target, slope);
}

// Losses of rows of logits that lie `stride` apart, and in place of the logits their gradient: of the sum of the losses, or of their
// mean, `total` being the sum of all weights. The logits of a row are read from memory once and found in the cache after.
template <typename T, bool PACKED>
__device__ void cross_entropy_row_in_place(
    T* row, const Target& target, bool wanted, const float* total, const float* weight_sum, float* losses, i64 r
) {
    const int columns = target.classes;
    const Spread s = spread_of<T, PACKED, true>(row, columns);
    const float smooth = target.smooth<PACKED, true>(row, r, s);
    if (threadIdx.x == 0) losses[r] = (1.0f - target.smoothing) * target.loss(row, r, s) + smooth;
    if (!wanted) return;
    __syncthreads();  // the label's logit has been read
    const Slope slope(target, r, s, total && *total != 0.0f ? 1.0f / *total : 1.0f, weight_sum);
    cross_entropy_row_gradient<T, PACKED, true>(row, row, target, slope);
}

template <typename T>
__device__ void cross_entropy_in_place(
    T* x, i64 stride, Target target, bool wanted, const float* total, const float* weight_sum, float* losses
) {
    const i64 r = blockIdx.x;
    if (in_packs<T>(stride, x))
        cross_entropy_row_in_place<T, true>(x + r * stride, target, wanted, total, weight_sum, losses, r);
    else
        cross_entropy_row_in_place<T, false>(x + r * stride, target, wanted, total, weight_sum, losses, r);
}

template <typename T>
__device__ void nll_forward(const T* log_p, Target target, float* losses, float* weights, i64 rows) {
    for (i64 r = global_thread(); r < rows; r += global_threads()) {
        losses[r] = target.loss(log_p + r * target.classes, r, Spread{0.0f, 0.0f});
        weights[r] = target.weight(r);
    }
}

// dx is all zeros before.
template <typename T>
__device__ void nll_backward(const float* gradient, int step, Target target, T* dx, i64 rows) {
    for (i64 r = global_thread(); r < rows; r += global_threads())
        if (target.fits(r) && !target.skips(r))
            dx[r * target.classes + target.labels[r]] = from_float<T>(-target.weight(r) * gradient[r * step]);
}

// The weights of rows by their labels alone.
extern "C" __global__ void __launch_bounds__(256)
    label_weights(const i64* labels, const float* class_weight, i64 ignored, i64 classes, float* weights, i64 rows) {
    const Target target{labels, class_weight, ignored, classes, 0.0f};
    for (i64 r = global_thread(); r < rows; r += global_threads()) weights[r] = target.weight(r);
}

#define ROWS(s, T)                                                                                                             \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) softmax_forward_##s(const T* x, T* y, i64 rows, i64 columns) {    \
        softmax_forward<T, false>(x, y, rows, columns);                                                                        \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)                                                                  \
        log_softmax_forward_##s(const T* x, T* y, i64 rows, i64 columns) {                                                     \
        softmax_forward<T, true>(x, y, rows, columns);                                                                         \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)                                                                  \
        softmax_backward_##s(const T* g, const T* y, T* dx, i64 rows, i64 columns) {                                           \
        softmax_backward<T, false>(g, y, dx, rows, columns);                                                                   \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)                                                                  \
        log_softmax_backward_##s(const T* g, const T* y, T* dx, i64 rows, i64 columns) {                                       \
        softmax_backward<T, true>(g, y, dx, rows, columns);                                                                    \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) cross_entropy_forward_##s(                                       \
        const T* x, const i64* labels, const float* class_weight, i64 ignored, i64 classes, float smoothing, float* losses,    \
        float* weights, float* tops, float* log_sums, i64 rows) {                                                              \
        cross_entropy_forward<T>(                                                                                              \
            x, Target{labels, class_weight, ignored, classes, smoothing}, losses, weights, tops, log_sums, rows);              \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) cross_entropy_backward_##s(                                      \
        const float* gradient, int step, const T* x, const float* tops, const float* log_sums, const i64* labels,              \
        const float* class_weight, i64 ignored, i64 classes, float smoothing, const float* weight_sum, T* dx, i64 rows) {      \
        const Target target{labels, class_weight, ignored, classes, smoothing};                                                \
        cross_entropy_backward<T>(gradient, step, x, tops, log_sums, target, weight_sum, dx, rows);                            \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) cross_entropy_in_place_##s(                                      \
        T* x, i64 stride, const i64* labels, const float* class_weight, i64 ignored, i64 classes, float smoothing,             \
        int wanted, const float* total, const float* weight_sum, float* losses) {                                              \
        const Target target{labels, class_weight, ignored, classes, smoothing};                                                \
        cross_entropy_in_place<T>(x, stride, target, wanted != 0, total, weight_sum, losses);                                     \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) nll_forward_##s(                                                         \
        const T* log_p, const i64* labels, const float* class_weight, i64 ignored, i64 classes, float* losses,                 \
        float* weights, i64 rows) {                                                                                            \
        nll_forward<T>(log_p, Target{labels, class_weight, ignored, classes, 0.0f}, losses, weights, rows);                    \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) nll_backward_##s(                                                        \
        const float* gradient, int step, const i64* labels, const float* class_weight, i64 ignored, i64 classes, T* dx,        \
        i64 rows) {                                                                                                            \
        nll_backward<T>(gradient, step, Target{labels, class_weight, ignored, classes, 0.0f}, dx, rows);                       \
    }

FOR_FLOATS(ROWS)
