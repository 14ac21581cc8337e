// How matrices lie in memory while the kernel reads them, and how they get there from a file's formats.
//
// A matrix is cut into bands of 16 rows, a band into tiles of 32 columns; a tile holds its 16 rows side by side, so that
// one vector register works on 16 rows at a time and a band is read from its first byte to its last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace bimo {

constexpr int BAND = 16;   // rows
constexpr int GROUP = 32;  // columns that share a scale

inline int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

enum class Packing {
    U4,   // 16 fp16 scales, 16 fp16 minima, 256 bytes: two unsigned 4-bit numbers each; weight = scale * number + minimum
    S8,   // 16 fp16 scales, 512 bytes: numbers from -128 to 127, stored 128 higher; weight = scale * number
    F16,  // 32 columns of 16 numbers
    BF16,
    F32,
};

struct Free { void operator()(void *memory) const { std::free(memory); } };
template <class T> using Buffer = std::unique_ptr<T[], Free>;

// Zeros, aligned for whole registers. Throws std::bad_alloc.
template <class T> Buffer<T> allocate(std::size_t count);

// Room for matrices, as long as it lives: what is set anew takes new room. Most matrices are smaller than a large page;
// beside each other they lie in such pages all the same, and a step looks up few addresses.
class Arena {
  public:
    // `bytes` zeros, aligned for whole registers. Throws std::bad_alloc.
    std::uint8_t *take(std::size_t bytes);

  private:
    std::vector<Buffer<std::uint8_t>> regions_;
    std::uint8_t *next_ = nullptr;
    std::size_t left_ = 0;
};

struct Matrix {
    Packing packing = Packing::F32;
    int rows = 0, columns = 0;          // as in the model
    std::uint8_t *bytes = nullptr;      // in an Arena

    int bands() const { return round_up(rows, BAND) / BAND; }
    int tiles() const { return round_up(columns, GROUP) / GROUP; }
    std::size_t tile_bytes() const;
    std::size_t size() const { return tile_bytes() * tiles() * bands(); }
    const std::uint8_t *band(int index) const { return bytes + tile_bytes() * tiles() * index; }
    explicit operator bool() const { return bytes != nullptr; }
};

// Reorders rows x columns of a file's format (BIMO_F32 ...) into room from the arena. Throws std::bad_alloc; false when the
// columns do not come in whole blocks of the format.
bool pack(Matrix &matrix, Arena &arena, int format, const void *data, int rows, int columns);

// One row as numbers: out[columns].
void unpack_row(const Matrix &matrix, int row, float *out);

float half_to_float(std::uint16_t half);
std::uint16_t float_to_half(float value);
inline float brain_to_float(std::uint16_t brain) {
    const std::uint32_t bits = std::uint32_t(brain) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

} // namespace bimo
