// Batch norm of images with their channels last: rows (a sample's place each) of channels. Alone, through relu, and through relu and
// the maximum of 2x2 blocks.
//
// A thread has N channels next to each other and goes down the rows. Sums are made in two stages: by blocks, then over blocks,
// each in an order that the shape alone decides.
#include "common.cuh"

#define THREADS 256
#define SHUT 4  // what is added to the winner's number where relu lets nothing through

// What of the rows and channels is this thread's: `lanes` threads (a power of two) lie side by side along the channels.
template <int N> struct Part {
    int lanes, height, channel, line, row_blocks;
    i64 first, step;
    bool inside;
    __device__ __forceinline__ Part(int channels, int lanes_) : lanes(lanes_) {
        height = THREADS / lanes;
        line = threadIdx.x / lanes;
        channel = (blockIdx.x * lanes + threadIdx.x % lanes) * N;
        inside = channel < channels;
        row_blocks = gridDim.y;
        first = (i64)blockIdx.y * height + line;
        step = (i64)row_blocks * height;
    }
};

// A number of each of this thread's channels; without an array it is `otherwise`.
template <int N> __device__ __forceinline__ void of_channels(const float* from, int channel, float otherwise, float* to) {
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = from ? from[channel + k] : otherwise;
}

// (x - mean) scale + shift, rounded in the same way wherever it is computed: relu's mask is made again from it.
__device__ __forceinline__ float affine(float x, float mean, float scale, float shift) {
    return fmaf(__fsub_rn(x, mean), scale, shift);
}

// ---- statistics -------------------------------------------------------------------------------------------------------

// Mean and squared deviations of a thread's rows by Welford's rule, joined over the block's lines by Chan's, which lose nothing where
// the mean is large. For each block of rows: means (C), deviations (C), and in `counts` how many rows they are of.
template <typename T, int N>
__device__ __forceinline__ void statistics(
    const T* __restrict__ x, i64 rows, int channels, int lanes, float* means, float* deviations, float* counts) {
    __shared__ float shared_mean[THREADS * N], shared_m2[THREADS * N], shared_count[THREADS];
    const Part<N> part(channels, lanes);
    float mean[N], m2[N], count = 0.0f;
#pragma unroll
    for (int k = 0; k < N; ++k) mean[k] = m2[k] = 0.0f;
    if (part.inside) {
#pragma unroll 4
        for (i64 row = part.first; row < rows; row += part.step) {
            float values[N];
            load_floats<N>(x + row * channels + part.channel, values);
            count += 1.0f;
            const float share = 1.0f / count;
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float apart = values[k] - mean[k];
                mean[k] += apart * share;
                m2[k] += apart * (values[k] - mean[k]);
            }
        }
    }
    const int me = threadIdx.x;
    shared_count[me] = count;
#pragma unroll
    for (int k = 0; k < N; ++k) shared_mean[k * THREADS + me] = mean[k], shared_m2[k * THREADS + me] = m2[k];
    for (int apart = part.height / 2; apart > 0; apart /= 2) {
        __syncthreads();
        if (part.line < apart) {
            const int other = me + apart * lanes;
            const float its = shared_count[other], all = shared_count[me] + its, share = all > 0.0f ? its / all : 0.0f;
#pragma unroll
            for (int k = 0; k < N; ++k) {
                float* my_mean = shared_mean + k * THREADS + me;
                const float difference = shared_mean[k * THREADS + other] - *my_mean;
                shared_m2[k * THREADS + me] +=
                    shared_m2[k * THREADS + other] + difference * difference * share * shared_count[me];
                *my_mean += difference * share;
            }
            shared_count[me] = all;
        }
    }
    if (part.line == 0 && part.inside) {
        const i64 at = (i64)blockIdx.y * channels + part.channel;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            means[at + k] = shared_mean[k * THREADS + me];
            deviations[at + k] = shared_m2[k * THREADS + me];
        }
        if (part.channel == 0) counts[blockIdx.y] = shared_count[me];
    }
}

// Sum over `lines` threads that stand 32 apart, for each of 32 channels.
__device__ __forceinline__ double sum_of_lines(double value, double* shares) {
    __syncthreads();
    shares[threadIdx.x] = value;
    for (int apart = THREADS / 64; apart > 0; apart /= 2) {
        __syncthreads();
        if (threadIdx.x < apart * 32) shares[threadIdx.x] += shares[threadIdx.x + apart * 32];
    }
    __syncthreads();
    return shares[threadIdx.x % 32];
}

