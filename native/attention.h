// Attention of a few queries over the keys and values that a slot remembers. Included after the lanes.

// e^x to two units in the last place; x is held within what a float can say.
inline Lanes exponential(Lanes x) {
    x = largest(smallest(x, Lanes::all(87.0f)), Lanes::all(-87.0f));
    const Lanes whole = nearest(x * Lanes::all(1.44269504f));
    // ln 2 in two parts, so that what is left of x keeps its last bits.
    Lanes rest = multiply_add(whole, Lanes::all(-0.693359375f), x);
    rest = multiply_add(whole, Lanes::all(2.12194440e-4f), rest);
    Lanes series = Lanes::all(1.0f / 720);
    for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        series = multiply_add(series, rest, Lanes::all(factor));
    return times_power_of_two(series, whole);
}

// `count` numbers, sixteen at most, and zeros.
inline Lanes load_part(const float *p, int count) {
    if (count == BAND) return Lanes::load(p);
    float numbers[BAND] = {};
    std::memcpy(numbers, p, count * sizeof(float));
    return Lanes::load(numbers);
}

inline Lanes load_kept(const std::uint16_t *p) { return Lanes::load_half(p); }
inline Lanes load_kept(const float *p) { return Lanes::load(p); }
inline void store_kept(std::uint16_t *p, Lanes x) { x.store_half(p); }
inline void store_kept(float *p, Lanes x) { x.store(p); }

// The scores of N queries with the keys of `pairs` pairs of 16 positions. queries[i]: head_width numbers.
//
// On the way the memory is asked for the keys of the next pair but one, and for `values`, those of the same positions, which
// are wanted afterwards: a line for each k, which is all of them in fp16 and half in fp32.
template <int N, class Kept>
void score_keys(const float *const *queries, const Kept *keys, int head_width, int head_stride, int pairs,
                const Kept *values, float *const *scores) {
    const int step = 2 * BAND * head_stride;
    for (int pair = 0; pair < pairs; pair++, keys += step, values += step) {
        Lanes left[N], right[N];
        for (int i = 0; i < N; i++) left[i] = right[i] = Lanes::all(0);
        for (int k = 0; k < head_width; k++) {
            prefetch(keys + 2 * step + 2 * BAND * k);
            prefetch(values + 2 * BAND * k);
            const Lanes a = load_kept(keys + k * BAND), b = load_kept(keys + (head_stride + k) * BAND);
            for (int i = 0; i < N; i++) {
                const Lanes query = Lanes::all(queries[i][k]);
                left[i] = multiply_add(a, query, left[i]);
                right[i] = multiply_add(b, query, right[i]);
            }
        }
        for (int i = 0; i < N; i++) {
            left[i].store(scores[i] + pair * 2 * BAND);
            right[i].store(scores[i] + pair * 2 * BAND + BAND);
        }
    }
}

// scores[0, length) become what each position weighs, not yet divided by their sum, which is returned; the rest zeros.
inline float weigh(float *scores, int length, int padded) {
    for (int j = length; j < padded; j++) scores[j] = -INFINITY;
    Lanes top = Lanes::all(-INFINITY);
    for (int j = 0; j < padded; j += BAND) top = largest(top, Lanes::load(scores + j));
    const Lanes highest = Lanes::all(top.largest());
    for (int j = 0; j < length; j += BAND) exponential(Lanes::load(scores + j) - highest).store(scores + j);
    for (int j = length; j < padded; j++) scores[j] = 0;
    Lanes sum = Lanes::all(0);
    for (int j = 0; j < length; j += BAND) sum = sum + Lanes::load(scores + j);
    return sum.sum();
}

// outs[i][head_width] = weights[i] times the values of `length` positions, divided by sums[i].
template <int N, class Kept>
void mix_values(const float *const *weights, const float *sums, const Kept *values, int head_width,
                int head_stride, int length, float *const *outs) {
    for (int first = 0; first < head_width; first += BAND * 2) {
        // With an odd number of registers, the last is computed twice rather than in a loop of its own.
        const int second = first + BAND < head_stride ? first + BAND : first;
        Lanes left[N], right[N];
        for (int i = 0; i < N; i++) left[i] = right[i] = Lanes::all(0);
        for (int j = 0; j < length; j++) {
            const Kept *value = values + std::size_t(j) * head_stride;
            const Lanes a = load_kept(value + first), b = load_kept(value + second);
            for (int i = 0; i < N; i++) {
                const Lanes weight = Lanes::all(weights[i][j]);
                left[i] = multiply_add(a, weight, left[i]);
                right[i] = multiply_add(b, weight, right[i]);
            }
        }
        for (int i = 0; i < N; i++) {
            float numbers[2 * BAND];
            const Lanes part = Lanes::all(1 / sums[i]);
            (left[i] * part).store(numbers);
            (right[i] * part).store(numbers + BAND);
            const int count = std::min(2 * BAND, head_width - first);
            std::memcpy(outs[i] + first, numbers, count * sizeof(float));
        }
    }
}

// N queries of one key/value head; query i sees the first lengths[i] positions. scores: room for N x padded numbers.
template <int N, class Kept>
void attend(const float *const *queries, const int *lengths, const Kept *keys, const Kept *values,
            int head_width, int head_stride, float *scores, int scores_stride, float *const *outs) {
    const int longest = *std::max_element(lengths, lengths + N), padded = round_up(longest, 2 * BAND);
    float *rows[N], sums[N];
    for (int i = 0; i < N; i++) rows[i] = scores + std::size_t(i) * scores_stride;
    score_keys<N, Kept>(queries, keys, head_width, head_stride, padded / (2 * BAND), values, rows);
    for (int i = 0; i < N; i++) sums[i] = weigh(rows[i], lengths[i], padded);
    mix_values<N, Kept>(rows, sums, values, head_width, head_stride, longest, outs);
}
