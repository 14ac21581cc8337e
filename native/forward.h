// The model itself: one chunk of rows from token ids to logits. Included once for each instruction set, inside its
// namespace, after its lanes.

#include "products.h"
#include "attention.h"

static_assert(MOST_QUERIES <= SCORED_QUERIES);

// out = x / sqrt(mean(x^2) + epsilon) * weight; all padded with zeros to whole registers. Returns `out`.
inline const float *normalise(const float *x, const float *weight, int width, float epsilon, float *out) {
    Lanes squares = Lanes::all(0);
    for (int i = 0; i < width; i += BAND) {
        const Lanes part = Lanes::load(x + i);
        squares = multiply_add(part, part, squares);
    }
    const Lanes scale = Lanes::all(1 / std::sqrt(squares.sum() / width + epsilon));
    for (int i = 0; i < width; i += BAND) (Lanes::load(x + i) * scale * Lanes::load(weight + i)).store(out + i);
    return out;
}

// The bytes, scales and sums of a row of numbers.
inline void quantise(const float *numbers, int columns, Input &input, int row) {
    std::int8_t *bytes = input.bytes.get() + std::size_t(row) * input.stride;
    for (int group = 0; group * GROUP < columns; group++, numbers += GROUP, bytes += GROUP) {
        const Lanes a = Lanes::load(numbers), b = Lanes::load(numbers + BAND);
        const float top = largest(size(a), size(b)).largest();
        const Lanes inverse = Lanes::all(top > 0 ? 127 / top : 0);
        const Lanes x = nearest(a * inverse), y = nearest(b * inverse);
        x.store_bytes(bytes);
        y.store_bytes(bytes + BAND);
        const std::size_t at = std::size_t(row) * (input.stride / GROUP) + group;
        const float sum = (x + y).sum();
        input.scales[at] = top / 127;
        input.sums[at] = std::int32_t(sum);
        input.scaled_sums[at] = top / 127 * sum;
    }
}

struct Share { int first, end; };

class Forward {
  public:
    Forward(Decoder &decoder, const Chunk &chunk, int member)
        : d(decoder), shape(decoder.shape), chunk(chunk), member(member) {}

    void run() {
        const Share rows = share(chunk.rows);
        for (int row = rows.first; row < rows.end; row++)
            unpack_row(d.embedding, chunk.tokens[row], residual(row));
        d.team.barrier();
        for (int layer = 0; layer < shape.layers; layer++) {
            const Rows &going_on = layer == shape.layers - 1 ? chunk.asked : chunk.every;
            attention(layer, going_on);
            feed_forward(layer, going_on);
        }
        logits();
    }

  private:
    Decoder &d;
    const bimo_shape &shape;
    const Chunk &chunk;
    const int member;

    Share share(int count) const {
        const std::int64_t members = d.team.size();
        return {int(count * std::int64_t(member) / members), int(count * std::int64_t(member + 1) / members)};
    }
    float *residual(int row) const { return d.residual.get() + std::size_t(row) * d.width_stride(); }
    float *mixed(int row) const { return d.mixed.get() + std::size_t(row) * d.mixed_stride(); }
    float *attended(int row) const { return d.attended.get() + std::size_t(row) * d.attended_stride(); }
    float *inner(int row) const { return d.inner.get() + std::size_t(row) * d.hidden_stride(); }

    // An Input of `rows`, each where from(row, room) says that its numbers are: in the room for them, which it has filled,
    // or elsewhere. Every thread fills its own where that is sooner done.
    template <class From> const Input &input(int rows, int columns, bool as_bytes, From from) const {
        const bool own = rows <= OWN_ROWS;
        Input &input = own ? d.own[member] : d.shared;
        const Share part = own ? Share{0, rows} : share(rows);
        for (int row = part.first; row < part.end; row++) {
            float *room = input.numbers.get() + std::size_t(row) * input.stride;
            const float *numbers = from(row, room);
            if (as_bytes) quantise(numbers, columns, input, row);
            else if (numbers != room) std::memcpy(room, numbers, round_up(columns, GROUP) * sizeof(float));
        }
        if (!own) d.team.barrier();
        return input;
    }

    static bool needs_bytes(const Matrix &matrix) { return matrix.packing == Packing::U4 || matrix.packing == Packing::S8; }

