// Optimizer updates: one pass over a piece of the flat store, four elements a thread at a time.
//
// What changes from step to step comes from device memory (`numbers`), so that a captured graph can be given new ones. Each update
// sees one element; how it is loaded and stored is the same for all of them.
#include "common.cuh"

// A float whose products and sums the compiler must not contract: what becomes of an element must not depend on whether it was
// loaded alone or in a pack, and is what the CPU makes of it (but for subnormal numbers, which the device takes as 0).
struct Exact {
    float value;
    __device__ __forceinline__ Exact(float x = 0.0f) : value(x) {}
};

__device__ __forceinline__ Exact operator+(Exact a, Exact b) { return __fadd_rn(a.value, b.value); }
__device__ __forceinline__ Exact operator-(Exact a, Exact b) { return __fsub_rn(a.value, b.value); }
__device__ __forceinline__ Exact operator*(Exact a, Exact b) { return __fmul_rn(a.value, b.value); }
__device__ __forceinline__ Exact operator/(Exact a, Exact b) { return __fdiv_rn(a.value, b.value); }
__device__ __forceinline__ Exact root(Exact a) { return __fsqrt_rn(a.value); }
__device__ __forceinline__ Exact magnitude(Exact a) { return fabsf(a.value); }
__device__ __forceinline__ Exact larger(Exact a, Exact b) { return largest(a.value, b.value); }
__device__ __forceinline__ bool set(Exact a) { return a.value != 0.0f; }

// -1, 0 or 1; of NaN it is NaN.
__device__ __forceinline__ Exact sign(Exact a) {
    return a.value > 0.0f ? 1.0f : a.value < 0.0f ? -1.0f : a.value == 0.0f ? 0.0f : a.value;
}

// ---- one element ------------------------------------------------------------------------------------------------------
// p: the parameter, g: its gradient, a, b, c: what the optimizer keeps for it; `has_a`...: whether it keeps that.

struct Kept {
    bool a, b, c;
};

// Weight decay: `keep` multiplies the parameter (decoupled), `decay` times the parameter joins the gradient. 1 and 0: none.
struct Decay {
    Exact keep, decay;
    __device__ __forceinline__ Decay(const float* n) : keep(n[0]), decay(n[1]) {}
    __device__ __forceinline__ void operator()(Exact& p, Exact& g) const {
        if (keep.value != 1.0f) p = p * keep;
        if (set(decay)) g = g + p * decay;
    }
};

// m and v of Adam and its relatives.
struct Moments {
    Exact share1, beta2, share2;
    __device__ __forceinline__ Moments(const float* n) : share1(n[0]), beta2(n[1]), share2(n[2]) {}
    __device__ __forceinline__ void operator()(Exact g, Exact& m, Exact& v) const {
        m = m + (g - m) * share1;
        v = v * beta2 + g * g * share2;
    }
};

struct Sgd {
    Decay decay;
    Exact lr, momentum, share, nesterov, first, ratio;
    __device__ __forceinline__ Sgd(const float* n)
        : decay(n), lr(n[2]), momentum(n[3]), share(n[4]), nesterov(n[5]), first(n[6]), ratio(1.0f) {}
    __device__ __forceinline__ void operator()(Kept kept, Exact& p, Exact g, Exact& a, Exact&, Exact&) const {
        decay(p, g);
        if (ratio.value != 1.0f) g = g * ratio;
        if (kept.a) {
            a = set(first) ? g : a * momentum + g * share;
            g = set(nesterov) ? g + a * momentum : a;
        }
        p = p - g * lr;
    }
};

struct Adam {
    Decay decay;
    Moments moments;
    Exact step_size, correction, eps;
    __device__ __forceinline__ Adam(const float* n)
        : decay(n), moments(n + 2), step_size(n[5]), correction(n[6]), eps(n[7]) {}
    __device__ __forceinline__ void operator()(Kept kept, Exact& p, Exact g, Exact& a, Exact& b, Exact& c) const {
        decay(p, g);
        moments(g, a, b);
        if (kept.c) c = larger(c, b);
        p = p - a / (root(kept.c ? c : b) * correction + eps) * step_size;
    }
};

