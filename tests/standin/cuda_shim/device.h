// A device for one kernel at a time, on the host: each CUDA thread of a block is a fiber, barriers and shuffles change fibers.
//
// A block's threads run one after another until they wait for each other, so a missing barrier shows only where a thread reads what a
// later one writes; shared memory is filled with NaN before each block, so what nobody has written shows.
#pragma once
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>
#include <link.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static thread_local
#define __align__(n) alignas(n)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

namespace sim {

// ---- fibers: registers that a call must keep, and the stack ------------------------------------------------------------

extern "C" void sim_switch(void** save, void* to);
__asm__(
    ".text\n.hidden sim_switch\n.globl sim_switch\n.type sim_switch,@function\nsim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size sim_switch,.-sim_switch\n");

const size_t STACK = 64 << 10;
enum State { READY, AT_BLOCK, AT_WARP, DONE };

struct Fiber {
    void* sp;
    char* stack;
    State state;
    unsigned mask;  // of the warp's lanes that it waits for
    dim3 index;
};

static std::vector<Fiber> fibers;
static void* scheduler;
static int current;
static unsigned count;
static const std::function<void()>* body;
static uint64_t slots[1024];
static std::string* fault;
static char* dynamic_shared;

static void fail(const std::string& text) {
    if (fault->empty()) *fault = text;
    fibers[current].state = DONE;
    sim_switch(&fibers[current].sp, scheduler);
}

static void entry() {
    (*body)();
    fibers[current].state = DONE;
    sim_switch(&fibers[current].sp, scheduler);
    abort();
}

static void wait(State state, unsigned mask) {
    Fiber& me = fibers[current];
    me.state = state;
    me.mask = mask;
    sim_switch(&me.sp, scheduler);
}

static void start(Fiber& f) {
    uintptr_t top = (uintptr_t)(f.stack + STACK) & ~(uintptr_t)15;
    void** sp = (void**)top;
    *--sp = nullptr;         // where a return from entry would go
    *--sp = (void*)entry;    // sim_switch returns here, with the stack as after a call
    for (int i = 0; i < 6; ++i) *--sp = nullptr;
    f.sp = sp;
    f.state = READY;
}

// Whoever waits and may go on: a block's barrier when all that live are there, a warp's when all lanes named are there.
static bool release() {
    unsigned alive = 0, waiting = 0;
    for (unsigned i = 0; i < count; ++i) {
        alive += fibers[i].state != DONE;
        waiting += fibers[i].state == AT_BLOCK;
    }
    if (!alive) return false;
    if (waiting == alive) {
        for (unsigned i = 0; i < count; ++i)
            if (fibers[i].state == AT_BLOCK) fibers[i].state = READY;
        return true;
    }
    bool some = false;
    for (unsigned warp = 0; warp < count; warp += 32)
        for (unsigned lane = 0; lane < 32 && warp + lane < count; ++lane) {
            const Fiber& f = fibers[warp + lane];
            if (f.state != AT_WARP) continue;
            bool complete = true;
            for (unsigned l = 0; l < 32 && warp + l < count; ++l)
                if ((f.mask >> l & 1) && fibers[warp + l].state != DONE)
                    complete &= fibers[warp + l].state == AT_WARP && fibers[warp + l].mask == f.mask;
            if (!complete) continue;
            const unsigned mask = f.mask;
            for (unsigned l = 0; l < 32 && warp + l < count; ++l)
                if ((mask >> l & 1) && fibers[warp + l].state == AT_WARP) fibers[warp + l].state = READY;
            some = true;
        }
    return some;
}

static void run_block() {
    for (unsigned i = 0; i < count; ++i) start(fibers[i]);
    for (;;) {
        bool ran = false;
        for (unsigned i = 0; i < count; ++i)
            if (fibers[i].state == READY) {
                ran = true;
                current = (int)i;
                threadIdx = fibers[i].index;
                sim_switch(&scheduler, fibers[i].sp);
            }
        if (!fault->empty()) return;
        if (!ran && !release()) {
            for (unsigned i = 0; i < count; ++i)
                if (fibers[i].state != DONE) {
                    *fault = "threads wait for each other at different barriers or shuffles (block " + std::to_string(blockIdx.x) +
                             ", thread " + std::to_string(i) + ")";
                    return;
                }
            return;
        }
        if (ran) release();
    }
}

struct Range { char* at; size_t size; };

// The shared variables of all kernels of this text: they are thread-local, and nothing else is.
inline Range shared_memory() {
    Range found = {nullptr, 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& h = info->dlpi_phdr[i];
                uintptr_t start = info->dlpi_addr + h.p_vaddr, me = (uintptr_t)&shared_memory;
                if (h.p_type == PT_LOAD && me >= start && me < start + h.p_memsz) {
                    for (int j = 0; j < info->dlpi_phnum; ++j)
                        if (info->dlpi_phdr[j].p_type == PT_TLS)
                            *(Range*)data = {(char*)info->dlpi_tls_data, info->dlpi_phdr[j].p_memsz};
                    return 1;
                }
            }
            return 0;
        },
        &found);
    return found;
}