// The blocks' statistics as those of all rows: 32 channels a block.
extern "C" __global__ void __launch_bounds__(THREADS) statistics_of_blocks(
    const float* means, const float* deviations, const float* counts, int blocks, int channels, double rows, float eps, float* mean,
    float* m2, float* inverse_std) {
    __shared__ double shares[THREADS];
    const int channel = blockIdx.x * 32 + threadIdx.x % 32, line = threadIdx.x / 32;
    const bool inside = channel < channels;
    double total = 0.0, spread = 0.0;
    for (int b = line; b < blocks && inside; b += THREADS / 32)
        total += (double)means[(i64)b * channels + channel] * counts[b];
    const double middle = sum_of_lines(total, shares) / rows;
    for (int b = line; b < blocks && inside; b += THREADS / 32) {
        const double apart = means[(i64)b * channels + channel] - middle;
        spread += deviations[(i64)b * channels + channel] + apart * apart * counts[b];
    }
    spread = sum_of_lines(spread, shares);
    if (line == 0 && inside) {
        const float deviation = (float)spread;
        mean[channel] = (float)middle;
        m2[channel] = deviation;
        inverse_std[channel] = 1.0f / sqrtf(deviation / (float)rows + eps);
    }
}

// ---- forward ----------------------------------------------------------------------------------------------------------

// y = affine(x), or affine(x) + other, or its positive part.
template <typename T, int N>
__device__ __forceinline__ void apply(
    const T* __restrict__ x, i64 rows, int channels, int lanes, const float* mean, const float* inverse_std, const float* weight,
    const float* bias, const T* __restrict__ other, int relu, T* __restrict__ y) {
    const Part<N> part(channels, lanes);
    if (!part.inside) return;
    float centre[N], scale[N], shift[N], factor[N];
    of_channels<N>(mean, part.channel, 0.0f, centre);
    of_channels<N>(inverse_std, part.channel, 1.0f, scale);
    of_channels<N>(weight, part.channel, 1.0f, factor);
    of_channels<N>(bias, part.channel, 0.0f, shift);
#pragma unroll
    for (int k = 0; k < N; ++k) scale[k] *= factor[k];
#pragma unroll 4
    for (i64 row = part.first; row < rows; row += part.step) {
        const i64 at = row * channels + part.channel;
        float values[N], added[N];
        load_floats<N>(x + at, values);
        if (other) load_floats<N>(other + at, added);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            float v = affine(values[k], centre[k], scale[k], shift[k]);
            if (other) v = to_float(from_float<T>(v)) + added[k];  // the bits of one after the other
            values[k] = relu && v <= 0.0f ? 0.0f : v;
        }
        store_floats<N>(y + at, values);
    }
}

// Places of 2x2 blocks in an image (height, width): block `at` of all samples, counted in rows of width / 2.
struct Halves {
    int height, width;
    __device__ __forceinline__ i64 corner(i64 at) const {
        const i64 j = digit(at, width / 2), i = digit(at, height / 2);
        return (at * height + i * 2) * width + j * 2;
    }
    __device__ __forceinline__ i64 element(i64 corner, int number) const { return corner + number / 2 * width + number % 2; }
};

// Better than the best so far: larger, or NaN where that is none.
__device__ __forceinline__ bool better(float v, float best) { return v > best || (v != v && best == best); }

template <typename T, int N>
__device__ __forceinline__ void apply_relu_pool(
    const T* __restrict__ x, i64 rows, Halves image, int channels, int lanes, const float* mean, const float* inverse_std,
    const float* weight, const float* bias, T* __restrict__ y, unsigned char* __restrict__ index) {
    const Part<N> part(channels, lanes);
    if (!part.inside) return;
    float centre[N], scale[N], shift[N], factor[N];
    of_channels<N>(mean, part.channel, 0.0f, centre);
    of_channels<N>(inverse_std, part.channel, 1.0f, scale);
    of_channels<N>(weight, part.channel, 1.0f, factor);
    of_channels<N>(bias, part.channel, 0.0f, shift);
#pragma unroll
    for (int k = 0; k < N; ++k) scale[k] *= factor[k];
    for (i64 row = part.first; row < rows; row += part.step) {
        const i64 corner = image.corner(row);
        float best[N];
        Pack<unsigned char, N> winner;
#pragma unroll
        for (int number = 0; number < 4; ++number) {
            float values[N];
            load_floats<N>(x + image.element(corner, number) * channels + part.channel, values);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float v = to_float(from_float<T>(affine(values[k], centre[k], scale[k], shift[k])));
                if (number == 0 || better(v, best[k])) best[k] = v, winner.at[k] = number;
            }
        }
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (!(best[k] > 0.0f)) winner.at[k] += SHUT;
            if (best[k] <= 0.0f) best[k] = 0.0f;
        }
        store_floats<N>(y + row * channels + part.channel, best);
        store_pack<N>(index + row * channels + part.channel, winner);
    }
}