    // This member's bands of a few matrices with the same input; sink(matrix, band, row, result).
    template <int COUNT, class Sink>
    void multiply(const Matrix *const (&matrices)[COUNT], const Input &input, int rows, Sink sink) const {
        int all = 0;
        for (const Matrix *matrix : matrices) all += matrix->bands();
        Share part = share(all);
        for (int index = 0; index < COUNT; index++) {
            const int bands = matrices[index]->bands();
            const int last = std::min(part.end, bands);
            for (int band = std::max(part.first, 0); band < last; band += 2) {
                const Matrix &matrix = *matrices[index];
                const bool pair = band + 1 < last;
                Lanes results[2][MOST_INPUTS];
                for (int row = 0, done; row < rows; row += done) {
                    done = pair ? multiply_pair(matrix, band, matrix, band + 1, input, row, rows, results)
                                : multiply_band(matrix, band, input, row, rows, results[0]);
                    for (int i = 0; i < done; i++) sink(index, band, row + i, results[0][i]);
                    for (int i = 0; pair && i < done; i++) sink(index, band + 1, row + i, results[1][i]);
                }
            }
            part.first -= bands;
            part.end -= bands;
        }
    }

    void add_to_residual(const Matrix &matrix, const Input &input, const Rows &rows) const {
        multiply({&matrix}, input, rows.count(), [&](int, int band, int place, Lanes result) {
            float *x = residual(rows[place]) + band * BAND;
            (Lanes::load(x) + result).store(x);
        });
        d.team.barrier();
    }

    // Every row leaves its key and its value; those that go on take what they attend to.
    void attention(int layer, const Rows &going_on) const {
        const Layer &weights = d.layers[layer];
        const Matrix &q = weights.matrices[BIMO_QUERY], &k = weights.matrices[BIMO_KEY], &v = weights.matrices[BIMO_VALUE];
        const float *norm = weights.vectors[BIMO_ATTENTION_NORM].get();
        const Input &normed = input(chunk.rows, shape.width, needs_bytes(q) || needs_bytes(k) || needs_bytes(v),
            [&](int row, float *room) { return normalise(residual(row), norm, shape.width, shape.norm_epsilon, room); });
        const int offsets[] = {0, d.key_offset(), d.value_offset()};
        const Buffer<float> *biases = &weights.vectors[BIMO_QUERY_BIAS];   // and those of keys and values after it
        multiply({&q, &k, &v}, normed, chunk.rows, [&](int matrix, int band, int row, Lanes result) {
            if (biases[matrix]) result = result + Lanes::load(biases[matrix].get() + band * BAND);
            result.store(mixed(row) + offsets[matrix] + band * BAND);
        });
        if (member == 0) d.next_item.store(0, std::memory_order_relaxed);
        d.team.barrier();
        const int heads = shape.heads + shape.kv_heads;
        const Share placed = share(chunk.rows * heads);
        for (int item = placed.first; item < placed.end; item++)
            if (d.cache_bytes == 2) place<std::uint16_t>(weights, layer, item / heads, item % heads);
            else place<float>(weights, layer, item / heads, item % heads);
        d.team.barrier();
        const int items = int(going_on.segments.size()) * shape.kv_heads;
        for (int item; (item = d.next_item.fetch_add(1, std::memory_order_relaxed)) < items;) {
            const Segment segment = going_on.segments[item / shape.kv_heads];
            if (d.cache_bytes == 2) attend_segment<std::uint16_t>(layer, going_on, segment, item % shape.kv_heads);
            else attend_segment<float>(layer, going_on, segment, item % shape.kv_heads);
        }
        d.team.barrier();
        const Matrix &out = weights.matrices[BIMO_OUT];
        const int columns = shape.heads * shape.head_width;
        const auto attention_of = [&](int place, float *) { return attended(going_on[place]); };
        add_to_residual(out, input(going_on.count(), columns, needs_bytes(out), attention_of), going_on);
    }

    // Normalises and turns one head of a row; a query is scaled, a key and its value go to where they are remembered.
    template <class Kept> void place(const Layer &weights, int layer, int row, int head) const {
        const int K = shape.head_width, position = chunk.positions[row];
        const bool is_query = head < shape.heads;
        const int kv_head = head - shape.heads;
        float *x = is_query ? mixed(row) + head * K : mixed(row) + d.key_offset() + kv_head * K;
        if (shape.qk_norm) {
            const float *norm = weights.vectors[is_query ? BIMO_QUERY_NORM : BIMO_KEY_NORM].get();
            float squares = 0;
            for (int i = 0; i < K; i++) squares += x[i] * x[i];
            const float scale = 1 / std::sqrt(squares / K + shape.norm_epsilon);
            for (int i = 0; i < K; i++) x[i] *= scale * norm[i];
        }
        const float *cosines = d.cosines.get() + std::size_t(position) * (K / 2);
        const float *sines = d.sines.get() + std::size_t(position) * (K / 2);
        const float scale = is_query ? 1 / std::sqrt(float(K)) : 1;
        for (int i = 0; i < K / 2; i++) {
            const float a = x[i], b = x[i + K / 2];
            x[i] = (a * cosines[i] - b * sines[i]) * scale;
            x[i + K / 2] = (b * cosines[i] + a * sines[i]) * scale;
        }
        if (is_query) return;
        const std::size_t kept = d.kept(layer, chunk.slots[row], kv_head);
        const float *value = mixed(row) + d.value_offset() + kv_head * K;
        Kept *keys = reinterpret_cast<Kept *>(d.keys.get()) + kept + std::size_t(position / BAND) * BAND * d.head_stride() + position % BAND;
        Kept *values = reinterpret_cast<Kept *>(d.values.get()) + kept + std::size_t(position) * d.head_stride();
        for (int first = 0; first < K; first += BAND) {
            Kept column[BAND];
            const int count = std::min(BAND, K - first);
            store_kept(column, load_part(x + first, count));
            for (int i = 0; i < count; i++) keys[(first + i) * BAND] = column[i];
            store_kept(values + first, load_part(value + first, count));
        }
    }