struct Nadam {
    Decay decay;
    Moments moments;
    Exact of_gradient, of_mean, correction, eps;
    __device__ __forceinline__ Nadam(const float* n)
        : decay(n), moments(n + 2), of_gradient(n[5]), of_mean(n[6]), correction(n[7]), eps(n[8]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact& b, Exact&) const {
        decay(p, g);
        moments(g, a, b);
        p = p - (g * of_gradient + a * of_mean) / (root(b) * correction + eps);
    }
};

struct Radam {
    Decay decay;
    Moments moments;
    Exact rate, adaptive, eps;
    __device__ __forceinline__ Radam(const float* n) : decay(n), moments(n + 2), rate(n[5]), adaptive(n[6]), eps(n[7]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact& b, Exact&) const {
        decay(p, g);
        moments(g, a, b);
        const Exact w = a * rate;
        p = p - (set(adaptive) ? w / (root(b) + eps) : w);
    }
};

struct Adamax {
    Decay decay;
    Exact share1, beta2, rate, eps;
    __device__ __forceinline__ Adamax(const float* n) : decay(n), share1(n[2]), beta2(n[3]), rate(n[4]), eps(n[5]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact& b, Exact&) const {
        decay(p, g);
        a = a + (g - a) * share1;
        b = larger(b * beta2, magnitude(g) + eps);
        p = p - a / b * rate;
    }
};

struct Rmsprop {
    Decay decay;
    Exact alpha, share, eps, momentum, lr;
    __device__ __forceinline__ Rmsprop(const float* n)
        : decay(n), alpha(n[2]), share(n[3]), eps(n[4]), momentum(n[5]), lr(n[6]) {}
    __device__ __forceinline__ void operator()(Kept kept, Exact& p, Exact g, Exact& a, Exact& b, Exact& c) const {
        decay(p, g);
        a = a * alpha + g * g * share;
        Exact variance = a;
        if (kept.b) {
            b = b + (g - b) * share;
            variance = larger(a - b * b, 0.0f);  // rounding may take a variance of 0 below it
        }
        Exact w = g / (root(variance) + eps);
        if (kept.c) w = c = c * momentum + w;
        p = p - w * lr;
    }
};

struct Adagrad {
    Decay decay;
    Exact rate, eps, initial, first;
    __device__ __forceinline__ Adagrad(const float* n) : decay(n), rate(n[2]), eps(n[3]), initial(n[4]), first(n[5]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact&, Exact&) const {
        decay(p, g);
        a = (set(first) ? initial : a) + g * g;
        p = p - g / (root(a) + eps) * rate;
    }
};

struct Adadelta {
    Decay decay;
    Exact rho, share, eps, lr;
    __device__ __forceinline__ Adadelta(const float* n) : decay(n), rho(n[2]), share(n[3]), eps(n[4]), lr(n[5]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact& b, Exact&) const {
        decay(p, g);
        a = a * rho + g * g * share;
        const Exact d = root(b + eps) / root(a + eps) * g;
        b = b * rho + d * d * share;
        p = p - d * lr;
    }
};

struct Asgd {
    Decay decay;
    Exact keep, eta, mu;
    __device__ __forceinline__ Asgd(const float* n) : decay(n), keep(n[2]), eta(n[3]), mu(n[4]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact&, Exact&) const {
        decay(p, g);
        p = p * keep - g * eta;
        a = mu.value == 1.0f ? p : a + (p - a) * mu;
    }
};

struct Rprop {
    Exact lr, shrink, grow, least, most, first;
    __device__ __forceinline__ Rprop(const float* n)
        : lr(n[0]), shrink(n[1]), grow(n[2]), least(n[3]), most(n[4]), first(n[5]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact& b, Exact&) const {
        const float agreement = (g * a).value;
        Exact size = (set(first) ? lr : b) * (agreement > 0.0f ? grow : agreement < 0.0f ? shrink : Exact(1.0f));
        size = size.value < least.value ? least : size;
        b = size.value > most.value ? most : size;
        a = agreement < 0.0f ? Exact(0.0f) : g;
        p = p - sign(a) * b;
    }
};

