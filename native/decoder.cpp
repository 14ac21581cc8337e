// The C interface (bimo.h) on top of Decoder.
#include "decoder.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <new>

#if defined(BIMO_HAS_AVX)
#include <cpuid.h>
#endif

namespace bimo {

Decoder::Decoder(const bimo_shape &shape, int threads, int instructions)
    : shape(shape), instructions(instructions), team(threads), layers(shape.layers),
      residual(allocate<float>(std::size_t(CHUNK) * width_stride())),
      mixed(allocate<float>(std::size_t(CHUNK) * mixed_stride())),
      attended(allocate<float>(std::size_t(CHUNK) * attended_stride())),
      inner(allocate<float>(std::size_t(CHUNK) * hidden_stride())),
      shared(CHUNK, std::max({width_stride(), attended_stride(), hidden_stride()})), scores(threads) {
    for (int member = 0; member < threads; member++) own.emplace_back(OWN_ROWS, shared.stride);
}

void Decoder::reserve(int slots, int positions, int cache_bytes, const float *cosines, const float *sines) {
    this->slots = 0;
    keys.reset();
    values.reset();
    this->positions = positions;
    this->cache_bytes = cache_bytes;
    const std::size_t numbers = std::size_t(shape.layers) * slots * shape.kv_heads * kept_size();
    keys = allocate<std::uint8_t>(numbers * cache_bytes);
    values = allocate<std::uint8_t>(numbers * cache_bytes);
    const std::size_t angles = std::size_t(positions) * (shape.head_width / 2);
    this->cosines = allocate<float>(angles);
    this->sines = allocate<float>(angles);
    std::memcpy(this->cosines.get(), cosines, angles * sizeof(float));
    std::memcpy(this->sines.get(), sines, angles * sizeof(float));
    for (Buffer<float> &buffer : scores) buffer = allocate<float>(std::size_t(SCORED_QUERIES) * kept_positions());
    this->slots = slots;   // last: without memory for all of it there is room for none
}

bool Decoder::complete() const {
    for (const Layer &layer : layers) {
        for (const Matrix &matrix : layer.matrices)
            if (!matrix) return false;
        for (int which = 0; which < BIMO_QUERY_BIAS; which++)
            if (!layer.vectors[which] && (shape.qk_norm || which < BIMO_QUERY_NORM)) return false;
    }
    return embedding && last_norm;
}

namespace {

// How many numbers a vector has that is for `which`.
int length_of(int which, const bimo_shape &shape) {
    switch (which) {
    case BIMO_QUERY_NORM: case BIMO_KEY_NORM: return shape.head_width;
    case BIMO_QUERY_BIAS: return shape.heads * shape.head_width;
    case BIMO_KEY_BIAS: case BIMO_VALUE_BIAS: return shape.kv_heads * shape.head_width;
    default: return shape.width;
    }
}

// What is compiled for each instruction set.
struct Functions {
    void (*forward)(Decoder &, const Chunk &, int member);
    double (*read)(const float *, std::size_t);
    const void *(*training)(int format, int operation);
    void (*vectors)(const bimo_vectors &, const std::int32_t *, std::int64_t, std::int64_t, std::int64_t);
};

Functions functions_for(int instructions) {
#if defined(BIMO_HAS_AVX)
    if (instructions == BIMO_AVX512) return {avx512::forward, avx512::read, avx512::training, avx512::vectors};
    if (instructions == BIMO_AVX2) return {avx2::forward, avx2::read, avx2::training, avx2::vectors};
#endif
    (void)instructions;
    return {plain::forward, plain::read, plain::training, plain::vectors};
}

// The rows for which `chosen` holds. Their segments are not too long, so that the work can be shared out.
template <class Chosen> Rows rows_of(const Chunk &chunk, Chosen chosen) {
    constexpr int LONGEST = 8;
    Rows rows;
    for (int row = 0; row < chunk.rows; row++) {
        if (!chosen(row)) continue;
        const bool goes_on = rows.count() && chunk.slots[row] == chunk.slots[rows.numbers.back()];
        if (goes_on && rows.segments.back().rows < LONGEST) rows.segments.back().rows++;
        else rows.segments.push_back({rows.count(), 1});
        rows.numbers.push_back(row);
    }
    return rows;
}

bool fits(int value, int limit) { return value >= 0 && value < limit; }

constexpr int MOST = 1 << 20;  // keeps every product of three within 64 bits, and offsets in a row within 32

bool fits(const bimo_shape &s) {
    for (int value : {s.vocabulary, s.layers, s.width, s.heads, s.kv_heads, s.head_width, s.hidden})
        if (value < 1 || value > MOST * 4) return false;
    return std::int64_t(s.heads) * s.head_width <= MOST && s.width <= MOST && s.hidden <= MOST
        && s.heads % s.kv_heads == 0 && s.head_width % 2 == 0;
}

} // namespace
} // namespace bimo

