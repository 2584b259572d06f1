// Rows of a table by index, and their gradient: rows of one index are added in the order in which they occur.
//
// For that the indices are sorted, stably, by digits of 8 bits; then each run of equal indices is summed. Nothing is added atomically but
// whole numbers, whose sum has no order.
#include "common.cuh"

#define DIGITS 256
#define SORT_THREADS 256
#define SORT_TILE 1024  // places that a block sorts
#define CHUNK 32        // sorted places that a block sums

// ---- out of range -----------------------------------------------------------------------------------------------------

// Reports one of the values that are neither within [0, count) nor `skipped`, if there is any: `report` is host memory, which somebody
// looks at when the device has been waited for. Two words in one store: number of the check and place, and the value.
extern "C" __global__ void __launch_bounds__(256)
    check_within(const i64* values, i64 n, i64 count, i64 skipped, int may_skip, i64 check, i64* report) {
    for (i64 i = global_thread(); i < n; i += global_threads()) {
        const i64 value = values[i];
        if ((value < 0 || value >= count) && !(may_skip && value == skipped)) {
            Pack<i64, 2> found;
            found.at[0] = (check << 40) + i;
            found.at[1] = value;
            store_pack<2>(report, found);
        }
    }
}

// ---- forward ----------------------------------------------------------------------------------------------------------

// y = weight[indices]: threads of a row side by side, blockDim.y rows a block. What is out of range gives NaN and reads nothing.
template <typename T> __device__ void embedding_forward(const T* weight, const i64* indices, T* y, i64 n, i64 rows, i64 width) {
    constexpr int N = Full<T>::N;
    const i64 i = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    if (i >= n) return;
    const i64 index = indices[i];
    const bool fits = index >= 0 && index < rows;
    const T* from = weight + (fits ? index : 0) * width;
    T* to = y + i * width;
    if (((unsigned long long)weight | (unsigned long long)y | (unsigned long long)(width * sizeof(T))) % 16 == 0 && fits) {
        for (i64 c = threadIdx.x * N; c < width; c += blockDim.x * N) store_pack<N>(to + c, load_pack<N>(from + c));
    } else {
        for (i64 c = threadIdx.x; c < width; c += blockDim.x) to[c] = fits ? from[c] : from_float<T>(NOT_A_NUMBER);
    }
}

// ---- sorting ----------------------------------------------------------------------------------------------------------

// What is out of range, and `padding`, goes behind all others.
extern "C" __global__ void __launch_bounds__(SORT_THREADS)
    sort_begin(const i64* indices, i64 n, i64 rows, i64 padding, unsigned* keys, unsigned* places) {
    for (i64 i = global_thread(); i < n; i += global_threads()) {
        const i64 index = indices[i];
        keys[i] = index < 0 || index >= rows || index == padding ? (unsigned)rows : (unsigned)index;
        places[i] = (unsigned)i;
    }
}

// counts (DIGITS, blocks): how many keys of each block's tile have each digit.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) sort_count(const unsigned* keys, i64 n, int shift, int* counts) {
    __shared__ int found[DIGITS];
    found[threadIdx.x] = 0;
    __syncthreads();
    for (int k = threadIdx.x; k < SORT_TILE; k += SORT_THREADS) {
        const i64 i = (i64)blockIdx.x * SORT_TILE + k;
        if (i < n) atomicAdd(&found[(keys[i] >> shift) % DIGITS], 1);
    }
    __syncthreads();
    counts[(i64)threadIdx.x * gridDim.x + blockIdx.x] = found[threadIdx.x];
}

// Each count becomes the sum of those before it. One block; each thread has a stretch of them.
extern "C" __global__ void __launch_bounds__(1024) sort_scan(int* counts, i64 n) {
    __shared__ int sums[1024];
    const i64 length = (n + blockDim.x - 1) / blockDim.x, from = threadIdx.x * length, to = from + length < n ? from + length : n;
    int sum = 0;
    for (i64 i = from; i < to; ++i) sum += counts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int apart = 1; apart < (int)blockDim.x; apart *= 2) {
        const int more = (int)threadIdx.x >= apart ? sums[threadIdx.x - apart] : 0;
        __syncthreads();
        sums[threadIdx.x] += more;
        __syncthreads();
    }
    int before = sums[threadIdx.x] - sum;
    for (i64 i = from; i < to; ++i) {
        const int own = counts[i];
        counts[i] = before;
        before += own;
    }
}

