// One step of an RNN, LSTM or GRU, forward and back, after its product of matrices.
//
// All arrays hold rows. Those of a step begin at row `lo` in what spans all steps, and at 0 in what is made anew for each; `count` rows of
// `units` numbers. States of sequences that end earlier are left as they are.
#include "common.cuh"

#define STEP_THREADS 256

// Row and column of element i of a step: a step has fewer than 2^31.
struct Unit {
    int row, column;

    __device__ __forceinline__ Unit(int i, i64 units) : row(i / (int)units), column(i % (int)units) {}
};

#define FOR_UNITS(count, units) for (int i = global_thread(); i < (int)((count) * (units)); i += global_threads())

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

// ---- Elman's network --------------------------------------------------------------------------------------------------

// gates become f(gates + share), the outputs, and the next state; `before` keeps the one there was.
extern "C" __global__ void __launch_bounds__(STEP_THREADS)
    rnn_step(const float* share, float* gates, float* state, float* before, i64 lo, i64 count, i64 units, int squash) {
    FOR_UNITS(count, units) {
        const i64 at = lo * units + i;
        const float v = gates[at] + share[i], out = squash ? tanhf(v) : v <= 0.0f ? 0.0f : v;
        before[at] = state[i];
        gates[at] = out;
        state[i] = out;
    }
}

// gates = (state + dy) * slope.
extern "C" __global__ void __launch_bounds__(STEP_THREADS)
    rnn_step_back(const float* dy, const float* state, const float* y, float* gates, i64 lo, i64 count, i64 units, int squash) {
    FOR_UNITS(count, units) {
        const i64 at = lo * units + i;
        const float out = y[at], now = state[i] + (dy ? dy[at] : 0.0f);
        gates[at] = now * (squash ? 1.0f - out * out : out > 0.0f ? 1.0f : 0.0f);
    }
}

// ---- LSTM -------------------------------------------------------------------------------------------------------------

// Columns of gates: i, f, g, o. `cell` goes from the cell before to the one after, and `hidden` gets o tanh(c); what was before is
// kept for the way back. With a projection behind, `hidden` is its input, and y and before_h are missing.
extern "C" __global__ void __launch_bounds__(STEP_THREADS) lstm_step(
    const float* share, float* gates, float* cell, float* before_c, float* squashed, float* hidden, float* y, float* before_h,
    i64 lo, i64 count, i64 units
) {
    FOR_UNITS(count, units) {
        const Unit u(i, units);
        const i64 at = lo * units + i;
        float* const part = gates + (lo + u.row) * 4 * units + u.column;
        const float* const more = share + u.row * 4 * units + u.column;
        const float in = sigmoid_of(part[0] + more[0]), forget = sigmoid_of(part[units] + more[units]);
        const float g = tanhf(part[2 * units] + more[2 * units]), out = sigmoid_of(part[3 * units] + more[3 * units]);
        part[0] = in;
        part[units] = forget;
        part[2 * units] = g;
        part[3 * units] = out;
        const float before = cell[i], after = forget * before + in * g, small = tanhf(after);
        before_c[at] = before;
        cell[i] = after;
        squashed[at] = small;
        if (y) {
            before_h[at] = hidden[i];
            y[at] = out * small;
        }
        hidden[i] = out * small;
    }
}

// `through` is the gradient of the step's output so far, to which dy is added where there is one.
extern "C" __global__ void __launch_bounds__(STEP_THREADS) lstm_step_back(
    const float* dy, const float* through, float* memory, const float* gates, const float* before_c, const float* squashed,
    float* turned, i64 lo, i64 count, i64 units
) {
    FOR_UNITS(count, units) {
        const Unit u(i, units);
        const i64 at = lo * units + i;
        const float* const part = gates + (lo + u.row) * 4 * units + u.column;
        float* const back = turned + (lo + u.row) * 4 * units + u.column;
        const float in = part[0], forget = part[units], g = part[2 * units], out = part[3 * units];
        const float now = through[i] + (dy ? dy[at] : 0.0f), small = squashed[at];
        const float carried = memory[i] + now * out * (1.0f - small * small);
        back[0] = carried * g * in * (1.0f - in);
        back[units] = carried * before_c[at] * forget * (1.0f - forget);
        back[2 * units] = carried * in * (1.0f - g * g);
        back[3 * units] = now * small * out * (1.0f - out);
        memory[i] = carried * forget;
    }
}

// ---- GRU --------------------------------------------------------------------------------------------------------------

// Columns of gates: r, z, n. `bias` (3 units) belongs to the state's share and may be missing.
extern "C" __global__ void __launch_bounds__(STEP_THREADS) gru_step(
    const float* share, const float* bias, float* gates, float* state, float* before, float* shares, float* y, i64 lo, i64 count,
    i64 units
) {
    FOR_UNITS(count, units) {
        const Unit u(i, units);
        const i64 at = lo * units + i, c = u.column;
        float* const part = gates + (lo + u.row) * 3 * units + c;
        const float* const more = share + u.row * 3 * units + c;
        const float reset = sigmoid_of(part[0] + (more[0] + (bias ? bias[c] : 0.0f)));
        const float z = sigmoid_of(part[units] + (more[units] + (bias ? bias[units + c] : 0.0f)));
        const float own = more[2 * units] + (bias ? bias[2 * units + c] : 0.0f);
        const float n = tanhf(part[2 * units] + reset * own), h = state[i];
        part[0] = reset;
        part[units] = z;
        part[2 * units] = n;
        shares[at] = own;
        before[at] = h;
        const float after = (h - n) * z + n;
        state[i] = after;
        y[at] = after;
    }
}

// `state` becomes the gradient that reaches the state before through z alone.
extern "C" __global__ void __launch_bounds__(STEP_THREADS) gru_step_back(
    const float* dy, float* state, const float* gates, const float* before, const float* shares, float* inputs, float* hidden,
    i64 lo, i64 count, i64 units
) {
    FOR_UNITS(count, units) {
        const Unit u(i, units);
        const i64 at = lo * units + i, place = (lo + u.row) * 3 * units + u.column;
        const float reset = gates[place], z = gates[place + units], n = gates[place + 2 * units];
        const float now = state[i] + (dy ? dy[at] : 0.0f);
        const float slope = now * (1.0f - z) * (1.0f - n * n);
        const float dr = slope * shares[at] * reset * (1.0f - reset), dz = now * (before[at] - n) * z * (1.0f - z);
        inputs[place] = hidden[place] = dr;
        inputs[place + units] = hidden[place + units] = dz;
        inputs[place + 2 * units] = slope;
        hidden[place + 2 * units] = slope * reset;
        state[i] = now * z;
    }
}