using namespace bimo;

struct bimo_decoder : Decoder { using Decoder::Decoder; };

int bimo_interface(void) { return BIMO_INTERFACE; }

int bimo_best_instructions(void) {
#if defined(BIMO_HAS_AVX)
    __builtin_cpu_init();
    unsigned a, b, c, d;   // F16C by itself: not every compiler's builtin knows its name
    const bool halves = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    const bool avx2 = halves && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        return BIMO_AVX512;
    if (avx2) return BIMO_AVX2;
#endif
    return BIMO_PLAIN;
}

bimo_decoder *bimo_new(const bimo_shape *shape, int threads, int instructions) {
    if (!fits(*shape) || threads < 1 || !fits(instructions, bimo_best_instructions() + 1)) return nullptr;
    try {
        return new bimo_decoder(*shape, threads, instructions);
    } catch (const std::exception &) {
        return nullptr;
    }
}

int bimo_reserve(bimo_decoder *decoder, int slots, int positions, int cache_bits, const float *cosines, const float *sines) {
    if (slots < 1 || positions < 1 || slots > MOST || positions > MOST || (cache_bits != 16 && cache_bits != 32))
        return BIMO_WRONG_ARGUMENT;
    try {
        decoder->reserve(slots, positions, cache_bits / 8, cosines, sines);
        return BIMO_OK;
    } catch (const std::bad_alloc &) {
        return BIMO_NO_MEMORY;
    }
}

void bimo_free(bimo_decoder *decoder) { delete decoder; }

int bimo_set_matrix(bimo_decoder *decoder, int which, int layer, int format, const void *data, int rows, int columns) {
    const bimo_shape &s = decoder->shape;
    const bool of_layer = which < BIMO_EMBEDDING;
    if (!fits(which, BIMO_MATRICES) || !fits(format, BIMO_FORMATS) || (of_layer && !fits(layer, s.layers)))
        return BIMO_WRONG_ARGUMENT;
    const int queries = s.heads * s.head_width, keys = s.kv_heads * s.head_width;
    const int shapes[BIMO_MATRICES][2] = {
        {queries, s.width}, {keys, s.width}, {keys, s.width}, {s.width, queries},
        {s.hidden, s.width}, {s.hidden, s.width}, {s.width, s.hidden}, {s.vocabulary, s.width}, {s.vocabulary, s.width}};
    if (rows != shapes[which][0] || columns != shapes[which][1]) return BIMO_WRONG_ARGUMENT;
    Matrix &matrix = of_layer ? decoder->layers[layer].matrices[which]
                   : which == BIMO_EMBEDDING ? decoder->embedding : decoder->own_head;
    try {
        return pack(matrix, decoder->arena, format, data, rows, columns) ? BIMO_OK : BIMO_WRONG_ARGUMENT;
    } catch (const std::bad_alloc &) {
        return BIMO_NO_MEMORY;
    }
}

int bimo_set_vector(bimo_decoder *decoder, int which, int layer, const float *data, int length) {
    const bool of_layer = which < BIMO_LAST_NORM;
    if (!fits(which, BIMO_VECTORS) || (of_layer && !fits(layer, decoder->shape.layers))
        || length != length_of(which, decoder->shape))
        return BIMO_WRONG_ARGUMENT;
    try {
        Buffer<float> vector = allocate<float>(round_up(length, GROUP));
        std::memcpy(vector.get(), data, length * sizeof(float));
        (of_layer ? decoder->layers[layer].vectors[which] : decoder->last_norm) = std::move(vector);
        return BIMO_OK;
    } catch (const std::bad_alloc &) {
        return BIMO_NO_MEMORY;
    }
}