struct Lion {
    Decay decay;
    Exact lr, beta1, share1, beta2, share2;
    __device__ __forceinline__ Lion(const float* n)
        : decay(n), lr(n[2]), beta1(n[3]), share1(n[4]), beta2(n[5]), share2(n[6]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact&, Exact&) const {
        decay(p, g);
        p = p - sign(a * beta1 + g * share1) * lr;
        a = a * beta2 + g * share2;
    }
};

// LAMB's direction goes to c; the parameter is moved when both norms are known.
struct Lamb {
    Moments moments;
    Exact scale, correction, eps, decay;
    __device__ __forceinline__ Lamb(const float* n)
        : moments(n), scale(n[3]), correction(n[4]), eps(n[5]), decay(n[6]) {}
    __device__ __forceinline__ void operator()(Kept, Exact& p, Exact g, Exact& a, Exact& b, Exact& c) const {
        moments(g, a, b);
        c = a * scale / (root(b) * correction + eps);
        if (set(decay)) c = c + p * decay;
    }
};

// ---- all elements -----------------------------------------------------------------------------------------------------

#define EACH 4

template <typename T> __device__ __forceinline__ bool in_packs(const T* pointer) {
    return reinterpret_cast<size_t>(pointer) % (sizeof(T) * EACH) == 0;
}

template <typename T> __device__ __forceinline__ void load(const T* from, int count, bool packed, Exact* to) {
    if (packed && count == EACH) {
        const Pack<T, EACH> pack = load_pack<EACH>(from);
#pragma unroll
        for (int k = 0; k < EACH; ++k) to[k] = to_float(pack.at[k]);
    } else {
#pragma unroll
        for (int k = 0; k < EACH; ++k) to[k] = k < count ? to_float(from[k]) : 0.0f;
    }
}

template <typename T> __device__ __forceinline__ void store(T* to, int count, bool packed, const Exact* from) {
    if (packed && count == EACH) {
        Pack<T, EACH> pack;
#pragma unroll
        for (int k = 0; k < EACH; ++k) pack.at[k] = from_float<T>(from[k].value);
        store_pack<EACH>(to, pack);
    } else {
#pragma unroll
        for (int k = 0; k < EACH; ++k)
            if (k < count) to[k] = from_float<T>(from[k].value);
    }
}

// The elements that this thread's turn at `at` covers; `moves`: whether the update changes the parameter.
template <bool moves, typename Update, typename T, typename C>
__device__ __forceinline__ void update_at(
    const Update& update, T* data, const T* gradient, T* a, T* b, C* c, i64 at, i64 end, Exact* p, Exact* z) {
    const int count = end - at < EACH ? (int)(end - at) : EACH;
    const bool packed = in_packs(data + at) && in_packs(gradient + at) && (!a || in_packs(a + at)) &&
                        (!b || in_packs(b + at)) && (!c || in_packs(c + at));
    const Kept kept = {a != nullptr, b != nullptr, c != nullptr};
    Exact g[EACH], x[EACH], y[EACH];
    load(data + at, count, packed, p);
    load(gradient + at, count, packed, g);
    if (a) load(a + at, count, packed, x);
    if (b) load(b + at, count, packed, y);
    if (moves && c) load(c + at, count, packed, z);
#pragma unroll
    for (int k = 0; k < EACH; ++k) update(kept, p[k], g[k], x[k], y[k], z[k]);
    if (moves) store(data + at, count, packed, p);
    if (a) store(a + at, count, packed, x);
    if (b) store(b + at, count, packed, y);
    if (c) store(c + at, count, packed, z);
}

