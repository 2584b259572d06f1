// How a kernel moves over volumes (depth, height, width) with their channels last; images have depth 1, sequences height 1 too. What has
// its channels first is taken as samples times channels of one channel each.
#include "common.cuh"

struct Line {
    int size, places, kernel, stride, padding, dilation;
    // Where element k of window `place` lies; outside of 0 to size it is padding.
    __device__ __forceinline__ int element(int place, int k) const { return place * stride - padding + k * dilation; }
    __device__ __forceinline__ bool has(int at) const { return (unsigned)at < (unsigned)size; }
    // The window whose element k lies at `at`; -1 where there is none.
    __device__ __forceinline__ int window(int at, int k) const {
        const int from = at + padding - k * dilation;
        return from >= 0 && from % stride == 0 && from / stride < places ? from / stride : -1;
    }
    // How many elements a window averages: padding counts or not, what ceil_mode adds never does.
    __device__ __forceinline__ int count(int place, int padding_counts) const {
        const int pad = padding_counts ? padding : 0, start = place * stride - padding;
        return min(start + kernel, size + pad) - max(start, -pad);
    }
};

struct Window {
    Line line[3];
    int channels;
    __device__ __forceinline__ i64 sizes() const { return (i64)line[0].size * line[1].size * line[2].size; }
    __device__ __forceinline__ i64 places() const { return (i64)line[0].places * line[1].places * line[2].places; }
    __device__ __forceinline__ int elements() const { return line[0].kernel * line[1].kernel * line[2].kernel; }
    // Row of channels of input element or window (a, b, c) of a sample.
    __device__ __forceinline__ i64 input(i64 sample, int a, int b, int c) const {
        return (((sample * line[0].size + a) * line[1].size + b) * line[2].size + c) * channels;
    }
    __device__ __forceinline__ i64 output(i64 sample, int a, int b, int c) const {
        return (((sample * line[0].places + a) * line[1].places + b) * line[2].places + c) * channels;
    }
};

#define WINDOW_ARGUMENTS                                                                                              \
    int s0, int s1, int s2, int o0, int o1, int o2, int k0, int k1, int k2, int t0, int t1, int t2, int p0, int p1,   \
        int p2, int d0, int d1, int d2, int channels
#define WINDOW                                                                                                        \
    Window { {{s0, o0, k0, t0, p0, d0}, {s1, o1, k1, t1, p1, d1}, {s2, o2, k2, t2, p2, d2}}, channels }

// Pack number `at` of samples of `lines` places: its sample, place and first channel.
struct Spot {
    i64 sample;
    int a, b, c, channel;
    __device__ __forceinline__ Spot(i64 at, int packs, int each, int second, int third, int first) {
        channel = (int)digit(at, packs) * each;
        c = (int)digit(at, third);
        b = (int)digit(at, second);
        a = (int)digit(at, first);
        sample = at;
    }
};

template <int N> __device__ __forceinline__ Spot input_spot(const Window& w, i64 at) {
    return Spot(at, w.channels / N, N, w.line[1].size, w.line[2].size, w.line[0].size);
}

template <int N> __device__ __forceinline__ Spot output_spot(const Window& w, i64 at) {
    return Spot(at, w.channels / N, N, w.line[1].places, w.line[2].places, w.line[0].places);
}