// ---- backward ---------------------------------------------------------------------------------------------------------

// Adds a block's `first` and `second` up over its lines and leaves them in rows of `sums` (blocks, 2, C).
template <int N>
__device__ __forceinline__ void leave_sums(const Part<N>& part, int channels, const float* first, const float* second, float* sums) {
    __shared__ float shares[2][THREADS * N];
    const int me = threadIdx.x;
#pragma unroll
    for (int k = 0; k < N; ++k) shares[0][k * THREADS + me] = first[k], shares[1][k * THREADS + me] = second[k];
    for (int apart = part.height / 2; apart > 0; apart /= 2) {
        __syncthreads();
        if (part.line < apart) {
#pragma unroll
            for (int k = 0; k < N; ++k) {
                shares[0][k * THREADS + me] += shares[0][k * THREADS + me + apart * part.lanes];
                shares[1][k * THREADS + me] += shares[1][k * THREADS + me + apart * part.lanes];
            }
        }
    }
    if (part.line == 0 && part.inside) {
        const i64 at = (i64)blockIdx.y * 2 * channels + part.channel;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            sums[at + k] = shares[0][k * THREADS + me];
            sums[at + channels + k] = shares[1][k * THREADS + me];
        }
    }
}

// The gradient of y as it is.
template <typename T> struct Given {
    const T* gradient;
    template <int N> __device__ __forceinline__ void load(i64 row, int channels, int channel, float* g) const {
        load_floats<N>(gradient + row * channels + channel, g);
    }
};

// That of the maximum of 2x2 blocks of y: each goes to its block's winner, if relu let that through.
template <typename T> struct Pooled {
    const T* gradient;
    const unsigned char* index;
    Halves image;
    template <int N> __device__ __forceinline__ void load(i64 row, int channels, int channel, float* g) const {
        const int across = image.width / 2, down = image.height / 2;
        const int j = (int)digit(row, image.width), i = (int)digit(row, image.height);
#pragma unroll
        for (int k = 0; k < N; ++k) g[k] = 0.0f;
        if (i / 2 >= down || j / 2 >= across) return;  // odd sizes leave a rest
        const i64 at = ((row * down + i / 2) * across + j / 2) * channels + channel;
        const Pack<unsigned char, N> winner = load_pack<N>(index + at);
        load_floats<N>(gradient + at, g);
#pragma unroll
        for (int k = 0; k < N; ++k) g[k] = winner.at[k] == i % 2 * 2 + j % 2 ? g[k] : 0.0f;
    }
};

// What comes through relu: all (0), where `positive`, its output, is (1), where affine(x) is (2).
template <typename T> struct Relu {
    int mode;
    const T* positive;
    template <int N>
    __device__ __forceinline__ void operator()(
        i64 at, const float* values, const float* centre, const float* scale, const float* shift, float* g) const {
        if (mode == 1) {
            float y[N];
            load_floats<N>(positive + at, y);
#pragma unroll
            for (int k = 0; k < N; ++k) g[k] = y[k] > 0.0f ? g[k] : 0.0f;
        } else if (mode == 2) {
#pragma unroll
            for (int k = 0; k < N; ++k)
                g[k] = to_float(from_float<T>(affine(values[k], centre[k], scale[k], shift[k]))) > 0.0f ? g[k] : 0.0f;
        }
    }
};

