// Sixteen numbers at a time in plain C++, for any processor: the compiler makes of it what it can. The slow twin of the
// other two, which must agree with it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "matrix.h"

namespace bimo::plain {

struct Lanes {
    float v[16];

    static Lanes all(float value) {
        Lanes out;
        for (float &x : out.v) x = value;
        return out;
    }
    static Lanes load(const float *p) {
        Lanes out;
        std::memcpy(out.v, p, sizeof out.v);
        return out;
    }
    static Lanes load_half(const std::uint16_t *p) {
        Lanes out;
        for (int i = 0; i < 16; i++) out.v[i] = half_to_float(p[i]);
        return out;
    }
    static Lanes load_brain(const std::uint16_t *p) {
        Lanes out;
        for (int i = 0; i < 16; i++) out.v[i] = brain_to_float(p[i]);
        return out;
    }
    void store(float *p) const { std::memcpy(p, v, sizeof v); }
    void store_half(std::uint16_t *p) const {
        for (int i = 0; i < 16; i++) p[i] = float_to_half(v[i]);
    }
    // To the nearest whole numbers, as bytes, which they must fit.
    void store_bytes(std::int8_t *p) const {
        for (int i = 0; i < 16; i++) p[i] = std::int8_t(std::nearbyint(v[i]));
    }
    // Halved again and again, as AVX-512 adds up, so that both give the same number.
    float sum() const {
        Lanes rest = *this;
        for (int half = 8; half; half /= 2)
            for (int i = 0; i < half; i++) rest.v[i] += rest.v[i + half];
        return rest.v[0];
    }
    float largest() const { return *std::max_element(v, v + 16); }
};

template <class Work> Lanes each(Work work) {
    Lanes out;
    for (int i = 0; i < 16; i++) out.v[i] = work(i);
    return out;
}

inline Lanes operator+(const Lanes &a, const Lanes &b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Lanes operator-(const Lanes &a, const Lanes &b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Lanes operator*(const Lanes &a, const Lanes &b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Lanes operator/(const Lanes &a, const Lanes &b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline Lanes multiply_add(const Lanes &a, const Lanes &b, const Lanes &c) {
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Lanes largest(const Lanes &a, const Lanes &b) { return each([&](int i) { return std::max(a.v[i], b.v[i]); }); }
inline Lanes smallest(const Lanes &a, const Lanes &b) { return each([&](int i) { return std::min(a.v[i], b.v[i]); }); }
inline Lanes size(const Lanes &a) { return each([&](int i) { return std::fabs(a.v[i]); }); }
inline Lanes nearest(const Lanes &a) { return each([&](int i) { return std::nearbyint(a.v[i]); }); }
inline Lanes times_power_of_two(const Lanes &a, const Lanes &whole) {
    return each([&](int i) { return std::ldexp(a.v[i], int(whole.v[i])); });
}

// 64 unsigned bytes of weights: four columns of sixteen rows.
struct Bytes {
    std::uint8_t v[64];

    static Bytes load(const std::uint8_t *p) {
        Bytes out;
        std::memcpy(out.v, p, sizeof out.v);
        return out;
    }
    Bytes low_halves() const {
        Bytes out;
        for (int i = 0; i < 64; i++) out.v[i] = v[i] & 15;
        return out;
    }
    Bytes high_halves() const {
        Bytes out;
        for (int i = 0; i < 64; i++) out.v[i] = v[i] >> 4;
        return out;
    }
};

// Sixteen whole-number sums of products of bytes.
struct Sums {
    std::int32_t v[16];

    static Sums zero() { return {}; }
    static Sums for_raised(std::int32_t) { return {}; }
    void add(const Bytes &weights, const std::int8_t *four) { add_lowered(weights, four, 0); }
    void add_raised(const Bytes &weights, const std::int8_t *four) { add_lowered(weights, four, 128); }
    Lanes numbers() const { return each([&](int i) { return float(v[i]); }); }

  private:
    void add_lowered(const Bytes &weights, const std::int8_t *four, int raised) {
        for (int row = 0; row < 16; row++)
            for (int i = 0; i < 4; i++) v[row] += (weights.v[row * 4 + i] - raised) * four[i];
    }
};

using SmallSums = Sums;

constexpr int MOST_INPUTS = 8;
constexpr bool BANDS_IN_PAIRS = true;
constexpr int MOST_QUERIES = 8;

inline void prefetch(const void *) {}

} // namespace bimo::plain
