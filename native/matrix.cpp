#include "matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "bimo.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bimo {

namespace {

constexpr std::size_t HUGE_PAGE = 2 << 20;
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t REGION = 0;   // each matrix by itself, so that reading past one is seen
#else
constexpr std::size_t REGION = 8 * HUGE_PAGE;
#endif

// Memory with anything in it; that which nobody has written to yet takes no room.
Buffer<std::uint8_t> room(std::size_t bytes) {
    const std::size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    const std::size_t whole = std::max(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (whole < bytes) throw std::bad_alloc();
    Buffer<std::uint8_t> memory(static_cast<std::uint8_t *>(std::aligned_alloc(alignment, whole)));
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == HUGE_PAGE) madvise(memory.get(), whole, MADV_HUGEPAGE);  // fewer page look-ups; only a wish
#endif
    return memory;
}

} // namespace

template <class T> Buffer<T> allocate(std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
    if (bytes / sizeof(T) < count) throw std::bad_alloc();
    Buffer<std::uint8_t> memory = room(bytes);
    std::memset(memory.get(), 0, bytes);
    return Buffer<T>(reinterpret_cast<T *>(memory.release()));
}

template Buffer<std::uint8_t> allocate(std::size_t);
template Buffer<std::int8_t> allocate(std::size_t);
template Buffer<std::uint16_t> allocate(std::size_t);
template Buffer<std::int32_t> allocate(std::size_t);
template Buffer<float> allocate(std::size_t);

std::uint8_t *Arena::take(std::size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left_) {
        const std::size_t size = std::max(bytes, REGION);
        regions_.push_back(room(size));
        next_ = regions_.back().get();
        left_ = size;
    }
    std::uint8_t *taken = next_;
    next_ += bytes;
    left_ -= bytes;
    std::memset(taken, 0, bytes);
    return taken;
}

float half_to_float(std::uint16_t half) {
    // The exponent's bits moved to where a float has them are 112 too low; a product mends that, tiny numbers included.
    std::uint32_t bits = std::uint32_t(half & 0x7fff) << 13;
    float value;
    std::memcpy(&value, &bits, 4);
    value *= 0x1p112f;
    if ((half & 0x7c00) == 0x7c00) value = half & 1023 ? NAN : INFINITY;
    return half & 0x8000 ? -value : value;
}

// To the nearest, halves to the even one, as processors do it.
std::uint16_t float_to_half(float value) {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < 0x1p-14f) return sign | std::uint16_t(std::nearbyint(std::ldexp(size, 24)));
    int exponent;
    const float fraction = std::frexp(size, &exponent);  // size = fraction * 2^exponent, fraction in [0.5, 1)
    // A fraction that rounds up to 2048 carries into the exponent, which is just what is wanted.
    return sign | std::uint16_t((exponent + 13) * 1024 + std::nearbyint(std::ldexp(fraction, 11)));
}

std::size_t Matrix::tile_bytes() const {
    switch (packing) {
    case Packing::U4: return BAND * 4 + BAND * GROUP / 2;
    case Packing::S8: return BAND * 2 + BAND * GROUP;
    case Packing::F16: case Packing::BF16: return BAND * GROUP * 2;
    case Packing::F32: return BAND * GROUP * 4;
    }
    return 0;
}