template <typename Update, typename T>
__device__ __forceinline__ void update_all(
    const Update& update, T* data, const T* gradient, T* a, T* b, T* c, i64 n) {
    for (i64 at = EACH * global_thread(); at < n; at += EACH * global_threads()) {
        Exact p[EACH], z[EACH];
        update_at<true>(update, data, gradient, a, b, c, at, n, p, z);
    }
}

#define UPDATE(name, Update, suffix, T)                                                                               \
    extern "C" __global__ void __launch_bounds__(256) name##_##suffix(                                                \
        T* data, const T* gradient, T* a, T* b, T* c, i64 n, const float* numbers) {                                  \
        update_all(Update(numbers), data, gradient, a, b, c, n);                                                      \
    }
#define UPDATES(suffix, T)                                                                                            \
    UPDATE(sgd, Sgd, suffix, T)                                                                                       \
    UPDATE(adam, Adam, suffix, T)                                                                                     \
    UPDATE(nadam, Nadam, suffix, T)                                                                                   \
    UPDATE(radam, Radam, suffix, T)                                                                                   \
    UPDATE(adamax, Adamax, suffix, T)                                                                                 \
    UPDATE(rmsprop, Rmsprop, suffix, T)                                                                               \
    UPDATE(adagrad, Adagrad, suffix, T)                                                                               \
    UPDATE(adadelta, Adadelta, suffix, T)                                                                             \
    UPDATE(asgd, Asgd, suffix, T)                                                                                     \
    UPDATE(rprop, Rprop, suffix, T)                                                                                   \
    UPDATE(lion, Lion, suffix, T)
FOR_FLOATS(UPDATES)

// ---- by the norms of a whole parameter --------------------------------------------------------------------------------

#define CHUNK 16384  // of the grid that the norms of a parameter are summed over: core/flat.py

// One block for each chunk. Leaves the direction in c and the chunk's sums of squares of parameter and direction in `squares`.
template <typename T>
__device__ __forceinline__ void lamb_direction(
    T* data, const T* gradient, T* a, T* b, float* c, i64 n, const float* numbers, float* squares) {
    const Lamb update(numbers);
    const i64 begin = (i64)blockIdx.x * CHUNK, end = n - begin < CHUNK ? n : begin + CHUNK;
    float of_data = 0.0f, of_direction = 0.0f;
    for (i64 at = begin + EACH * threadIdx.x; at < end; at += EACH * blockDim.x) {
        Exact p[EACH], z[EACH];
        update_at<false>(update, data, gradient, a, b, c, at, end, p, z);
#pragma unroll
        for (int k = 0; k < EACH; ++k)
            if (k < end - at) {
                of_data += p[k].value * p[k].value;
                of_direction += z[k].value * z[k].value;
            }
    }
    of_data = block_sum(of_data);
    of_direction = block_sum(of_direction);
    if (threadIdx.x == 0) {
        squares[2 * blockIdx.x] = of_data;
        squares[2 * blockIdx.x + 1] = of_direction;
    }
}

// The same sums for parameter and gradient, and nothing else: what LARS wants.
template <typename T>
__device__ __forceinline__ void squares_of_two(const T* data, const T* gradient, i64 n, float* squares) {
    const i64 begin = (i64)blockIdx.x * CHUNK, end = n - begin < CHUNK ? n : begin + CHUNK;
    float of_data = 0.0f, of_gradient = 0.0f;
    for (i64 at = begin + EACH * threadIdx.x; at < end; at += EACH * blockDim.x) {
        const int count = end - at < EACH ? (int)(end - at) : EACH;
        Exact p[EACH], g[EACH];
        load(data + at, count, in_packs(data + at), p);
        load(gradient + at, count, in_packs(gradient + at), g);
#pragma unroll
        for (int k = 0; k < EACH; ++k) {
            of_data += p[k].value * p[k].value;
            of_gradient += g[k].value * g[k].value;
        }
    }
    of_data = block_sum(of_data);
    of_gradient = block_sum(of_gradient);
    if (threadIdx.x == 0) {
        squares[2 * blockIdx.x] = of_data;
        squares[2 * blockIdx.x + 1] = of_gradient;
    }
}

