// A cuBLASLt for machines without a GPU: the functions that the binding uses, computed by plain loops on host memory.
//
// It is at least as strict as the real one: what that refuses (or might), this refuses, so that the fallbacks are run too. An
// algorithm carries what it was chosen for, and a run that does not keep to it fails.
#pragma GCC optimize("O3")
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, F64 = 1, F16 = 2, BF16 = 14 };
enum Compute { COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_TF32 = 77 };
enum Epilogue { PLAIN = 1, RELU = 2, BIAS = 4, DRELU = 136, BGRAD = 16, GELU = 32, DGELU = 192, AUX = 128, BGRADA = 256, BGRADB = 512 };

struct Desc {
    int32_t compute = 0, scale = 0, turn_a = 0, turn_b = 0, side_type = -1;
    uint32_t epilogue = PLAIN;
    void *side = nullptr, *aux = nullptr;
    int64_t ld_aux = 0;
};
struct Layout {
    uint32_t type = 0;
    uint64_t rows = 0, columns = 0;
    int64_t ld = 0;
    int32_t batch = 1;
    int64_t step = 0;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};
};
struct Algorithm {
    uint64_t magic, number, workspace, shape, align_a, align_b, align_d, align_beside;
};
struct Result {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Algorithm) == 64 && sizeof(Result) == 96, "layouts of cublasLt.h");

const uint64_t MAGIC = 0x7068616c616e78ull;
std::atomic<int> live_handles{0}, live_others{0};
unsigned refused = 0, broken = 0;

int size_of(unsigned type) { return type == F64 ? 8 : type == F32 ? 4 : 2; }

double load(const void* base, int64_t at, unsigned type) {
    if (type == F64) return static_cast<const double*>(base)[at];
    if (type == F32) return static_cast<const float*>(base)[at];
    if (type == F16) return float(static_cast<const _Float16*>(base)[at]);
    uint32_t bits = uint32_t(static_cast<const uint16_t*>(base)[at]) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

void store(void* base, int64_t at, unsigned type, double value) {
    if (type == F64) {
        static_cast<double*>(base)[at] = value;
    } else if (type == F32) {
        static_cast<float*>(base)[at] = float(value);
    } else if (type == F16) {
        static_cast<_Float16*>(base)[at] = _Float16(float(value));
    } else {
        float narrow = float(value);
        uint32_t bits;
        memcpy(&bits, &narrow, 4);
        bits = std::isnan(narrow) ? 0x7fc00000u : bits + 0x7fffu + ((bits >> 16) & 1);
        static_cast<uint16_t*>(base)[at] = uint16_t(bits >> 16);
    }
}

float to_tf32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (std::isfinite(value)) bits = (bits + 0xfffu + ((bits >> 13) & 1)) & ~0x1fffu;
    memcpy(&value, &bits, 4);
    return value;
}

double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

