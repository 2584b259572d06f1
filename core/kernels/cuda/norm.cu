// Layer norm and root mean square norm, with or without a residual sum before, a row at a time.
//
// Weights, biases and their gradients are of the rows' type, or floats beside rows of half the size (`wide`).
#include "rows.cuh"

#define NORM_THREADS 256  // of a block that keeps sums of the weight's gradient in registers

struct Parameter {
    const void* values;
    bool wide;

    template <typename T> __device__ __forceinline__ float at(int c, float missing) const {
        if (!values) return missing;
        return wide ? static_cast<const float*>(values)[c] : to_float(static_cast<const T*>(values)[c]);
    }

    // N from c on; values must start on 16 bytes.
    template <typename T, int N> __device__ __forceinline__ void pack(int c, float* to) const {
        if (!values) {
#pragma unroll
            for (int k = 0; k < N; ++k) to[k] = 1.0f;
        } else if (wide) {
#pragma unroll
            for (int k = 0; k < N; k += 4) load_floats<4>(static_cast<const float*>(values) + c + k, to + k);
        } else {
            load_floats<N>(static_cast<const T*>(values) + c, to);
        }
    }

    // The share of this thread, as Row::load_part has it.
    template <typename R, typename T>
    __device__ __forceinline__ void part(int columns, int p, float missing, float* to) const {
        if (!values) {
#pragma unroll
            for (int k = 0; k < R::N; ++k) to[k] = missing;
        } else if (wide) {
            R::load_part(static_cast<const float*>(values), columns, p, missing, to);
        } else {
            R::load_part(static_cast<const T*>(values), columns, p, missing, to);
        }
    }
};

// ---- forward ----------------------------------------------------------------------------------------------------------

struct Moments {
    float mean, inverse;
};

// y = (h - mean) / sqrt(var + eps) * weight + bias of a row h = x + residual, which is stored in `sums`; without a residual h is x.
template <typename T, bool RMS, bool PACKED>
__device__ Moments norm_row_held(
    const T* x, const T* residual, T* sums, Parameter weight, Parameter bias, T* y, int columns, float eps
) {
    typedef Row<T, PACKED> R;
    const float share = 1.0f / (float)columns;
    float mean = 0.0f, square = 0.0f;
    Pack<T, R::N> held[R::PACKS];
    R::load_raw(x, columns, held);
    if (residual) {
        Pack<T, R::N> more[R::PACKS];
        R::load_raw(residual, columns, more);
#pragma unroll
        for (int p = 0; p < R::PACKS; ++p) {
            float sum[R::N];
#pragma unroll
            for (int k = 0; k < R::N; ++k) {
                held[p].at[k] = from_float<T>(to_float(held[p].at[k]) + to_float(more[p].at[k]));
                sum[k] = to_float(held[p].at[k]);
            }
            R::store_part(sums, columns, p, sum);
        }
    }
    if (!RMS) {
#pragma unroll
        for (int k = 0; k < R::HELD; ++k) mean += R::at(held, k);
        mean = row_reduce<Sum>(mean) * share;
    }
#pragma unroll
    for (int k = 0; k < R::HELD; ++k) {
        const float centred = R::has(k, columns) ? R::at(held, k) - mean : 0.0f;
        square += centred * centred;
    }
    const float inverse = 1.0f / sqrtf(row_reduce<Sum>(square) * share + eps);
#pragma unroll
    for (int p = 0; p < R::PACKS; ++p) {
        float scale[R::N], shift[R::N];
        weight.part<R, T>(columns, p, 1.0f, scale);
        bias.part<R, T>(columns, p, 0.0f, shift);
#pragma unroll
        for (int k = 0; k < R::N; ++k) shift[k] += (to_float(held[p].at[k]) - mean) * inverse * scale[k];
        R::store_part(y, columns, p, shift);
    }
    return Moments{mean, inverse};
}

// The same for a row that is too long; each thread reads again what it has written itself.
template <typename T, bool RMS, bool PACKED>
__device__ Moments norm_row(
    const T* x, const T* residual, T* sums, Parameter weight, Parameter bias, T* y, int columns, float eps
) {
    const float share = 1.0f / (float)columns;
    float mean = 0.0f, square = 0.0f;
    if (residual) {
        map_row<PACKED>(x, sums, columns, [&](float* v, int c, auto count) {
            float more[count.value];
            load_floats<count.value>(residual + c, more);
#pragma unroll
            for (int k = 0; k < count.value; ++k) v[k] += more[k];
        });
        x = sums;
    }
    if (!RMS) {
        for_row<PACKED>(x, columns, [&](const float* v, int, auto count) {
#pragma unroll
            for (int k = 0; k < count.value; ++k) mean += v[k];
        });
        mean = row_reduce<Sum>(mean) * share;
    }
    for_row<PACKED>(x, columns, [&](const float* v, int, auto count) {
#pragma unroll
        for (int k = 0; k < count.value; ++k) square += (v[k] - mean) * (v[k] - mean);
    });
    const float inverse = 1.0f / sqrtf(row_reduce<Sum>(square) * share + eps);
    map_row<PACKED>(x, y, columns, [&](float* v, int c, auto count) {
#pragma unroll
        for (int k = 0; k < count.value; ++k)
            v[k] = (v[k] - mean) * inverse * weight.at<T>(c + k, 1.0f) + bias.at<T>(c + k, 0.0f);
    });
    return Moments{mean, inverse};
}

