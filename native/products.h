// Bands of 16 rows of a matrix times up to MOST_INPUTS inputs. Included once for each instruction set, after its lanes.
//
// Whatever the number of inputs and bands, each is added up in the same order: a sequence gets the same numbers alone or in
// company.

// Inputs [first, first + N) -> out[N], each the 16 rows of the band.
using BandProduct = void (*)(const std::uint8_t *tile, const Input &input, int first, int tiles, Lanes *out);

constexpr int PREFETCH_TILES = 20;

// BANDS bands at once, of one matrix or of several: out[band * MOST_INPUTS + i].
template <int N, int BANDS>
void multiply_u4(const std::uint8_t *const (&bands)[BANDS], const Input &input, int first, int tiles, Lanes *out) {
    constexpr int TILE = BAND * 4 + BAND * GROUP / 2;
    Lanes totals[BANDS][N];
    for (auto &band : totals)
        for (auto &total : band) total = Lanes::all(0);
    const std::int8_t *bytes = input.bytes.get() + std::size_t(first) * input.stride;
    const std::ptrdiff_t stride = input.stride;
    for (int group = 0; group < tiles; group++, bytes += GROUP) {
        const std::uint8_t *tile[BANDS];
        SmallSums sums[BANDS][N];
        for (int band = 0; band < BANDS; band++) {
            tile[band] = bands[band] + group * TILE;
            for (int line = 0; line < TILE; line += 64) prefetch(tile[band] + PREFETCH_TILES * TILE + line);
            for (auto &sum : sums[band]) sum = SmallSums::zero();
        }
        for (int quarter = 0; quarter < 4; quarter++) {
            Bytes low[BANDS], high[BANDS];
            for (int band = 0; band < BANDS; band++) {
                const Bytes pairs = Bytes::load(tile[band] + BAND * 4 + quarter * 64);
                low[band] = pairs.low_halves(), high[band] = pairs.high_halves();
            }
            for (int i = 0; i < N; i++) {
                for (int band = 0; band < BANDS; band++) sums[band][i].add(low[band], bytes + i * stride + quarter * 8);
                for (int band = 0; band < BANDS; band++) sums[band][i].add(high[band], bytes + i * stride + quarter * 8 + 4);
            }
        }
        for (int band = 0; band < BANDS; band++) {
            const auto *halves = reinterpret_cast<const std::uint16_t *>(tile[band]);
            const Lanes scale = Lanes::load_half(halves), minimum = Lanes::load_half(halves + BAND);
            for (int i = 0; i < N; i++) {
                const std::size_t at = std::size_t(first + i) * (input.stride / GROUP) + group;
                Lanes &total = totals[band][i];
                total = multiply_add(scale * Lanes::all(input.scales[at]), sums[band][i].numbers(), total);
                total = multiply_add(minimum, Lanes::all(input.scaled_sums[at]), total);
            }
        }
    }
    for (int band = 0; band < BANDS; band++)
        for (int i = 0; i < N; i++) out[band * MOST_INPUTS + i] = totals[band][i];
}

template <int N> void multiply_u4(const std::uint8_t *tile, const Input &input, int first, int tiles, Lanes *out) {
    multiply_u4<N, 1>({tile}, input, first, tiles, out);
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

// Up to MOST_INPUTS inputs, from `first` on; out[i] belongs to input first + i. Returns how many were done.
inline int multiply_band(const Matrix &matrix, int band, const Input &input, int first, int rows, Lanes *out) {
    const std::uint8_t *tile = matrix.band(band);
    const int left = rows - first, done = left >= MOST_INPUTS ? MOST_INPUTS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    const BandProduct product = done == MOST_INPUTS ? band_product<MOST_INPUTS>(matrix.packing)
                                : done == 4 ? band_product<4>(matrix.packing)
                                : done == 2 ? band_product<2>(matrix.packing)
                                            : band_product<1>(matrix.packing);
    product(tile, input, first, matrix.tiles(), out);
    return done;
}

// A band of one matrix and a band of another, or of the same, which share their loads of the inputs where there are enough
// of them; of as many columns. out[0] belongs to the first.
inline int multiply_pair(const Matrix &one, int band, const Matrix &other, int other_band, const Input &input, int first,
                         int rows, Lanes (&out)[2][MOST_INPUTS]) {
    constexpr int N = 4;
    if constexpr (BANDS_IN_PAIRS)
        if (rows - first >= N && one.packing == Packing::U4 && other.packing == Packing::U4) {
            multiply_u4<N, 2>({one.band(band), other.band(other_band)}, input, first, one.tiles(), out[0]);
            return N;
        }
    multiply_band(one, band, input, first, rows, out[0]);
    return multiply_band(other, other_band, input, first, rows, out[1]);
}