int bimo_step(bimo_decoder *decoder, int rows, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
              int wanted, const int32_t *wanted_rows, float *logits) {
    Decoder &d = *decoder;
    if (!d.complete()) return BIMO_INCOMPLETE;
    for (int row = 0; row < rows; row++)
        if (!fits(tokens[row], d.shape.vocabulary) || !fits(slots[row], d.slots) || !fits(positions[row], d.positions))
            return BIMO_WRONG_ARGUMENT;
    for (int i = 0; i < wanted; i++)
        if (!fits(wanted_rows[i], rows)) return BIMO_WRONG_ARGUMENT;
    try {
        const auto forward = functions_for(d.instructions).forward;
        for (int first = 0; first < rows; first += CHUNK) {
            Chunk chunk{std::min(CHUNK, rows - first), tokens + first, slots + first, positions + first, {}, {}, {}, {}};
            bool asked[CHUNK] = {};
            for (int i = 0; i < wanted; i++)
                if (fits(wanted_rows[i] - first, chunk.rows)) {
                    asked[wanted_rows[i] - first] = true;
                    chunk.wanted.push_back(wanted_rows[i] - first);
                    chunk.logits.push_back(logits + std::size_t(i) * d.shape.vocabulary);
                }
            // Rows that are wanted twice could be more than there is room for.
            if (int(chunk.wanted.size()) > chunk.rows) return BIMO_WRONG_ARGUMENT;
            chunk.every = rows_of(chunk, [](int) { return true; });
            chunk.asked = rows_of(chunk, [&](int row) { return asked[row]; });
            d.team.run([&](int member) { forward(d, chunk, member); });
        }
        return BIMO_OK;
    } catch (const std::bad_alloc &) {
        return BIMO_NO_MEMORY;
    }
}

int bimo_copy(bimo_decoder *decoder, int from, int to, int positions) {
    Decoder &d = *decoder;
    if (!fits(from, d.slots) || !fits(to, d.slots) || positions < 0 || positions > d.positions) return BIMO_WRONG_ARGUMENT;
    if (from == to) return BIMO_OK;
    const std::size_t bytes = std::size_t(round_up(positions, BAND)) * d.head_stride() * d.cache_bytes;
    for (int layer = 0; layer < d.shape.layers; layer++)
        for (int head = 0; head < d.shape.kv_heads; head++)
            for (std::uint8_t *kept : {d.keys.get(), d.values.get()})
                std::memcpy(kept + d.kept(layer, to, head) * d.cache_bytes,
                            kept + d.kept(layer, from, head) * d.cache_bytes, bytes);
    return BIMO_OK;
}

int64_t bimo_matrix_bytes(const bimo_decoder *decoder) {
    std::size_t bytes = decoder->head().size();
    for (const Layer &layer : decoder->layers)
        for (const Matrix &matrix : layer.matrices) bytes += matrix.size();
    return int64_t(bytes);
}

const void *bimo_training(int instructions, int format, int operation) {
#if defined(_OPENMP)
    const bool known = fits(instructions, bimo_best_instructions() + 1) && fits(operation, BIMO_OPERATIONS);
    if (known && (format == BIMO_F32 || format == BIMO_BF16)) return functions_for(instructions).training(format, operation);
#else
    (void)instructions, (void)format, (void)operation;
#endif
    return nullptr;
}

int bimo_train_vectors(const bimo_vectors *v, int threads, int instructions, const int32_t *ids, int64_t count) {
    const bool fitting = v->words > 0 && v->stride > 0 && v->stride % BAND == 0 && v->window > 0 && v->negatives >= 0;
    if (!fitting || threads < 1 || !fits(instructions, bimo_best_instructions() + 1)) return BIMO_WRONG_ARGUMENT;
    try {
        Team team(threads);
        std::atomic<bool> failed{false};
        team.run([&](int member) {
            try {
                functions_for(instructions).vectors(*v, ids, count * member / threads, count * (member + 1) / threads, count);
            } catch (const std::bad_alloc &) {
                failed = true;
            }
        });
        return failed ? BIMO_NO_MEMORY : BIMO_OK;
    } catch (const std::exception &) {
        return BIMO_NO_MEMORY;
    }
}

double bimo_read_bandwidth(int threads) {
    constexpr std::size_t NUMBERS = std::size_t(64) << 20;  // 256 MB: far more than caches hold
    constexpr int ROUNDS = 5;
    try {
        const Buffer<float> numbers = allocate<float>(NUMBERS);
        const auto read = functions_for(bimo_best_instructions()).read;
        Team team(threads);
        std::vector<double> results(std::size_t(threads) * 8);
        double best = 0;
        const std::size_t share = NUMBERS / threads / 64 * 64;
        for (int round = 0; round < ROUNDS; round++) {
            const auto start = std::chrono::steady_clock::now();
            team.run([&](int member) { results[member * 8] += read(numbers.get() + member * share, share); });
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            // Numbers that were never written could have no memory behind them; `results` keeps the reading from being left out.
            if (results[0] == 0) best = std::max(best, share * threads * sizeof(float) / seconds);
        }
        return best;
    } catch (const std::exception &) {
        return 0;
    }
}