// One block of 256 threads: both norms from the chunks' sums, in an order that their number alone decides.
__device__ __forceinline__ void norms_of_two(const float* squares, i64 chunks, double* norms) {
    __shared__ double shares[2][256];
    double first = 0.0, second = 0.0;
    for (i64 c = threadIdx.x; c < chunks; c += 256) {
        first += squares[2 * c];
        second += squares[2 * c + 1];
    }
    shares[0][threadIdx.x] = first;
    shares[1][threadIdx.x] = second;
    for (int apart = 128; apart > 0; apart /= 2) {
        __syncthreads();
        if (threadIdx.x < apart) {
            shares[0][threadIdx.x] += shares[0][threadIdx.x + apart];
            shares[1][threadIdx.x] += shares[1][threadIdx.x + apart];
        }
    }
    __syncthreads();
    norms[0] = sqrt(shares[0][0]);
    norms[1] = sqrt(shares[1][0]);
}

// lr |p| / |u|, at most lr where the ratio is clipped; numbers: lr, whether it is clipped.
extern "C" __global__ void __launch_bounds__(256) lamb_rate(
    const float* squares, i64 chunks, const float* numbers, float* rate) {
    double norms[2];
    norms_of_two(squares, chunks, norms);
    double ratio = norms[0] > 0.0 && norms[1] > 0.0 ? norms[0] / norms[1] : 1.0;
    if (numbers[1] != 0.0f && ratio > 1.0) ratio = 1.0;
    if (threadIdx.x == 0) *rate = (float)(numbers[0] * ratio);
}

// trust |p| / (|g| + decay |p| + eps), 1 where a norm is 0; numbers: trust, decay, eps.
extern "C" __global__ void __launch_bounds__(256) lars_ratio(
    const float* squares, i64 chunks, const float* numbers, float* ratio) {
    double norms[2];
    norms_of_two(squares, chunks, norms);
    const bool both = norms[0] > 0.0 && norms[1] > 0.0;
    const double scaled = numbers[0] * norms[0] / (norms[1] + numbers[1] * norms[0] + numbers[2]);
    if (threadIdx.x == 0) *ratio = both ? (float)scaled : 1.0f;
}

#define BY_NORMS(suffix, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) lamb_direction_##suffix(                                        \
        T* data, const T* gradient, T* a, T* b, float* c, i64 n, const float* numbers, float* squares) {              \
        lamb_direction(data, gradient, a, b, c, n, numbers, squares);                                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) lamb_move_##suffix(                                             \
        T* data, const float* direction, i64 n, const float* rate) {                                                  \
        const Exact by = *rate;                                                                                       \
        for (i64 at = EACH * global_thread(); at < n; at += EACH * global_threads()) {                                \
            const int count = n - at < EACH ? (int)(n - at) : EACH;                                                   \
            const bool packed = in_packs(data + at) && in_packs(direction + at);                                      \
            Exact p[EACH], u[EACH];                                                                                   \
            load(data + at, count, packed, p);                                                                        \
            load(direction + at, count, packed, u);                                                                   \
            for (int k = 0; k < EACH; ++k) p[k] = p[k] - u[k] * by;                                                   \
            store(data + at, count, packed, p);                                                                       \
        }                                                                                                             \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) squares_of_two_##suffix(                                        \
        const T* data, const T* gradient, i64 n, float* squares) {                                                    \
        squares_of_two(data, gradient, n, squares);                                                                   \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) lars_##suffix(                                                  \
        T* data, const T* gradient, T* a, i64 n, const float* numbers, const float* ratio) {                          \
        Sgd update(numbers);                                                                                          \
        update.ratio = *ratio;                                                                                        \
        T* none = nullptr;                                                                                            \
        update_all(update, data, gradient, a, none, none, n);                                                         \
    }
FOR_FLOATS(BY_NORMS)
