// A decoder in memory: its matrices, what it remembers of each slot, and the numbers of the step under way.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "bimo.h"
#include "matrix.h"
#include "team.h"

namespace bimo {

// Rows that are computed together at most: enough that weights are read seldom, few enough for the second-level cache.
constexpr int CHUNK = 256;
// Up to so many rows every thread prepares its own copy of what it multiplies, which is sooner done than a barrier.
constexpr int OWN_ROWS = 4;
// Queries for whose scores every thread has room: the most that one of the instruction sets takes at once.
constexpr int SCORED_QUERIES = 8;

struct Layer {
    Matrix matrices[BIMO_EMBEDDING];
    Buffer<float> vectors[BIMO_LAST_NORM];
};

// What matrices multiply: rows of numbers, and the same as bytes, a scale for every 32. Padded with zeros to `stride`.
struct Input {
    int stride = 0;
    Buffer<float> numbers;
    Buffer<std::int8_t> bytes;
    Buffer<float> scales, scaled_sums;   // of each group; scaled_sums = scale * sum
    Buffer<std::int32_t> sums;

    Input(int rows, int columns)
        : stride(round_up(columns, GROUP)), numbers(allocate<float>(std::size_t(rows) * stride)),
          bytes(allocate<std::int8_t>(std::size_t(rows) * stride)),
          scales(allocate<float>(std::size_t(rows) * stride / GROUP)),
          scaled_sums(allocate<float>(std::size_t(rows) * stride / GROUP)),
          sums(allocate<std::int32_t>(std::size_t(rows) * stride / GROUP)) {}
};

// Rows of one slot that follow each other: one piece of work for attention, together with a key/value head.
struct Segment { int first, rows; };

// Some rows of a chunk in ascending order, and the segments that they fall into, which count places in `numbers`.
struct Rows {
    std::vector<std::int32_t> numbers;
    std::vector<Segment> segments;

    int count() const { return int(numbers.size()); }
    int operator[](int place) const { return numbers[place]; }
};

// Consecutive rows of a step that are computed together.
struct Chunk {
    int rows;
    const std::int32_t *tokens, *slots, *positions;
    Rows every, asked;                   // asked: those in `wanted`, each once; the last layer needs no others
    std::vector<std::int32_t> wanted;    // rows of the chunk whose logits are asked for
    std::vector<float *> logits;         // where they go
};

struct Decoder {
    Decoder(const bimo_shape &shape, int threads, int instructions);

    const bimo_shape shape;
    const int instructions;
    int slots = 0, positions = 0, cache_bytes = 2;   // cache_bytes: of a number that is remembered
    Team team;

    Arena arena;                         // where the matrices are
    std::vector<Layer> layers;
    Matrix embedding, own_head;
    Buffer<float> last_norm;
    Buffer<float> cosines, sines;        // [positions, head_width / 2]

    // Of each layer, slot and key/value head: keys [positions / 16, head_width, 16], values [positions, head_width],
    // in fp16 or fp32, head_width rounded up to whole registers.
    Buffer<std::uint8_t> keys, values;

    Buffer<float> residual, mixed, attended, inner;   // rows of a chunk; see the offsets below
    Input shared;
    std::vector<Input> own;
    std::vector<Buffer<float>> scores;                // of each thread: [SCORED_QUERIES, positions]
    std::atomic<int> next_item{0};

    const Matrix &head() const { return own_head ? own_head : embedding; }
    int width_stride() const { return round_up(shape.width, GROUP); }
    int attended_stride() const { return round_up(shape.heads * shape.head_width, GROUP); }
    int hidden_stride() const { return round_up(shape.hidden, GROUP); }
    // In a row of `mixed`: queries, keys, values, each from a whole register on.
    int key_offset() const { return round_up(shape.heads * shape.head_width, BAND); }
    int value_offset() const { return key_offset() + round_up(shape.kv_heads * shape.head_width, BAND); }
    int mixed_stride() const { return value_offset() + round_up(shape.kv_heads * shape.head_width, BAND); }
    int head_stride() const { return round_up(shape.head_width, BAND); }
    int kept_positions() const { return round_up(positions, GROUP); }
    std::size_t kept_size() const { return std::size_t(kept_positions()) * head_stride(); }
    std::size_t kept(int layer, int slot, int kv_head) const {
        return ((std::size_t(layer) * slots + slot) * shape.kv_heads + kv_head) * kept_size();
    }
    void reserve(int slots, int positions, int cache_bytes, const float *cosines, const float *sines);
    bool complete() const;
};

// One chunk through the whole model, as one member of the team; something that depends on n numbers that were read; the
// function of an operation of training; and word vectors. The same code for each instruction set.
#define BIMO_FUNCTIONS                                              \
    void forward(Decoder &decoder, const Chunk &chunk, int member); \
    double read(const float *p, std::size_t n);                     \
    const void *training(int format, int operation);                \
    void vectors(const bimo_vectors &v, const std::int32_t *ids, std::int64_t first, std::int64_t end, std::int64_t count);
namespace plain { BIMO_FUNCTIONS }
namespace avx2 { BIMO_FUNCTIONS }
namespace avx512 { BIMO_FUNCTIONS }
#undef BIMO_FUNCTIONS

} // namespace bimo