template <typename T, bool RMS>
__device__ void norm_forward(
    const T* x, const T* residual, T* sums, Parameter weight, Parameter bias, T* y, float* means, float* inverses, i64 rows,
    i64 columns, float eps
) {
    const i64 r = this_row(), at = r * columns;
    if (r >= rows) return;
    const T* more = residual ? residual + at : nullptr;
    const bool packed = in_packs<T>(columns, x, residual, sums, y, weight.values, bias.values);
    Moments found;
    if (columns > (int)blockDim.x * Row<T, true>::HELD)
        found = packed ? norm_row<T, RMS, true>(x + at, more, sums + at, weight, bias, y + at, columns, eps)
                       : norm_row<T, RMS, false>(x + at, more, sums + at, weight, bias, y + at, columns, eps);
    else
        found = packed ? norm_row_held<T, RMS, true>(x + at, more, sums + at, weight, bias, y + at, columns, eps)
                       : norm_row_held<T, RMS, false>(x + at, more, sums + at, weight, bias, y + at, columns, eps);
    if (threadIdx.x == 0) {
        if (!RMS) means[r] = found.mean;
        inverses[r] = found.inverse;
    }
}

// ---- backward ---------------------------------------------------------------------------------------------------------

// dx = inverse (h - mean(h) - xhat mean(h xhat)) + more, with h = g weight; without mean(h) in the root mean square norm.
// `parts` (blocks, 2, columns): each block's sums over its rows of g xhat and of g. Rows must lie in packs and be held whole.
template <typename T, bool RMS>
__device__ void norm_backward(
    const T* g, const T* x, const T* more, const float* means, const float* inverses, Parameter weight, T* dx, float* parts,
    i64 rows, i64 columns
) {
    typedef Row<T, true> R;
    constexpr int N = R::N;
    const float share = 1.0f / (float)columns;
    float dw[R::HELD], db[R::HELD];
#pragma unroll
    for (int k = 0; k < R::HELD; ++k) dw[k] = db[k] = 0.0f;
    for (i64 r = (i64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += (i64)gridDim.x * blockDim.y) {
        const i64 at = r * columns;
        const float mean = RMS ? 0.0f : means[r], inverse = inverses[r];
        float along = 0.0f, whole = 0.0f;
#pragma unroll
        for (int p = 0; p < R::PACKS; ++p) {
            float gs[N], xs[N], scale[N];
            R::load_part(g + at, columns, p, 0.0f, gs);
            R::load_part(x + at, columns, p, 0.0f, xs);
            weight.part<R, T>(columns, p, 1.0f, scale);
#pragma unroll
            for (int k = 0; k < N; ++k) {  // where there is nothing, gs is 0
                const float xhat = (xs[k] - mean) * inverse;
                along += gs[k] * scale[k] * xhat;
                whole += gs[k] * scale[k];
                dw[p * N + k] += gs[k] * xhat;
                if (!RMS) db[p * N + k] += gs[k];
            }
        }
        if (!dx) continue;
        along = row_reduce<Sum>(along) * share;
        whole = RMS ? 0.0f : row_reduce<Sum>(whole) * share;
        // What was read is in the first-level cache still, and would take the registers that the sums have.
        map_row<true>(g + at, dx + at, columns, [&](float* v, int c, auto) {
            float xs[N], scale[N];
            load_floats<N>(x + at + c, xs);
            weight.pack<T, N>(c, scale);
#pragma unroll
            for (int k = 0; k < N; ++k) v[k] = (v[k] * scale[k] - whole - (xs[k] - mean) * inverse * along) * inverse;
            if (more) {
                load_floats<N>(more + at + c, xs);
#pragma unroll
                for (int k = 0; k < N; ++k) v[k] += xs[k];
            }
        });
    }
    if (!parts) return;
    // The warps of a block one after another: the first sets, the others add.
    __shared__ float sums[2][32 * R::HELD];
    for (int turn = 0; blockDim.y > 1 && turn < (int)blockDim.y; ++turn) {
        if ((int)threadIdx.y == turn) {
#pragma unroll
            for (int k = 0; k < R::HELD; ++k) {
                const int place = k * 32 + threadIdx.x;
                if (turn > 0) {
                    dw[k] += sums[0][place];
                    db[k] += sums[1][place];
                }
                sums[0][place] = dw[k];
                sums[1][place] = db[k];
            }
        }
        __syncthreads();
    }
    if (threadIdx.y + 1 < blockDim.y) return;
    float* const to = parts + (i64)blockIdx.x * 2 * columns;
#pragma unroll
    for (int p = 0; p < R::PACKS; ++p) {
        if (!R::has(p * N, columns)) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            to[R::column(p * N + k)] = dw[p * N + k];
            to[columns + R::column(p * N + k)] = db[p * N + k];
        }
    }
}