// Keys and places to where they belong by this digit; equal digits keep their order.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) sort_move(
    const unsigned* keys, const unsigned* places, i64 n, int shift, const int* counts, unsigned* keys_out, unsigned* places_out
) {
    constexpr int WARPS = SORT_THREADS / 32;
    __shared__ int next[DIGITS], of_warp[WARPS][DIGITS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    next[threadIdx.x] = counts[(i64)threadIdx.x * gridDim.x + blockIdx.x];
    for (int round = 0; round < SORT_TILE / SORT_THREADS; ++round) {
        const i64 i = (i64)blockIdx.x * SORT_TILE + round * SORT_THREADS + threadIdx.x;
        const bool real = i < n;
        const unsigned key = real ? keys[i] : 0u, digit = (key >> shift) % DIGITS;
        for (int w = 0; w < WARPS; ++w) of_warp[w][threadIdx.x] = 0;
        __syncthreads();
        unsigned alike = __ballot_sync(EVERY_LANE, real);  // lanes of this warp with the same digit
#pragma unroll
        for (int bit = 0; bit < 8; ++bit) {
            const bool set = (digit >> bit) & 1u;
            const unsigned lanes = __ballot_sync(EVERY_LANE, set);
            alike &= set ? lanes : ~lanes;
        }
        const int rank = __popc(alike & ((1u << lane) - 1u));
        if (real && rank == 0) of_warp[warp][digit] = __popc(alike);
        __syncthreads();
        if (real) {
            int to = next[digit] + rank;
            for (int w = 0; w < warp; ++w) to += of_warp[w][digit];
            keys_out[to] = key;
            places_out[to] = places[i];
        }
        __syncthreads();
        for (int w = 0; w < WARPS; ++w) next[threadIdx.x] += of_warp[w][threadIdx.x];
    }
}

// ---- backward ---------------------------------------------------------------------------------------------------------

// The gradient's table, of the gradient's own type or of floats (`wide`). All zeros before.
struct Table {
    void* values;
    i64 width;
    int wide;

    template <typename T> __device__ __forceinline__ void put(unsigned row, i64 c, const float* sums, int n) const {
        for (int k = 0; k < n; ++k) {
            if (wide)
                static_cast<float*>(values)[row * width + c + k] = sums[k];
            else
                static_cast<T*>(values)[row * width + c + k] = from_float<T>(sums[k]);
        }
    }
};

// Sums the runs of equal keys within the block's chunk. A run that lies in the chunk as a whole goes to the table; of others the
// share goes to `edges` (chunks, 2, width): first the one that comes from the chunk before, then the one that begins here.
template <typename T, int N>
__device__ void embedding_runs(
    const T* g, const unsigned* keys, const unsigned* places, i64 n, i64 rows, Table table, float* edges
) {
    const i64 begin = (i64)blockIdx.x * CHUNK, end = begin + CHUNK < n ? begin + CHUNK : n;
    __shared__ unsigned key_of[CHUNK + 2], place_of[CHUNK];  // the last of the chunk before, ours, the first of the one after
    for (int k = threadIdx.x; k < CHUNK + 2; k += blockDim.x) {
        const i64 i = begin + k - 1;
        key_of[k] = i < 0 || i >= n ? 0xffffffffu : keys[i];
        if (k < CHUNK && begin + k < n) place_of[k] = places[begin + k];
    }
    __syncthreads();
    const int count = end - begin;
    for (i64 c = threadIdx.x * N; c < table.width; c += blockDim.x * N) {
        float sums[N], following[N];
        bool entered = false;
        load_floats<N>(g + place_of[0] * table.width + c, following);
        for (int k = 0; k < count; ++k) {
            const unsigned key = key_of[k + 1];
            if (key >= rows) break;
            float values[N];
#pragma unroll
            for (int j = 0; j < N; ++j) values[j] = following[j];
            if (k + 1 < count) load_floats<N>(g + place_of[k + 1] * table.width + c, following);
            if (k == 0 || key_of[k] != key) {
                entered = k == 0 && key_of[0] == key;
#pragma unroll
                for (int j = 0; j < N; ++j) sums[j] = 0.0f;
            }
#pragma unroll
            for (int j = 0; j < N; ++j) sums[j] += values[j];
            if (k + 1 < count && key_of[k + 2] == key) continue;
            const bool leaves = k + 1 == count && key_of[k + 2] == key;
            if (entered || leaves) {
                float* to = edges + ((i64)blockIdx.x * 2 + (entered ? 0 : 1)) * table.width + c;
#pragma unroll
                for (int j = 0; j < N; ++j) to[j] = sums[j];
            } else {
                table.put<T>(key, c, sums, N);
            }
        }
    }
}

// The runs that go over the end of the block's chunk and begin in it: their shares in order.
template <typename T>
__device__ void embedding_edges(const unsigned* keys, i64 n, i64 rows, Table table, const float* edges) {
    const i64 begin = (i64)blockIdx.x * CHUNK, after = begin + CHUNK;
    if (after >= n) return;
    const unsigned key = keys[after - 1];
    if (key >= rows || keys[after] != key) return;
    if (begin > 0 && keys[begin] == key && keys[begin - 1] == key) return;  // begins before
    for (i64 c = threadIdx.x; c < table.width; c += blockDim.x) {
        float sum = edges[((i64)blockIdx.x * 2 + 1) * table.width + c];
        for (i64 from = after; from < n && keys[from] == key; from += CHUNK) sum += edges[from / CHUNK * 2 * table.width + c];
        table.put<T>(key, c, &sum, 1);
    }
}

// ---- places of images -------------------------------------------------------------------------------------------------

// y (planes, count) = elements of x (planes, size) at places of their own plane; NaN for what is out of range.
template <typename T> __device__ void take_places(const T* x, const i64* places, T* y, i64 planes, i64 count, i64 size) {
    for (i64 i = global_thread(); i < planes * count; i += global_threads()) {
        const i64 place = places[i];
        y[i] = place >= 0 && place < size ? x[i / count * size + place] : from_float<T>(NOT_A_NUMBER);
    }
}

// Places within planes become places in all.
extern "C" __global__ void __launch_bounds__(256) whole_places(const i64* places, i64* whole, i64 planes, i64 count, i64 size) {
    for (i64 i = global_thread(); i < planes * count; i += global_threads())
        whole[i] = places[i] >= 0 && places[i] < size ? i / count * size + places[i] : -1;
}

// Of each run of equal keys the last one's value; y is all zeros before.
template <typename T>
__device__ void put_last(const T* values, const unsigned* keys, const unsigned* places, i64 n, i64 rows, T* y) {
    for (i64 i = global_thread(); i < n; i += global_threads())
        if (keys[i] < rows && (i + 1 == n || keys[i + 1] != keys[i])) y[keys[i]] = values[places[i]];
}

#define EMBEDDING(s, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        embedding_forward_##s(const T* weight, const i64* indices, T* y, i64 n, i64 rows, i64 width) {                         \
        embedding_forward<T>(weight, indices, y, n, rows, width);                                                              \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) embedding_runs_##s(                                                      \
        const T* g, const unsigned* keys, const unsigned* places, i64 n, i64 rows, void* table, i64 width, int wide,           \
        float* edges) {                                                                                                        \
        embedding_runs<T, 1>(g, keys, places, n, rows, Table{table, width, wide}, edges);                                      \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) embedding_runs_packed_##s(                                               \
        const T* g, const unsigned* keys, const unsigned* places, i64 n, i64 rows, void* table, i64 width, int wide,           \
        float* edges) {                                                                                                        \
        embedding_runs<T, Full<T>::N>(g, keys, places, n, rows, Table{table, width, wide}, edges);                             \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        take_places_##s(const T* x, const i64* places, T* y, i64 planes, i64 count, i64 size) {                                \
        take_places<T>(x, places, y, planes, count, size);                                                                     \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                          \
        put_last_##s(const T* values, const unsigned* keys, const unsigned* places, i64 n, i64 rows, T* y) {                   \
        put_last<T>(values, keys, places, n, rows, y);                                                                         \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) embedding_edges_##s(                                                     \
        const unsigned* keys, i64 n, i64 rows, void* table, i64 width, int wide, const float* edges) {                         \
        embedding_edges<T>(keys, n, rows, Table{table, width, wide}, edges);                                                   \
    }

FOR_FLOATS(EMBEDDING)