namespace {

// One row's 32 columns on their way from a file into a tile.
struct Affine { float scale, minimum; std::uint8_t numbers[GROUP]; };
struct Scaled { float scale; std::int8_t numbers[GROUP]; };

std::uint16_t half_at(const std::uint8_t *p) { std::uint16_t half; std::memcpy(&half, p, 2); return half; }

struct Format { Packing packing; int block_columns, block_bytes; };

Format format_of(int format) {
    switch (format) {
    case BIMO_F16: return {Packing::F16, 1, 2};
    case BIMO_BF16: return {Packing::BF16, 1, 2};
    case BIMO_Q4_0: return {Packing::U4, 32, 18};
    case BIMO_Q4_1: return {Packing::U4, 32, 20};
    case BIMO_Q4_K: return {Packing::U4, 256, 144};
    case BIMO_Q8_0: return {Packing::S8, 32, 34};
    case BIMO_Q6_K: return {Packing::S8, 256, 210};
    default: return {Packing::F32, 1, 4};
    }
}

// Sixteen bytes whose low halves are columns 0-15 and whose high halves are 16-31.
void split_nibbles(const std::uint8_t *bytes, std::uint8_t *numbers) {
    for (int i = 0; i < 16; i++) {
        numbers[i] = bytes[i] & 15;
        numbers[i + 16] = bytes[i] >> 4;
    }
}

// GGUF's Q4_K: eight groups in a block; their 6-bit scales and minima lie in twelve bytes.
Affine read_q4_k(const std::uint8_t *block, int group) {
    const std::uint8_t *packed = block + 4;
    int scale, minimum;
    if (group < 4) {
        scale = packed[group] & 63;
        minimum = packed[group + 4] & 63;
    } else {
        scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
        minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
    }
    Affine out{half_to_float(half_at(block)) * scale, -half_to_float(half_at(block + 2)) * minimum, {}};
    const std::uint8_t *bytes = block + 16 + group / 2 * 32;
    for (int i = 0; i < GROUP; i++) out.numbers[i] = group % 2 ? bytes[i] >> 4 : bytes[i] & 15;
    return out;
}

Affine read_affine(int format, const std::uint8_t *row, int group) {
    if (format == BIMO_Q4_K) return read_q4_k(row + group / 8 * 144, group % 8);
    const std::uint8_t *block = row + group * (format == BIMO_Q4_0 ? 18 : 20);
    Affine out{half_to_float(half_at(block)), 0, {}};
    out.minimum = format == BIMO_Q4_0 ? -8 * out.scale : half_to_float(half_at(block + 2));
    split_nibbles(block + (format == BIMO_Q4_0 ? 2 : 4), out.numbers);
    return out;
}

// GGUF's Q6_K has a scale for every 16 columns; 8 bits with one for 32 keep what 6 bits said (an eighth of its step).
Scaled read_q6_k(const std::uint8_t *block, int group) {
    const std::uint8_t *low = block + group / 4 * 64 + group % 2 * 32, *high = block + 128 + group / 4 * 32;
    const std::int8_t *scales = reinterpret_cast<const std::int8_t *>(block + 192) + group * 2;
    const float scale = half_to_float(half_at(block + 208));
    float values[GROUP], largest = 0;
    for (int i = 0; i < GROUP; i++) {
        const int four = group % 4 < 2 ? low[i] & 15 : low[i] >> 4, two = high[i] >> group % 4 * 2 & 3;
        values[i] = scale * scales[i / 16] * ((four | two << 4) - 32);
        largest = std::max(largest, std::fabs(values[i]));
    }
    Scaled out{half_to_float(float_to_half(largest / 127)), {}};
    for (int i = 0; i < GROUP; i++) {
        const float number = out.scale > 0 ? std::nearbyint(values[i] / out.scale) : 0;
        out.numbers[i] = std::int8_t(std::clamp(number, -127.0f, 127.0f));
    }
    return out;
}

Scaled read_scaled(int format, const std::uint8_t *row, int group) {
    if (format == BIMO_Q6_K) return read_q6_k(row + group / 8 * 210, group % 8);
    const std::uint8_t *block = row + group * 34;
    Scaled out{half_to_float(half_at(block)), {}};
    std::memcpy(out.numbers, block + 2, GROUP);
    return out;
}

// Four columns of a row stand in one 32-bit lane, as the processor's dot products of bytes want them. In U4 the low
// halves of quarter q of a tile are columns 8q to 8q+3, the high ones 8q+4 to 8q+7.
void write_affine(std::uint8_t *tile, int lane, const Affine &group) {
    const std::uint16_t scale = float_to_half(group.scale), minimum = float_to_half(group.minimum);
    std::memcpy(tile + lane * 2, &scale, 2);
    std::memcpy(tile + BAND * 2 + lane * 2, &minimum, 2);
    for (int quarter = 0; quarter < 4; quarter++)
        for (int i = 0; i < 4; i++) {
            const std::uint8_t *pair = group.numbers + quarter * 8 + i;
            tile[BAND * 4 + quarter * 64 + lane * 4 + i] = std::uint8_t(pair[0] | pair[4] << 4);
        }
}

void write_scaled(std::uint8_t *tile, int lane, const Scaled &group) {
    const std::uint16_t scale = float_to_half(group.scale);
    std::memcpy(tile + lane * 2, &scale, 2);
    for (int column = 0; column < GROUP; column++)
        tile[BAND * 2 + column / 4 * 64 + lane * 4 + column % 4] = std::uint8_t(group.numbers[column] + 128);
}

template <class Number>
void write_numbers(std::uint8_t *tile, int lane, const std::uint8_t *row, int first, int columns) {
    for (int column = first; column < std::min(first + GROUP, columns); column++)
        std::memcpy(tile + ((column - first) * BAND + lane) * sizeof(Number), row + column * sizeof(Number), sizeof(Number));
}

} // namespace