static std::mutex one_at_a_time;

inline std::string launch(dim3 grid, dim3 block, size_t dynamic, const std::function<void()>& call) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    std::string found;
    fault = &found;
    body = &call;
    count = block.x * block.y * block.z;
    gridDim = grid;
    blockDim = block;
    static char* stacks = (char*)aligned_alloc(4096, 1024 * STACK);
    fibers.resize(count);
    for (unsigned i = 0; i < count; ++i) {
        fibers[i].stack = stacks + i * STACK;
        fibers[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    }
    std::vector<char> memory(dynamic + 16);
    dynamic_shared = (char*)(((uintptr_t)memory.data() + 15) & ~(uintptr_t)15);
    static thread_local volatile char first;
    first = 0;  // a thread gets its share of them when it first touches one
    Range fixed = shared_memory();
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                if (fixed.at) memset(fixed.at, 0xFF, fixed.size);
                memset(dynamic_shared, 0xFF, dynamic);
                run_block();
                if (!found.empty()) return found;
            }
    return found;
}

// ---- arguments: what a kernel's parameters are, and how they come out of an array of pointers --------------------------

template <class T> constexpr char kind() {
    if (std::is_pointer<T>::value) return std::is_const<std::remove_pointer_t<T>>::value ? 'c' : 'p';  // c: read only
    if (std::is_same<T, float>::value) return 'f';
    if (std::is_same<T, double>::value) return 'd';
    if (std::is_integral<T>::value) return sizeof(T) == 8 ? 'q' : sizeof(T) == 4 ? 'i' : sizeof(T) == 2 ? 'h' : 'b';
    return '?';
}

template <class... A> std::string kinds(void (*)(A...)) { return std::string{kind<std::remove_cv_t<A>>()...}; }

template <class... A, size_t... I> void unpack(void (*f)(A...), void** args, std::index_sequence<I...>) {
    f(*(std::remove_cv_t<std::remove_reference_t<A>>*)args[I]...);
}

template <class... A>
int start_kernel(void (*f)(A...), const unsigned* g, const unsigned* b, size_t shared, void** args, char* text, size_t size) {
    std::string found = launch({g[0], g[1], g[2]}, {b[0], b[1], b[2]}, shared,
                               [&] { unpack(f, args, std::index_sequence_for<A...>{}); });
    snprintf(text, size, "%s", found.c_str());
    return found.empty() ? 0 : 1;
}

inline int lane() { return current % 32; }
inline int warp_start() { return current / 32 * 32; }