    template <class Kept> void attend_segment(int layer, const Rows &rows, Segment segment, int kv_head) const {
        const int heads = shape.heads / shape.kv_heads, K = shape.head_width, count = segment.rows * heads;
        const std::size_t kept = d.kept(layer, chunk.slots[rows[segment.first]], kv_head);
        const auto with = [&](auto number, int first) {
            constexpr int N = decltype(number)::value;
            const float *queries[N];
            float *outs[N];
            int lengths[N];
            for (int i = 0; i < N; i++) {
                const int row = rows[segment.first + (first + i) / heads], head = kv_head * heads + (first + i) % heads;
                queries[i] = mixed(row) + head * K;
                outs[i] = attended(row) + head * K;
                lengths[i] = chunk.positions[row] + 1;
            }
            attend<N, Kept>(queries, lengths, reinterpret_cast<const Kept *>(d.keys.get()) + kept,
                            reinterpret_cast<const Kept *>(d.values.get()) + kept, K, d.head_stride(),
                            d.scores[member].get(), d.kept_positions(), outs);
        };
        int first = 0;
        for (; first + MOST_QUERIES <= count; first += MOST_QUERIES) with(std::integral_constant<int, MOST_QUERIES>{}, first);
        [&]<int... REST>(std::integer_sequence<int, REST...>) {
            ((count - first == REST + 1 ? with(std::integral_constant<int, REST + 1>{}, first) : void()), ...);
        }(std::make_integer_sequence<int, MOST_QUERIES - 1>{});
    }

    void feed_forward(int layer, const Rows &going_on) const {
        const Layer &weights = d.layers[layer];
        const Matrix &gate = weights.matrices[BIMO_GATE], &up = weights.matrices[BIMO_UP], &down = weights.matrices[BIMO_DOWN];
        const float *norm = weights.vectors[BIMO_FEED_FORWARD_NORM].get();
        const int rows = going_on.count();
        const Input &normed = input(rows, shape.width, needs_bytes(gate) || needs_bytes(up), [&](int place, float *room) {
            return normalise(residual(going_on[place]), norm, shape.width, shape.norm_epsilon, room);
        });
        const Share bands = share(gate.bands());
        for (int band = bands.first; band < bands.end; band++) {
            Lanes results[2][MOST_INPUTS];
            for (int row = 0, done; row < rows; row += done) {
                done = multiply_pair(gate, band, up, band, normed, row, rows, results);
                for (int i = 0; i < done; i++) {
                    const Lanes x = results[0][i], opened = x / (Lanes::all(1) + exponential(Lanes::all(0) - x));
                    (opened * results[1][i]).store(inner(row + i) + band * BAND);
                }
            }
        }
        d.team.barrier();
        const auto inner_of = [&](int row, float *) { return inner(row); };
        add_to_residual(down, input(rows, shape.hidden, needs_bytes(down), inner_of), going_on);
    }

    void logits() const {
        const Matrix &head = d.head();
        const int rows = int(chunk.wanted.size());
        if (!rows) return;
        const Input &normed = input(rows, shape.width, needs_bytes(head), [&](int row, float *room) {
            return normalise(residual(chunk.wanted[row]), d.last_norm.get(), shape.width, shape.norm_epsilon, room);
        });
        multiply({&head}, normed, rows, [&](int, int band, int row, Lanes result) {
            float *out = chunk.logits[row] + std::size_t(band) * BAND, numbers[BAND];
            if ((band + 1) * BAND <= shape.vocabulary) return result.store(out);
            result.store(numbers);
            std::memcpy(out, numbers, (shape.vocabulary - band * BAND) * sizeof(float));
        });
    }
};

void forward(Decoder &decoder, const Chunk &chunk, int member) { Forward(decoder, chunk, member).run(); }

// Reads n numbers, n a multiple of 64, and returns something that depends on all of them.
double read(const float *p, std::size_t n) {
    Lanes sums[4] = {Lanes::all(0), Lanes::all(0), Lanes::all(0), Lanes::all(0)};
    for (std::size_t i = 0; i < n; i += 4 * BAND)
        for (int j = 0; j < 4; j++) sums[j] = sums[j] + Lanes::load(p + i + j * BAND);
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum();
}
