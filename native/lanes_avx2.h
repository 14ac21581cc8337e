// Sixteen numbers at a time with AVX2, FMA and F16C: two registers of eight.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace bimo::avx2 {

struct Lanes {
    __m256 a, b;

    static Lanes all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Lanes load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static Lanes load_half(const std::uint16_t *p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
    }
    static Lanes load_brain(const std::uint16_t *p) { return {eight_brains(p), eight_brains(p + 8)}; }
    void store(float *p) const { _mm256_storeu_ps(p, a), _mm256_storeu_ps(p + 8, b); }
    void store_half(std::uint16_t *p) const {
        _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, 0));
        _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(b, 0));
    }
    // To the nearest whole numbers, as bytes, which they must fit.
    void store_bytes(std::int8_t *p) const {
        const __m256i pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
        const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0b11011000);
        _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
    }
    // Halved again and again, as AVX-512 adds up, so that both give the same number.
    float sum() const {
        const __m256 eight = _mm256_add_ps(a, b);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    float largest() const {
        const __m256 eight = _mm256_max_ps(a, b);
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }

  private:
    static __m256 eight_brains(const std::uint16_t *p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
    }
};

inline Lanes operator+(Lanes x, Lanes y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Lanes operator-(Lanes x, Lanes y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Lanes operator*(Lanes x, Lanes y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Lanes operator/(Lanes x, Lanes y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Lanes multiply_add(Lanes x, Lanes y, Lanes z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Lanes largest(Lanes x, Lanes y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Lanes smallest(Lanes x, Lanes y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Lanes size(Lanes x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline Lanes nearest(Lanes x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
// `whole` lies between -126 and 127.
inline Lanes times_power_of_two(Lanes x, Lanes whole) {
    const auto power = [](__m256 n) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
    };
    return {_mm256_mul_ps(x.a, power(whole.a)), _mm256_mul_ps(x.b, power(whole.b))};
}

// 64 unsigned bytes of weights: four columns of sixteen rows.
struct Bytes {
    __m256i a, b;

    static Bytes load(const std::uint8_t *p) {
        return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
    }
    Bytes low_halves() const {
        const __m256i low = _mm256_set1_epi8(15);
        return {_mm256_and_si256(a, low), _mm256_and_si256(b, low)};
    }
    Bytes high_halves() const { return Bytes{_mm256_srli_epi16(a, 4), _mm256_srli_epi16(b, 4)}.low_halves(); }
};

inline __m256i four_everywhere(const std::int8_t *four) {
    std::int32_t bits;
    std::memcpy(&bits, four, 4);
    return _mm256_set1_epi32(bits);
}

// Neighbours added up, from sixteen numbers of 16 bits to eight of 32.
inline __m256i add_neighbours(__m256i x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }

// Sixteen whole-number sums of products of bytes.
struct Sums {
    __m256i a, b;

    static Sums zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static Sums for_raised(std::int32_t) { return zero(); }
    // Weights stored 128 higher: lowered again, and their signs moved to the other factor to stay within 16 bits.
    void add_raised(Bytes weights, const std::int8_t *four) {
        const __m256i numbers = four_everywhere(four), top = _mm256_set1_epi8(-128);
        const __m256i x = _mm256_xor_si256(weights.a, top), y = _mm256_xor_si256(weights.b, top);
        a = _mm256_add_epi32(a, add_neighbours(_mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(numbers, x))));
        b = _mm256_add_epi32(b, add_neighbours(_mm256_maddubs_epi16(_mm256_abs_epi8(y), _mm256_sign_epi8(numbers, y))));
    }
    Lanes numbers() const { return {_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)}; }
};

// Those of one tile with weights up to 15: no more than 32 products of 15 and 127, half of them in each number, which
// therefore needs 16 bits only.
struct SmallSums {
    __m256i a, b;

    static SmallSums zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    void add(Bytes weights, const std::int8_t *four) {
        const __m256i numbers = four_everywhere(four);
        a = _mm256_add_epi16(a, _mm256_maddubs_epi16(weights.a, numbers));
        b = _mm256_add_epi16(b, _mm256_maddubs_epi16(weights.b, numbers));
    }
    Lanes numbers() const { return {_mm256_cvtepi32_ps(add_neighbours(a)), _mm256_cvtepi32_ps(add_neighbours(b))}; }
};

// As many inputs and queries at once as sixteen registers hold sums of; of two bands with four inputs they hold too few.
constexpr int MOST_INPUTS = 4;
constexpr bool BANDS_IN_PAIRS = false;
constexpr int MOST_QUERIES = 4;

inline void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

} // namespace bimo::avx2