double gelu_slope(double x) {
    double t = std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

bool known(unsigned epilogue) {
    for (unsigned each : {1, 2, 2 | 128, 4, 6, 6 | 128, 136, 136 | 16, 32, 32 | 128, 36, 36 | 128, 192, 192 | 16, 256, 512})
        if (each == epilogue) return true;
    return false;
}

bool has_side(unsigned e) { return e & (BIAS | BGRAD | BGRADA | BGRADB); }

uint64_t mix(uint64_t state, uint64_t value) { return (state ^ value) * 0x9e3779b97f4a7c15ull + (state >> 29); }

uint64_t shape_of(const Desc& d, const Layout& a, const Layout& b, const Layout& out) {
    uint64_t state = mix(mix(mix(d.compute, d.epilogue), d.turn_a), d.turn_b);
    for (const Layout* each : {&a, &b, &out}) state = mix(mix(mix(mix(state, each->rows), each->columns), each->ld), each->batch);
    return state;
}

// What the descriptors ask for, as far as it can be told without pointers' contents.
Status fits(const Desc& d, const Layout& a, const Layout& b, const Layout& c, const Layout& out) {
    uint64_t rows = d.turn_a ? a.columns : a.rows, inner = d.turn_a ? a.rows : a.columns;
    uint64_t columns = d.turn_b ? b.rows : b.columns, other = d.turn_b ? b.columns : b.rows;
    if (!rows || !inner || !columns || inner != other || out.rows != rows || out.columns != columns) return INVALID_VALUE;
    if (c.rows != rows || c.columns != columns || c.type != out.type || c.ld != out.ld) return INVALID_VALUE;
    for (const Layout* each : {&a, &b, &c, &out}) {
        if (each->ld < int64_t(each->rows) || each->rows > INT32_MAX || each->columns > INT32_MAX) return INVALID_VALUE;
        if (each->batch != out.batch || each->batch < 1) return INVALID_VALUE;
    }
    if (out.batch > 1 && out.step < int64_t(out.ld * (columns - 1) + rows)) return INVALID_VALUE;
    if (a.type != b.type) return NOT_SUPPORTED;
    bool half = a.type == F16 || a.type == BF16;
    bool types = d.compute == COMPUTE_64F    ? a.type == F64 && out.type == F64 && d.scale == F64
                 : d.compute == COMPUTE_TF32 ? a.type == F32 && out.type == F32 && d.scale == F32
                 : d.compute == COMPUTE_32F
                     ? d.scale == F32 && ((a.type == F32 && out.type == F32) || (half && (out.type == a.type || out.type == F32)))
                     : false;
    if (!types) return NOT_SUPPORTED;
    unsigned e = d.epilogue;
    if (!known(e) || (e & refused)) return NOT_SUPPORTED;
    if (e != PLAIN && d.compute == COMPUTE_64F) return NOT_SUPPORTED;
    if (e != PLAIN && e != BIAS && out.batch > 1) return NOT_SUPPORTED;
    if (has_side(e) && d.side_type != -1 && uint32_t(d.side_type) != out.type) return NOT_SUPPORTED;
    if (e & AUX) {
        bool bits = e & (RELU | (DRELU & ~AUX));
        if (d.ld_aux < int64_t(rows) || d.ld_aux % (bits ? 128 : 8)) return INVALID_VALUE;
        if (!d.aux || uintptr_t(d.aux) % 16) return NOT_SUPPORTED;
    }
    if (has_side(e) && (!d.side || uintptr_t(d.side) % size_of(out.type))) return NOT_SUPPORTED;
    return SUCCESS;
}

struct Call {
    Desc d;
    Layout a, b, out;
    double alpha, beta;
    const void *pa, *pb;
    void* pd;
};

template <class T>
void product(const Call& call) {
    const Desc& d = call.d;
    const Layout &a = call.a, &b = call.b, &out = call.out;
    int64_t rows = out.rows, columns = out.columns, inner = d.turn_a ? a.rows : a.columns;
    std::vector<T> left(rows * inner), sums(rows);
    std::vector<double> total(d.epilogue & (BGRAD | BGRADA) ? rows : d.epilogue & BGRADB ? columns : 0);
    bool bits = d.epilogue & (RELU | (DRELU & ~AUX));
    for (int64_t batch = 0; batch < out.batch; ++batch) {
        auto round = [&](double value) { return d.compute == COMPUTE_TF32 ? T(to_tf32(float(value))) : T(value); };
        for (int64_t k = 0; k < inner; ++k)
            for (int64_t i = 0; i < rows; ++i) {
                double value = load(call.pa, batch * a.step + (d.turn_a ? i * a.ld + k : k * a.ld + i), a.type);
                left[k * rows + i] = round(value);
                if (d.epilogue & BGRADA) total[i] += value;
            }
        for (int64_t j = 0; j < columns; ++j) {
            std::fill(sums.begin(), sums.end(), T(0));
            for (int64_t k = 0; k < inner; ++k) {
                double value = load(call.pb, batch * b.step + (d.turn_b ? k * b.ld + j : j * b.ld + k), b.type);
                if (d.epilogue & BGRADB) total[j] += value;
                T factor = round(value);
                const T* line = &left[k * rows];
                for (int64_t i = 0; i < rows; ++i) sums[i] += line[i] * factor;
            }
            for (int64_t i = 0; i < rows; ++i) {
                int64_t at = batch * out.step + j * out.ld + i;
                double value = call.alpha * sums[i];
                if (call.beta != 0) value += call.beta * load(call.pd, at, out.type);
                if (d.epilogue & BIAS) value += load(d.side, i, out.type);
                int64_t beside = j * d.ld_aux + i;
                auto* mask = static_cast<uint8_t*>(d.aux) + beside / 8;
                if (d.epilogue & RELU) {
                    if (d.epilogue & AUX) *mask = uint8_t((*mask & ~(1u << beside % 8)) | (unsigned(value > 0) << beside % 8));
                    value = value > 0 || std::isnan(value) ? value : 0;
                } else if (d.epilogue & GELU) {
                    if (d.epilogue & AUX) store(d.aux, beside, out.type, value);
                    value = gelu(value);
                } else if (d.epilogue & AUX) {
                    value *= bits ? double(*mask >> beside % 8 & 1) : gelu_slope(load(d.aux, beside, out.type));
                }
                if (d.epilogue & BGRAD) total[i] += value;
                store(call.pd, at, out.type, value);
            }
        }
    }
    for (size_t i = 0; i < total.size(); ++i) store(d.side, int64_t(i), out.type, total[i]);
}

void run(const Call& call) { call.d.compute == COMPUTE_64F ? product<double>(call) : product<float>(call); }

int (*recorder)(void* stream, void* call) = nullptr;

template <class T>
int set(T& field, const void* value, size_t size) {
    if (!value || size != sizeof(T)) return INVALID_VALUE;
    memcpy(&field, value, size);
    return SUCCESS;
}

template <class T>
int destroy(T* made) {
    live_others -= made != nullptr;
    delete made;
    return SUCCESS;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return 130100; }

int cublasLtCreate(void** handle) {
    *handle = new int(1);
    ++live_handles;
    return SUCCESS;
}

int cublasLtDestroy(void* handle) {
    --live_handles;
    delete static_cast<int*>(handle);
    return SUCCESS;
}

int cublasLtMatmulDescCreate(Desc** made, int compute, int scale) {
    *made = new Desc;
    (*made)->compute = compute;
    (*made)->scale = scale;
    ++live_others;
    return SUCCESS;
}

int cublasLtMatmulDescDestroy(Desc* made) { return destroy(made); }

int cublasLtMatmulDescSetAttribute(Desc* d, int attribute, const void* value, size_t size) {
    switch (attribute) {
        case 3: return set(d->turn_a, value, size);
        case 4: return set(d->turn_b, value, size);
        case 7: return set(d->epilogue, value, size);
        case 8: return set(d->side, value, size);
        case 11: return set(d->aux, value, size);
        case 12: return set(d->ld_aux, value, size);
        case 26: return set(d->side_type, value, size);
        default: return INVALID_VALUE;
    }
}

int cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    *made = new Layout;
    (*made)->type = type;
    (*made)->rows = rows;
    (*made)->columns = columns;
    (*made)->ld = ld;
    ++live_others;
    return SUCCESS;
}