// Sums over rows of the gradient and of the gradient times the input's distance from the mean.
template <typename T, int N, typename Gradient>
__device__ __forceinline__ void sums(
    const Gradient& gradient, const T* __restrict__ x, i64 rows, int channels, int lanes, const float* mean,
    const float* inverse_std, const float* weight, const float* bias, const Relu<T>& relu, float* out) {
    const Part<N> part(channels, lanes);
    float total[N], product[N];
#pragma unroll
    for (int k = 0; k < N; ++k) total[k] = product[k] = 0.0f;
    if (part.inside) {
        float centre[N], scale[N], shift[N], factor[N];
        of_channels<N>(mean, part.channel, 0.0f, centre);
        of_channels<N>(inverse_std, part.channel, 1.0f, scale);
        of_channels<N>(weight, part.channel, 1.0f, factor);
        of_channels<N>(bias, part.channel, 0.0f, shift);
#pragma unroll
        for (int k = 0; k < N; ++k) scale[k] *= factor[k];
#pragma unroll 2
        for (i64 row = part.first; row < rows; row += part.step) {
            const i64 at = row * channels + part.channel;
            float g[N], values[N];
            gradient.template load<N>(row, channels, part.channel, g);
            load_floats<N>(x + at, values);
            relu.template operator()<N>(at, values, centre, scale, shift, g);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                total[k] += g[k];
                product[k] = fmaf(g[k], values[k] - centre[k], product[k]);
            }
        }
    }
    leave_sums<N>(part, channels, total, product, out);
}

// Gradients of weight and bias from the blocks' sums, and how the input's depends on its distance from the mean: 32 channels a block.
extern "C" __global__ void __launch_bounds__(THREADS) sums_of_blocks(
    const float* sums, int blocks, int channels, double rows, const float* inverse_std, const float* weight, int training,
    float* of_weight, float* of_bias, float* scale, float* slope, float* constant) {
    __shared__ double shares[THREADS];
    const int channel = blockIdx.x * 32 + threadIdx.x % 32, line = threadIdx.x / 32;
    const bool inside = channel < channels;
    double total = 0.0, product = 0.0;
    for (int b = line; b < blocks && inside; b += THREADS / 32) {
        total += sums[(i64)b * 2 * channels + channel];
        product += sums[((i64)b * 2 + 1) * channels + channel];
    }
    total = sum_of_lines(total, shares);
    product = sum_of_lines(product, shares);
    if (line == 0 && inside) {
        const float inverse = inverse_std[channel], by = weight ? inverse * weight[channel] : inverse;
        const float along = (float)product * inverse;
        of_weight[channel] = along;
        of_bias[channel] = (float)total;
        scale[channel] = by;
        slope[channel] = training ? by * inverse * along / (float)-rows : 0.0f;
        constant[channel] = training ? by * (float)total / (float)-rows : 0.0f;
    }
}

// scale gradient + slope (x - mean) + constant; `through`, if it is there, gets the gradient behind relu.
template <typename T, int N, typename Gradient>
__device__ __forceinline__ void input_gradient(
    const Gradient& gradient, const T* __restrict__ x, i64 rows, int channels, int lanes, const float* mean,
    const float* inverse_std, const float* weight, const float* bias, const Relu<T>& relu, const float* scales, const float* slopes,
    const float* constants, T* __restrict__ dx, T* __restrict__ through) {
    const Part<N> part(channels, lanes);
    if (!part.inside) return;
    float centre[N], scale[N], shift[N], factor[N], by[N], slope[N], constant[N];
    of_channels<N>(mean, part.channel, 0.0f, centre);
    of_channels<N>(inverse_std, part.channel, 1.0f, scale);
    of_channels<N>(weight, part.channel, 1.0f, factor);
    of_channels<N>(bias, part.channel, 0.0f, shift);
    of_channels<N>(scales, part.channel, 0.0f, by);
    of_channels<N>(slopes, part.channel, 0.0f, slope);
    of_channels<N>(constants, part.channel, 0.0f, constant);
#pragma unroll
    for (int k = 0; k < N; ++k) scale[k] *= factor[k];
#pragma unroll 2
    for (i64 row = part.first; row < rows; row += part.step) {
        const i64 at = row * channels + part.channel;
        float g[N], values[N];
        gradient.template load<N>(row, channels, part.channel, g);
        load_floats<N>(x + at, values);
        relu.template operator()<N>(at, values, centre, scale, shift, g);
        if (through) store_floats<N>(through + at, g);
#pragma unroll
        for (int k = 0; k < N; ++k) g[k] = fmaf(g[k], by[k], fmaf(values[k] - centre[k], slope[k], constant[k]));
        store_floats<N>(dx + at, g);
    }
}

// ---- running statistics -----------------------------------------------------------------------------------------------

