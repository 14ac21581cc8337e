// Sixteen numbers at a time with AVX-512, its byte dot products (VNNI) included.
#pragma once

#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace bimo::avx512 {

struct Lanes {
    __m512 v;

    static Lanes all(float value) { return {_mm512_set1_ps(value)}; }
    static Lanes load(const float *p) { return {_mm512_loadu_ps(p)}; }
    static Lanes load_half(const std::uint16_t *p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))}; }
    static Lanes load_brain(const std::uint16_t *p) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16))};
    }
    void store(float *p) const { _mm512_storeu_ps(p, v); }
    void store_half(std::uint16_t *p) const { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, 0)); }
    // To the nearest whole numbers, as bytes, which they must fit.
    void store_bytes(std::int8_t *p) const { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))); }
    float sum() const { return _mm512_reduce_add_ps(v); }
    float largest() const { return _mm512_reduce_max_ps(v); }
};

inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Lanes largest(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Lanes smallest(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Lanes size(Lanes a) { return {_mm512_abs_ps(a.v)}; }
inline Lanes nearest(Lanes a) { return {_mm512_roundscale_ps(a.v, 0)}; }
inline Lanes times_power_of_two(Lanes a, Lanes whole) { return {_mm512_scalef_ps(a.v, whole.v)}; }

// 64 unsigned bytes of weights: four columns of sixteen rows.
struct Bytes {
    __m512i v;

    static Bytes load(const std::uint8_t *p) { return {_mm512_loadu_si512(p)}; }
    Bytes low_halves() const { return {_mm512_and_si512(v, _mm512_set1_epi8(15))}; }
    Bytes high_halves() const { return {_mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))}; }
};

// Sixteen whole-number sums of products of bytes.
struct Sums {
    __m512i v;

    static Sums zero() { return {_mm512_setzero_si512()}; }
    // For weights that are stored 128 higher than they are, given the sum of the numbers they will be multiplied with.
    static Sums for_raised(std::int32_t sum) { return {_mm512_set1_epi32(-128 * sum)}; }
    void add(Bytes weights, const std::int8_t *four) { v = _mm512_dpbusd_epi32(v, weights.v, four_everywhere(four)); }
    void add_raised(Bytes weights, const std::int8_t *four) { add(weights, four); }
    Lanes numbers() const { return {_mm512_cvtepi32_ps(v)}; }

  private:
    static __m512i four_everywhere(const std::int8_t *four) {
        std::int32_t bits;
        std::memcpy(&bits, four, 4);
        return _mm512_set1_epi32(bits);
    }
};

using SmallSums = Sums;

// As many inputs and queries at once as 32 registers hold sums of; those of two bands with four inputs, too.
constexpr int MOST_INPUTS = 8;
constexpr bool BANDS_IN_PAIRS = true;
constexpr int MOST_QUERIES = 8;

inline void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

} // namespace bimo::avx512
