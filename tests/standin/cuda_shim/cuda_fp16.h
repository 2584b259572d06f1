// float16 for kernels that are compiled for the host: NVIDIA's names, rounded to nearest even.
#pragma once
#include <cstdint>
#include <cstring>

struct __half {
    _Float16 value;
    __half() = default;
    __half(float x) : value((_Float16)x) {}
    operator float() const { return (float)value; }
};
struct alignas(4) __half2 { __half x, y; };
typedef __half half;

inline float __half2float(__half x) { return (float)x; }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline uint16_t __half_as_ushort(__half x) { uint16_t bits; memcpy(&bits, &x, 2); return bits; }
inline __half __ushort_as_half(uint16_t bits) { __half x; memcpy(&x, &bits, 2); return x; }