// running = (1 - share) running + share seen, for the mean and for the variance m2 / `degrees`; one more batch is counted.
extern "C" __global__ void __launch_bounds__(THREADS) move_running(
    float* mean, float* variance, i64* batches, const float* seen, const float* m2, float share, float degrees, int channels) {
    const int channel = blockIdx.x * THREADS + threadIdx.x;
    if (channel == 0) *batches += 1;
    if (channel >= channels) return;
    const float keep = 1.0f - share;
    mean[channel] = __fadd_rn(__fmul_rn(mean[channel], keep), __fmul_rn(seen[channel], share));
    variance[channel] = __fadd_rn(__fmul_rn(variance[channel], keep), __fmul_rn(m2[channel] / degrees, share));
}

// ---- names ------------------------------------------------------------------------------------------------------------
// `packed`: the channels fill packs of 16 bytes and all arrays begin on such an address.

#define BATCH_NORM(suffix, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 4) statistics_##suffix(                                     \
        const T* x, i64 rows, int channels, int lanes, int packed, float* means, float* deviations, float* counts) {  \
        EITHER(T, (statistics<T, N>(x, rows, channels, lanes, means, deviations, counts)))                            \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) apply_##suffix(                                          \
        const T* x, i64 rows, int channels, int lanes, int packed, const float* mean, const float* inverse_std,       \
        const float* weight, const float* bias, const T* other, int relu, T* y) {                                     \
        EITHER(T, (apply<T, N>(x, rows, channels, lanes, mean, inverse_std, weight, bias, other, relu, y)))           \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) apply_relu_pool_##suffix(                                \
        const T* x, i64 rows, int height, int width, int channels, int lanes, int packed, const float* mean,          \
        const float* inverse_std, const float* weight, const float* bias, T* y, unsigned char* index) {               \
        const Halves image = {height, width};                                                                         \
        EITHER(T, (apply_relu_pool<T, N>(                                                                             \
                      x, rows, image, channels, lanes, mean, inverse_std, weight, bias, y, index)))                   \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) sums_##suffix(                                           \
        const T* gradient, const T* x, i64 rows, int channels, int lanes, int packed, const float* mean,              \
        const float* inverse_std, const float* weight, const float* bias, int mode, const T* positive, float* out) {  \
        const Given<T> given = {gradient};                                                                            \
        const Relu<T> relu = {mode, positive};                                                                        \
        EITHER(T, (sums<T, N>(given, x, rows, channels, lanes, mean, inverse_std, weight, bias, relu, out)))          \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) pooled_sums_##suffix(                                    \
        const T* gradient, const unsigned char* index, const T* x, i64 rows, int height, int width, int channels,     \
        int lanes, int packed, const float* mean, float* out) {                                                       \
        const Pooled<T> given = {gradient, index, {height, width}};                                                   \
        const Relu<T> all = {0, nullptr};                                                                             \
        EITHER(T, (sums<T, N>(given, x, rows, channels, lanes, mean, nullptr, nullptr, nullptr, all, out)))           \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) input_gradient_##suffix(                                 \
        const T* gradient, const T* x, i64 rows, int channels, int lanes, int packed, const float* mean,              \
        const float* inverse_std, const float* weight, const float* bias, int mode, const T* positive,                \
        const float* scale, const float* slope, const float* constant, T* dx, T* through) {                           \
        const Given<T> given = {gradient};                                                                            \
        const Relu<T> relu = {mode, positive};                                                                        \
        EITHER(T, (input_gradient<T, N>(given, x, rows, channels, lanes, mean, inverse_std, weight, bias, relu,       \
                                        scale, slope, constant, dx, through)))                                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) pooled_input_gradient_##suffix(                          \
        const T* gradient, const unsigned char* index, const T* x, i64 rows, int height, int width, int channels,     \
        int lanes, int packed, const float* mean, const float* scale, const float* slope, const float* constant,      \
        T* dx) {                                                                                                      \
        const Pooled<T> given = {gradient, index, {height, width}};                                                   \
        const Relu<T> all = {0, nullptr};                                                                             \
        T* nowhere = nullptr;                                                                                         \
        EITHER(T, (input_gradient<T, N>(given, x, rows, channels, lanes, mean, nullptr, nullptr, nullptr, all, scale, \
                                        slope, constant, dx, nowhere)))                                               \
    }
FOR_FLOATS(BATCH_NORM)