int cublasLtMatrixLayoutDestroy(Layout* made) { return destroy(made); }

int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t size) {
    switch (attribute) {
        case 5: return set(layout->batch, value, size);
        case 6: return set(layout->step, value, size);
        default: return INVALID_VALUE;
    }
}

int cublasLtMatmulPreferenceCreate(Preference** made) {
    *made = new Preference;
    ++live_others;
    return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(Preference* made) { return destroy(made); }

int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t size) {
    if (attribute == 1) return set(p->workspace, value, size);
    if (attribute >= 5 && attribute <= 8) return set(p->alignment[attribute - 5], value, size);
    return INVALID_VALUE;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, const Desc* d, const Layout* a, const Layout* b, const Layout* c, const Layout* out,
                                   const Preference* p, int count, Result* results, int* found) {
    if (!handle) return NOT_INITIALIZED;
    if (count <= 0) return INVALID_VALUE;
    *found = 0;
    Status status = fits(*d, *a, *b, *c, *out);
    if (status) return status;
    auto divides = [](const void* place) { return uint64_t(uintptr_t(place) & -uintptr_t(place)); };
    uint64_t beside = std::min(d->side ? divides(d->side) : 256, d->aux ? divides(d->aux) : 256);
    uint64_t align_d = std::min(p->alignment[2], p->alignment[3]);
    for (int i = 0; i < count && i < 3; ++i) {
        uint64_t workspace = uint64_t(3 - i) << 16;
        if (workspace > p->workspace) continue;
        Algorithm algorithm = {MAGIC, uint64_t(i), workspace, shape_of(*d, *a, *b, *out), p->alignment[0], p->alignment[1], align_d, beside};
        results[(*found)++] = {algorithm, workspace, SUCCESS, 1.0f, {}};
    }
    return *found ? SUCCESS : NOT_SUPPORTED;
}