// dx of rows that are too long, or do not lie in packs.
template <typename T, bool RMS>
__device__ void norm_backward_long(
    const T* g, const T* x, const T* more, const float* means, const float* inverses, Parameter weight, T* dx, i64 rows,
    i64 columns
) {
    const float share = 1.0f / (float)columns;
    const i64 r = this_row(), at = r * columns;
    if (r >= rows) return;
    const float mean = RMS ? 0.0f : means[r], inverse = inverses[r];
    float along = 0.0f, whole = 0.0f;
    for_row<false>(g + at, columns, [&](const float* v, int c, auto) {
        const float h = v[0] * weight.at<T>(c, 1.0f);
        along += h * ((to_float(x[at + c]) - mean) * inverse);
        whole += h;
    });
    along = row_reduce<Sum>(along) * share;
    whole = RMS ? 0.0f : row_reduce<Sum>(whole) * share;
    map_row<false>(g + at, dx + at, columns, [&](float* v, int c, auto) {
        const float xhat = (to_float(x[at + c]) - mean) * inverse;
        const float d = (v[0] * weight.at<T>(c, 1.0f) - whole - xhat * along) * inverse;
        v[0] = more ? d + to_float(more[at + c]) : d;
    });
}

// The same parts as norm_backward's, for such rows: a thread for each column, a part for each blockIdx.y.
template <typename T, bool RMS>
__device__ void norm_parts(
    const T* g, const T* x, const float* means, const float* inverses, float* parts, i64 rows, i64 columns
) {
    const i64 c = global_thread(), count = (rows + gridDim.y - 1) / gridDim.y, from = blockIdx.y * count;
    if (c >= columns) return;
    float dw = 0.0f, db = 0.0f;
#pragma unroll 4
    for (i64 r = from; r < (rows < from + count ? rows : from + count); ++r) {
        const float gradient = to_float(g[r * columns + c]);
        dw += gradient * ((to_float(x[r * columns + c]) - (RMS ? 0.0f : means[r])) * inverses[r]);
        db += gradient;
    }
    parts[(i64)blockIdx.y * 2 * columns + c] = dw;
    parts[((i64)blockIdx.y * 2 + 1) * columns + c] = db;
}

// Sums of the parts in a fixed order: 32 columns a block, 8 threads a column. `dw` (blockIdx.y 0) or `db` may be missing.
template <typename T> __device__ void norm_fold(const float* parts, i64 count, i64 columns, void* dw, void* db, int wide) {
    __shared__ float shares[8][33];
    const i64 c = (i64)blockIdx.x * 32 + threadIdx.x;
    void* const to = blockIdx.y ? db : dw;
    if (!to) return;
    float sum = 0.0f;
    if (c < columns) {
#pragma unroll 4
        for (i64 p = threadIdx.y; p < count; p += 8) sum += parts[(p * 2 + blockIdx.y) * columns + c];
    }
    shares[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || c >= columns) return;
    for (int k = 1; k < 8; ++k) sum += shares[k][threadIdx.x];
    if (wide)
        static_cast<float*>(to)[c] = sum;
    else
        static_cast<T*>(to)[c] = from_float<T>(sum);
}

#define NORM(name, RMS, s, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) name##_forward_##s(                                           \
        const T* x, const T* residual, T* sums, const void* weight, const void* bias, int wide, T* y, float* means,            \
        float* inverses, i64 rows, i64 columns, float eps) {                                                                   \
        norm_forward<T, RMS>(x, residual, sums, Parameter{weight, wide != 0}, Parameter{bias, wide != 0}, y, means, inverses,  \
                             rows, columns, eps);                                                                              \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS, 2) name##_backward_##s(                                         \
        const T* g, const T* x, const T* more, const float* means, const float* inverses, const void* weight, int wide, T* dx, \
        float* parts, i64 rows, i64 columns) {                                                                                 \
        norm_backward<T, RMS>(g, x, more, means, inverses, Parameter{weight, wide != 0}, dx, parts, rows, columns);            \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) name##_backward_long_##s(                                     \
        const T* g, const T* x, const T* more, const float* means, const float* inverses, const void* weight, int wide, T* dx, \
        i64 rows, i64 columns) {                                                                                               \
        norm_backward_long<T, RMS>(g, x, more, means, inverses, Parameter{weight, wide != 0}, dx, rows, columns);              \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)          name##_parts_##s(                                               \
        const T* g, const T* x, const float* means, const float* inverses, float* parts, i64 rows, i64 columns) {              \
        norm_parts<T, RMS>(g, x, means, inverses, parts, rows, columns);                                                       \
    }

#define NORMS(s, T)                                                                                                            \
    NORM(layer_norm, false, s, T)                                                                                              \
    NORM(rms_norm, true, s, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        norm_fold_##s(const float* parts, i64 count, i64 columns, void* dw, void* db, int wide) {                              \
        norm_fold<T>(parts, count, columns, dw, db, wide);                                                                     \
    }

FOR_FLOATS(NORMS)