bool pack(Matrix &matrix, Arena &arena, int format, const void *data, int rows, int columns) {
    const Format is = format_of(format);
    if (columns % is.block_columns) return false;
    matrix = Matrix{is.packing, rows, columns, nullptr};
    matrix.bytes = arena.take(matrix.size());
    const std::size_t row_bytes = std::size_t(columns / is.block_columns) * is.block_bytes;
    for (int row = 0; row < rows; row++) {
        const std::uint8_t *source = static_cast<const std::uint8_t *>(data) + row * row_bytes;
        std::uint8_t *tile = matrix.bytes + matrix.tile_bytes() * matrix.tiles() * (row / BAND);
        for (int group = 0; group < matrix.tiles(); group++, tile += matrix.tile_bytes()) switch (is.packing) {
            case Packing::U4: write_affine(tile, row % BAND, read_affine(format, source, group)); break;
            case Packing::S8: write_scaled(tile, row % BAND, read_scaled(format, source, group)); break;
            case Packing::F32: write_numbers<float>(tile, row % BAND, source, group * GROUP, columns); break;
            default: write_numbers<std::uint16_t>(tile, row % BAND, source, group * GROUP, columns);
        }
    }
    return true;
}

void unpack_row(const Matrix &matrix, int row, float *out) {
    const std::uint8_t *tile = matrix.band(row / BAND);
    const int lane = row % BAND;
    for (int first = 0; first < matrix.columns; first += GROUP, tile += matrix.tile_bytes()) {
        const int columns = std::min(GROUP, matrix.columns - first);
        const bool scaled = matrix.packing == Packing::U4 || matrix.packing == Packing::S8;
        const float scale = scaled ? half_to_float(half_at(tile + lane * 2)) : 0;
        const float minimum = matrix.packing == Packing::U4 ? half_to_float(half_at(tile + BAND * 2 + lane * 2)) : 0;
        for (int i = 0; i < columns; i++) switch (matrix.packing) {
            case Packing::U4: {
                const std::uint8_t pair = tile[BAND * 4 + i / 8 * 64 + lane * 4 + i % 4];
                out[first + i] = scale * (i % 8 < 4 ? pair & 15 : pair >> 4) + minimum;
                break;
            }
            case Packing::S8: out[first + i] = scale * (tile[BAND * 2 + i / 4 * 64 + lane * 4 + i % 4] - 128); break;
            case Packing::F16: out[first + i] = half_to_float(half_at(tile + (i * BAND + lane) * 2)); break;
            case Packing::BF16: out[first + i] = brain_to_float(half_at(tile + (i * BAND + lane) * 2)); break;
            case Packing::F32: std::memcpy(out + first + i, tile + (i * BAND + lane) * 4, 4);
        }
    }
}

} // namespace bimo