int cublasLtMatmulAlgoCheck(void* handle, const Desc* d, const Layout* a, const Layout* b, const Layout* c, const Layout* out,
                            const Algorithm* algorithm, Result* result) {
    if (!handle) return NOT_INITIALIZED;
    Status status = fits(*d, *a, *b, *c, *out);
    if (status) return status;
    if (algorithm->magic != MAGIC || algorithm->shape != shape_of(*d, *a, *b, *out)) return INVALID_VALUE;
    result->workspace = algorithm->workspace;
    result->state = SUCCESS;
    return SUCCESS;
}

int cublasLtMatmul(void* handle, const Desc* d, const void* alpha, const void* pa, const Layout* a, const void* pb, const Layout* b,
                   const void* beta, const void* pc, const Layout* c, void* pd, const Layout* out, const Algorithm* algorithm,
                   void* workspace, size_t workspace_size, void* stream) {
    if (!handle) return NOT_INITIALIZED;
    if (!pa || !pb || !pd || !algorithm || !alpha || !beta || pc != pd) return INVALID_VALUE;
    Status status = fits(*d, *a, *b, *c, *out);
    if (status) return status;
    if (algorithm->magic != MAGIC || algorithm->shape != shape_of(*d, *a, *b, *out)) return INVALID_VALUE;
    if (algorithm->number < broken) return NOT_SUPPORTED;
    if (workspace_size < algorithm->workspace || (algorithm->workspace && !workspace)) return INVALID_VALUE;
    auto odd = [](const void* place, const Layout* layout, uint64_t alignment) {
        return (uintptr_t(place) | (layout->batch > 1 ? uintptr_t(layout->step) * size_of(layout->type) : 0)) % alignment != 0;
    };
    if (odd(pa, a, algorithm->align_a) || odd(pb, b, algorithm->align_b) || odd(pd, out, algorithm->align_d)) return INVALID_VALUE;
    if ((uintptr_t(d->side) | uintptr_t(d->aux)) % algorithm->align_beside) return INVALID_VALUE;
    if (workspace) memset(workspace, 0xff, algorithm->workspace);
    bool wide = d->compute == COMPUTE_64F;
    auto number = [&](const void* place) { return wide ? *static_cast<const double*>(place) : *static_cast<const float*>(place); };
    Call call = {*d, *a, *b, *out, number(alpha), number(beta), pa, pb, pd};
    if (recorder) {
        auto* kept = new Call(call);
        if (recorder(stream, kept)) return SUCCESS;
        delete kept;
    }
    run(call);
    return SUCCESS;
}

// ---- for tests alone: not in the real library ----

// From now on what has one of these bits in its epilogue is not supported.
void standin_refuse(unsigned epilogues) { refused = epilogues; }

// From now on the first so many candidates of each problem are found but do not run.
void standin_break(unsigned count) { broken = count; }

// `hook(stream, call)` says whether it keeps the call instead of having it run; then it runs it by standin_run.
void standin_record(int (*hook)(void*, void*)) { recorder = hook; }

void standin_run(void* call) { run(*static_cast<Call*>(call)); }

void standin_forget(void* call) { delete static_cast<Call*>(call); }

int standin_handles() { return live_handles; }

int standin_objects() { return live_others; }
}
