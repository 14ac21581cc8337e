// Bands of 16 rows of a matrix times up to eight inputs. Included once for each instruction set, after its lanes.
//
// Whatever the number of inputs, each is added up in the same order: a sequence gets the same numbers alone or in company.

// Inputs [first, first + N) -> out[N], each the 16 rows of the band.
using BandProduct = void (*)(const std::uint8_t *tile, const Input &input, int first, int tiles, Lanes *out);

constexpr int PREFETCH_TILES = 20;

template <int N> void multiply_u4(const std::uint8_t *tile, const Input &input, int first, int tiles, Lanes *out) {
    constexpr int TILE = BAND * 4 + BAND * GROUP / 2;
    Lanes totals[N];
    for (auto &total : totals) total = Lanes::all(0);
    const std::int8_t *bytes = input.bytes.get() + std::size_t(first) * input.stride;
    const std::ptrdiff_t stride = input.stride;
    for (int group = 0; group < tiles; group++, tile += TILE, bytes += GROUP) {
        for (int line = 0; line < TILE; line += 64) prefetch(tile + PREFETCH_TILES * TILE + line);
        Sums sums[N];
        for (auto &sum : sums) sum = Sums::zero();
        for (int quarter = 0; quarter < 4; quarter++) {
            const Bytes pairs = Bytes::load(tile + BAND * 4 + quarter * 64);
            const Bytes low = pairs.low_halves(), high = pairs.high_halves();
            for (int i = 0; i < N; i++) {
                sums[i].add(low, bytes + i * stride + quarter * 8);
                sums[i].add(high, bytes + i * stride + quarter * 8 + 4);
            }
        }
        const auto *halves = reinterpret_cast<const std::uint16_t *>(tile);
        const Lanes scale = Lanes::load_half(halves), minimum = Lanes::load_half(halves + BAND);
        for (int i = 0; i < N; i++) {
            const std::size_t at = std::size_t(first + i) * (input.stride / GROUP) + group;
            totals[i] = multiply_add(scale * Lanes::all(input.scales[at]), sums[i].numbers(), totals[i]);
            totals[i] = multiply_add(minimum, Lanes::all(input.scaled_sums[at]), totals[i]);
        }
    }
    for (int i = 0; i < N; i++) out[i] = totals[i];
}

template <int N> void multiply_s8(const std::uint8_t *tile, const Input &input, int first, int tiles, Lanes *out) {
    constexpr int TILE = BAND * 2 + BAND * GROUP;
    Lanes totals[N];
    for (auto &total : totals) total = Lanes::all(0);
    for (int group = 0; group < tiles; group++, tile += TILE) {
        for (int line = 0; line < TILE; line += 64) prefetch(tile + PREFETCH_TILES * TILE + line);
        Sums sums[N];
        for (int i = 0; i < N; i++)
            sums[i] = Sums::for_raised(input.sums[std::size_t(first + i) * (input.stride / GROUP) + group]);
        for (int four = 0; four < GROUP / 4; four++) {
            const Bytes numbers = Bytes::load(tile + BAND * 2 + four * 64);
            for (int i = 0; i < N; i++)
                sums[i].add_raised(numbers, input.bytes.get() + std::size_t(first + i) * input.stride + group * GROUP + four * 4);
        }
        const Lanes scale = Lanes::load_half(reinterpret_cast<const std::uint16_t *>(tile));
        for (int i = 0; i < N; i++) {
            const float input_scale = input.scales[std::size_t(first + i) * (input.stride / GROUP) + group];
            totals[i] = multiply_add(scale * Lanes::all(input_scale), sums[i].numbers(), totals[i]);
        }
    }
    for (int i = 0; i < N; i++) out[i] = totals[i];
}

struct Half { static Lanes load(const std::uint8_t *p) { return Lanes::load_half((const std::uint16_t *)p); } };
struct Brain { static Lanes load(const std::uint8_t *p) { return Lanes::load_brain((const std::uint16_t *)p); } };
struct Full { static Lanes load(const std::uint8_t *p) { return Lanes::load((const float *)p); } };

template <class Number, int BYTES, int N>
void multiply_numbers(const std::uint8_t *tile, const Input &input, int first, int tiles, Lanes *out) {
    Lanes totals[N];
    for (auto &total : totals) total = Lanes::all(0);
    const float *numbers = input.numbers.get() + std::size_t(first) * input.stride;
    for (int column = 0; column < tiles * GROUP; column++, tile += BAND * BYTES) {
        const Lanes weights = Number::load(tile);
        for (int i = 0; i < N; i++)
            totals[i] = multiply_add(weights, Lanes::all(numbers[std::size_t(i) * input.stride + column]), totals[i]);
    }
    for (int i = 0; i < N; i++) out[i] = totals[i];
}

template <int N> BandProduct band_product(Packing packing) {
    switch (packing) {
    case Packing::U4: return multiply_u4<N>;
    case Packing::S8: return multiply_s8<N>;
    case Packing::F16: return multiply_numbers<Half, 2, N>;
    case Packing::BF16: return multiply_numbers<Brain, 2, N>;
    case Packing::F32: return multiply_numbers<Full, 4, N>;
    }
    return nullptr;
}

// Up to eight inputs, from `first` on; out[i] belongs to input first + i. Returns how many were done.
inline int multiply_band(const Matrix &matrix, int band, const Input &input, int first, int rows, Lanes *out) {
    const std::uint8_t *tile = matrix.band(band);
    const int left = rows - first, done = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    const BandProduct product = done == 8   ? band_product<8>(matrix.packing)
                                : done == 4 ? band_product<4>(matrix.packing)
                                : done == 2 ? band_product<2>(matrix.packing)
                                            : band_product<1>(matrix.packing);
    product(tile, input, first, matrix.tiles(), out);
    return done;
}