template <class T> T exchanged(unsigned mask, T value, int from) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    if (!(mask >> lane() & 1)) fail("a thread shuffles that is not in its own mask");
    const int source = warp_start() + from, me = current;
    memcpy(&slots[me], &value, sizeof(T));
    wait(AT_WARP, mask);
    T result = value;
    if (from >= 0 && from < 32 && source < (int)count) {
        if (fibers[source].state == DONE || !(mask >> from & 1)) fail("a shuffle reads a lane that does not take part");
        memcpy(&result, &slots[source], sizeof(T));
    } else
        memset(&result, 0xFF, sizeof(T));
    wait(AT_WARP, mask);
    return result;
}

}  // namespace sim

// A pack at an address that is no multiple of its size: the kernels are compiled with this check.
extern "C" __attribute__((visibility("hidden"))) inline void __ubsan_handle_type_mismatch_v1(void*, void* at) {
    char text[80];
    snprintf(text, sizeof text, "a misaligned address (block %u, thread %u)", blockIdx.x, threadIdx.x);
    sim::fail(text);
}

inline void __syncthreads() { sim::wait(sim::AT_BLOCK, 0); }
inline void __syncwarp(unsigned mask = ~0u) { sim::wait(sim::AT_WARP, mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    const int me = sim::lane(), from = me ^ with;
    return sim::exchanged(mask, value, from / width <= me / width ? from : me);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int me = sim::lane(), from = me + (int)by;
    return sim::exchanged(mask, value, from / width == me / width ? from : me);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int me = sim::lane(), from = me - (int)by;
    return sim::exchanged(mask, value, from >= me / width * width ? from : me);
}
template <class T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    const int me = sim::lane();
    return sim::exchanged(mask, value, me / width * width + lane % width);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    sim::slots[sim::current] = predicate != 0;
    sim::wait(sim::AT_WARP, mask);
    unsigned result = 0;
    for (int l = 0; l < 32 && sim::warp_start() + l < (int)sim::count; ++l)
        if ((mask >> l & 1) && sim::fibers[sim::warp_start() + l].state != sim::DONE) result |= (unsigned)sim::slots[sim::warp_start() + l] << l;
    sim::wait(sim::AT_WARP, mask);
    return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline int __syncthreads_or(int predicate) {
    static int found;
    __syncthreads();
    found = 0;
    __syncthreads();
    found |= predicate != 0;
    __syncthreads();
    return found;
}

template <class T> T atomicAdd(T* at, T value) { T old = *at; *at = old + value; return old; }
template <class T> T atomicMax(T* at, T value) { T old = *at; *at = std::max(old, value); return old; }
template <class T> T atomicMin(T* at, T value) { T old = *at; *at = std::min(old, value); return old; }
template <class T> T atomicOr(T* at, T value) { T old = *at; *at = old | value; return old; }
template <class T> T atomicExch(T* at, T value) { T old = *at; *at = value; return old; }
template <class T> T atomicCAS(T* at, T compare, T value) { T old = *at; if (old == compare) *at = value; return old; }

inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __frsqrt_rn(float x) { return (float)(1.0 / std::sqrt((double)x)); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x != x ? 0.0f : std::min(std::max(x, 0.0f), 1.0f); }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }
inline int __float2int_rd(float x) { return (int)std::floor(x); }
inline unsigned __float_as_uint(float x) { unsigned r; memcpy(&r, &x, 4); return r; }
inline int __float_as_int(float x) { int r; memcpy(&r, &x, 4); return r; }
inline float __uint_as_float(unsigned x) { float r; memcpy(&r, &x, 4); return r; }
inline float __int_as_float(int x) { float r; memcpy(&r, &x, 4); return r; }
inline long long __double_as_longlong(double x) { long long r; memcpy(&r, &x, 8); return r; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T> T __ldg(const T* at) { return *at; }
template <class T> T __ldcs(const T* at) { return *at; }
template <class T> void __stcs(T* at, T value) { *at = value; }
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
inline long long max(long long a, int b) { return a > b ? a : b; }
inline long long max(int a, long long b) { return a > b ? a : b; }
inline long long min(long long a, int b) { return a < b ? a : b; }
inline long long min(int a, long long b) { return a < b ? a : b; }
