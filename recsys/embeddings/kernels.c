/* Lookup of embedding tables on the CPU, and exact sparse update of float32 ones.
 *
 * Plain C11 without Python.h; recsys/embeddings/kernels.py calls it through ctypes, which lets
 * other threads run meanwhile. One call works on its own lookups or tables only, so callers may
 * split them over threads and the result does not depend on how. No atomics, no global state.
 *
 * The structs below are mirrored by numpy dtypes in kernels.py; raise ABI when one changes.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../native.h"

#define ABI 3

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define PREFETCH_READ(address) __builtin_prefetch((address), 0, 3)
#define PREFETCH_WRITE(address) __builtin_prefetch((address), 1, 2)
#else
#define INLINE static inline
#define PREFETCH_READ(address) ((void)(address))
#define PREFETCH_WRITE(address) ((void)(address))
#endif

enum { PAD = 0, AHEAD = 16, BLOCK = 128, LANES = 8, LINE = 16 /* floats in a cache line */ };
enum { LINE_BYTES = 64, CHUNK = 16 /* columns decoded at once */, HEADER = 4 };
enum { FP32, FP16, INT8, INT4, INT2 }; /* how rows are stored, see row_format.py */
enum { SGD, ADAGRAD, ROWWISE_ADAGRAD, ADAM };

typedef struct {
    const uint8_t *weight;  /* first row of the table */
    float *out;             /* first row of the group's output, at this lookup's column */
    int64_t stride;         /* floats from one output row to the next */
    int64_t start, end;     /* range in values */
    const int32_t *lengths; /* null: all 1 */
    int64_t dim;
    int64_t mean;
    int64_t kind; /* FP32 ... */
} lookup_t;

typedef struct {
    const int32_t *values;
    const int32_t *lengths;
    const float *weights; /* of the values, or null */
    const float *grad;    /* first row, at this lookup's column */
    int64_t stride;
    int64_t batch;
    int64_t mean;
} segment_t;

typedef struct {
    float *weight, *state0, *state1;
    int64_t rows, dim;
    int64_t count; /* values of all segments */
    int64_t first, segments;
} table_t;

typedef struct {
    int64_t kind;
    double rate, eps, beta1, beta2;
} rule_t;

int64_t recsys_abi(void) { return ABI; }

/* First position in `values` that is outside its slot's table, or -1. */
CLONES int64_t recsys_out_of_range(const int32_t *values, const int64_t *ends,
                                   const int64_t *limits, int64_t slots) {
    int64_t start = 0;
    for (int64_t slot = 0; slot < slots; ++slot) {
        uint32_t limit = limits[slot] > INT32_MAX ? (uint32_t)INT32_MAX + 1 : (uint32_t)limits[slot];
        uint32_t bad = 0; /* a negative index is a large unsigned one */
        for (int64_t i = start; i < ends[slot]; ++i) bad |= (uint32_t)values[i] >= limit;
        for (int64_t i = start; bad && i < ends[slot]; ++i)
            if ((uint32_t)values[i] >= limit) return i;
        start = ends[slot];
    }
    return -1;
}

/* Rows of `count` hash functions, `n` each: 1 + (upper half of salt * mix(x)) * buckets / 2^32,
 * PAD to PAD. See recsys/embeddings/compression/hashing.py. */
CLONES void recsys_hash(const int32_t *values, int64_t n, const int64_t *salts,
                        const int64_t *buckets, int64_t count, int32_t *out) {
    uint64_t mixed[BLOCK];
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = n - start < BLOCK ? n - start : BLOCK;
        for (int64_t i = 0; i < size; ++i) {
            uint64_t x = (uint64_t)(int64_t)values[start + i] + 0x9e3779b97f4a7c15u;
            x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
            x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
            mixed[i] = x ^ (x >> 31);
        }
        for (int64_t k = 0; k < count; ++k) {
            uint64_t salt = (uint64_t)salts[k] | 1, range = (uint64_t)buckets[k];
            int32_t *rows = out + k * n + start;
            for (int64_t i = 0; i < size; ++i) {
                int32_t row = (int32_t)(1 + ((salt * mixed[i] >> 32) * range >> 32));
                rows[i] = values[start + i] == PAD ? PAD : row;
            }
        }
    }
}

/* ------------------------------------------------------------------------------------ lookup */

INLINE void prefetch_row(const float *row, int64_t dim) {
    for (int64_t d = 0; d < dim; d += LINE) PREFETCH_READ(row + d);
}

/* fp16 to float32. No float32 subnormals on the way, so flushing them is harmless. */
INLINE uint32_t half_bits(uint16_t half, uint32_t small) {
    uint32_t magnitude = half & 0x7fff, is_small = -(uint32_t)(magnitude < 0x400);
    uint32_t normal = (magnitude << 13) + (112u << 23);
    return (small & is_small) | (normal & ~is_small) | (uint32_t)(half & 0x8000) << 16;
}

INLINE float half_to_float(uint16_t half) {
    float value = (float)(half & 0x7fff) * 0x1p-24f; /* right for fp16 subnormals */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = half_bits(half, bits);
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE int64_t row_size(const int64_t dim, const int kind) {
    return kind == FP32   ? 4 * dim
           : kind == FP16 ? 2 * dim
           : kind == INT8 ? HEADER + dim
           : kind == INT4 ? HEADER + dim / 2
                          : HEADER + dim / 4;
}

/* One column of a row. */
INLINE float decode(const uint8_t *row, int64_t d, float scale, float bias, const int kind) {
    if (kind == FP16) {
        uint16_t half;
        memcpy(&half, row + 2 * d, sizeof half);
        return half_to_float(half);
    }
    const uint8_t *in = row + HEADER;
    int code = kind == INT8   ? in[d]
               : kind == INT4 ? in[d / 2] >> (d % 2 * 4) & 15
                              : in[d / 4] >> (d % 4 * 2) & 3;
    return scale * (float)code + bias;
}

#if defined(__GNUC__)
typedef float floats_t __attribute__((vector_size(4 * CHUNK)));
typedef uint32_t words_t __attribute__((vector_size(4 * CHUNK)));
typedef int32_t ints_t __attribute__((vector_size(4 * CHUNK)));
typedef uint16_t halves_t __attribute__((vector_size(2 * CHUNK)));

/* out = columns [from, from + CHUNK), or out += weight * them, as with `decode`. */
INLINE void put_chunk(const uint8_t *row, int64_t from, float scale, float bias, int add,
                      float weight, float *out, const int kind) {
    const uint8_t *in = row + HEADER;
    floats_t values, sum;
    words_t words;
    uint32_t w[4];
    if (kind == FP16) {
        halves_t halves;
        memcpy(&halves, row + 2 * from, sizeof halves);
        words = __builtin_convertvector(halves, words_t);
        words_t magnitude = words & 0x7fff, is_small = (words_t)(magnitude < 0x400);
        words_t small = (words_t)(__builtin_convertvector((ints_t)magnitude, floats_t) * 0x1p-24f);
        words_t normal = (magnitude << 13) + (112u << 23);
        words = (small & is_small) | (normal & ~is_small) | (words & 0x8000) << 16;
        values = (floats_t)words;
    } else {
        if (kind == INT8) {
            memcpy(w, in + from, 16);
            words = (words_t){w[0], w[0], w[0], w[0], w[1], w[1], w[1], w[1],
                              w[2], w[2], w[2], w[2], w[3], w[3], w[3], w[3]};
            words = words >> (words_t){0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24};
            words &= 255;
        } else if (kind == INT4) {
            memcpy(w, in + from / 2, 8);
            words = (words_t){w[0], w[0], w[0], w[0], w[0], w[0], w[0], w[0],
                              w[1], w[1], w[1], w[1], w[1], w[1], w[1], w[1]};
            words = words >> (words_t){0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};
            words &= 15;
        } else {
            memcpy(w, in + from / 4, 4);
            words = (words_t){w[0], w[0], w[0], w[0], w[0], w[0], w[0], w[0],
                              w[0], w[0], w[0], w[0], w[0], w[0], w[0], w[0]};
            words = words >> (words_t){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
            words &= 3;
        }
        values = scale * __builtin_convertvector((ints_t)words, floats_t) + bias;
    }
    if (add) {
        memcpy(&sum, out + from, sizeof sum);
        values = sum + weight * values;
    }
    memcpy(out + from, &values, sizeof values);
}
#endif

/* out = row, or out += weight * row. */
INLINE void put_row(const uint8_t *row, int add, float weight, float *out, const int64_t dim,
                    const int kind) {
    if (kind == FP32) {
        const float *in = (const float *)row;
        if (add)
            for (int64_t d = 0; d < dim; ++d) out[d] += weight * in[d];
        else
            for (int64_t d = 0; d < dim; ++d) out[d] = in[d];
        return;
    }
    float scale = 0, bias = 0;
    if (kind != FP16) {
        uint16_t header[2];
        memcpy(header, row, sizeof header);
        scale = half_to_float(header[0]), bias = half_to_float(header[1]);
    }
    int64_t from = 0;
#if defined(__GNUC__)
    for (; from + CHUNK <= dim; from += CHUNK)
        put_chunk(row, from, scale, bias, add, weight, out, kind);
#endif
    for (; from < dim; ++from) {
        float value = decode(row, from, scale, bias, kind);
        out[from] = add ? out[from] + weight * value : value;
    }
}

INLINE void prefetch_bytes(const uint8_t *row, const int64_t size) {
    for (int64_t i = 0; i < size; i += LINE_BYTES) PREFETCH_READ(row + i);
    if (size % LINE_BYTES) PREFETCH_READ(row + size - 1); /* rows may lie across lines */
}

INLINE int64_t pool_rows(const lookup_t *look, const int32_t *values, const float *weights,
                         int64_t position, int64_t first, int64_t last, const int64_t dim,
                         const int kind) {
    const uint8_t *table = look->weight;
    const int64_t size = row_size(dim, kind);
    for (int64_t b = first; b < last; ++b) {
        float *out = look->out + b * look->stride;
        int64_t length = look->lengths ? look->lengths[b] : 1;
        if (length < 0 || length > look->end - position) return -1; /* lengths and counts differ */
        if (length == 1 && !weights) {
            if (position + AHEAD < look->end)
                prefetch_bytes(table + values[position + AHEAD] * size, size);
            int64_t row = values[position++];
            if (row == PAD)
                for (int64_t d = 0; d < dim; ++d) out[d] = 0;
            else
                put_row(table + row * size, 0, 1.0f, out, dim, kind);
            continue;
        }
        for (int64_t d = 0; d < dim; ++d) out[d] = 0;
        for (int64_t stop = position + length; position < stop; ++position) {
            if (position + AHEAD < look->end)
                prefetch_bytes(table + values[position + AHEAD] * size, size);
            int64_t row = values[position];
            if (row == PAD) continue;
            float weight = weights ? weights[position] : 1.0f;
            put_row(table + row * size, 1, weight, out, dim, kind);
        }
        if (look->mean && length > 1)
            for (int64_t d = 0; d < dim; ++d) out[d] /= (float)length;
    }
    return position;
}

INLINE int64_t pool_any_dim(const lookup_t *look, const int32_t *values, const float *weights,
                            int64_t position, int64_t first, int64_t last, const int kind) {
    switch (look->dim) {
#define CASE(D)                                                                                 \
    case D:                                                                                     \
        return pool_rows(look, values, weights, position, first, last, D, kind)
        CASE(1);
        CASE(4);
        CASE(8);
        CASE(16);
        CASE(32);
        CASE(64);
#undef CASE
    default:
        return pool_rows(look, values, weights, position, first, last, look->dim, kind);
    }
}

/* Pooled lookup. `positions` is scratch, one a lookup. Returns -1, or the first lookup whose lengths
 * do not add up to its range of values. */
CLONES int64_t recsys_pooled(const lookup_t *lookups, int64_t count, const int32_t *values,
                          const float *weights, int64_t batch, int64_t *positions) {
    for (int64_t i = 0; i < count; ++i) positions[i] = lookups[i].start;
    /* In blocks of rows, so that the output rows of all features stay in the cache together. */
    for (int64_t first = 0; first < batch; first += BLOCK) {
        int64_t last = first + BLOCK < batch ? first + BLOCK : batch;
        for (int64_t i = 0; i < count; ++i) {
            const lookup_t *look = lookups + i;
            switch (look->kind) {
#define CASE(KIND)                                                                              \
    case KIND:                                                                                  \
        positions[i] = pool_any_dim(look, values, weights, positions[i], first, last, KIND);    \
        break
                CASE(FP32);
                CASE(FP16);
                CASE(INT8);
                CASE(INT4);
            default:
                CASE(INT2);
#undef CASE
            }
            if (positions[i] < 0) return i;
        }
    }
    for (int64_t i = 0; i < count; ++i)
        if (positions[i] != lookups[i].end) return i;
    return -1;
}

/* ------------------------------------------------------------------------------------ update */

/* Where distinct rows are found again: an array over all rows of a small table, else an
 * open-addressing hash. Entries are positions in `rows`, -1 where empty. */
typedef struct {
    int32_t *entries;
    int32_t *rows; /* the distinct rows, in order of first sight */
    int64_t count;
    int64_t mask; /* 0: entries are indexed by row */
    int shift;
} seen_t;

INLINE int64_t find_row(seen_t *seen, int32_t row, int *is_new) {
    int64_t at = row;
    if (seen->mask) {
        at = ((uint32_t)row * 2654435769u) >> seen->shift;
        while (seen->entries[at] >= 0 && seen->rows[seen->entries[at]] != row)
            at = (at + 1) & seen->mask;
    }
    *is_new = seen->entries[at] < 0;
    if (*is_new) {
        seen->rows[seen->count] = row;
        seen->entries[at] = (int32_t)seen->count++;
    }
    return seen->entries[at];
}

static void make_seen(seen_t *seen, const table_t *table, int32_t *workspace) {
    int64_t size = table->rows;
    seen->mask = 0, seen->shift = 0, seen->count = 0;
    if (table->rows > 4 * table->count) {
        int bits = 1;
        while (((int64_t)1 << bits) < 2 * table->count) ++bits;
        size = (int64_t)1 << bits, seen->mask = size - 1, seen->shift = 32 - bits;
    }
    seen->entries = workspace;
    seen->rows = workspace + 4 * table->count + 16; /* size is at most 4 count, 2 if count is 1 */
    memset(seen->entries, 0xff, (size_t)size * sizeof *seen->entries);
}

INLINE void sum_segment(const table_t *table, const segment_t *segment, seen_t *seen, float *sums,
                        const int64_t dim, int kind) {
    int64_t position = 0;
    for (int64_t b = 0; b < segment->batch; ++b) {
        const float *grad = segment->grad + b * segment->stride;
        int64_t length = segment->lengths[b]; /* checked by the lookup of the same indices */
        if (b + AHEAD < segment->batch) prefetch_row(grad + AHEAD * segment->stride, dim);
        float divisor = segment->mean && length > 1 ? (float)length : 1.0f;
        for (int64_t stop = position + length; position < stop; ++position) {
            int32_t row = segment->values[position];
            if (row == PAD) continue;
            int is_new;
            float *sum = sums + find_row(seen, row, &is_new) * dim;
            if (is_new) {
                for (int64_t d = 0; d < dim; d += LINE) PREFETCH_WRITE(table->weight + row * dim + d);
                if (kind == ROWWISE_ADAGRAD) PREFETCH_WRITE(table->state0 + row);
                for (int64_t d = 0; d < dim; ++d) sum[d] = 0;
            }
            if (divisor == 1.0f && !segment->weights) {
                for (int64_t d = 0; d < dim; ++d) sum[d] += grad[d];
            } else {
                float weight = segment->weights ? segment->weights[position] : 1.0f;
                for (int64_t d = 0; d < dim; ++d) sum[d] += grad[d] / divisor * weight;
            }
        }
    }
}

INLINE float mean_square(const float *g, const int64_t dim) {
    float total = 0;
    int64_t d = 0;
#if defined(__GNUC__)
    if (dim >= LANES) { /* lanes: a fixed order that vectorizes */
        typedef float lanes_t __attribute__((vector_size(4 * LANES)));
        lanes_t lanes = {0}, x;
        for (; d + LANES <= dim; d += LANES) {
            memcpy(&x, g + d, sizeof x);
            lanes += x * x;
        }
        total = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
                ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    }
#endif
    for (; d < dim; ++d) total += g[d] * g[d];
    return total / (float)dim;
}

INLINE void update_rows(const table_t *table, const seen_t *seen, const float *sums,
                        const rule_t *rule, const int64_t dim, int kind) {
    const float rate = (float)rule->rate, eps = (float)rule->eps;
    const float keep1 = (float)(1 - rule->beta1), keep2 = (float)(1 - rule->beta2);
    for (int64_t i = 0; i < seen->count; ++i) {
        int64_t row = seen->rows[i];
        float *restrict w = table->weight + row * dim;
        const float *restrict g = sums + i * dim;
        if (i + AHEAD < seen->count) {
            int64_t next = seen->rows[i + AHEAD];
            for (int64_t d = 0; d < dim; d += LINE) {
                PREFETCH_WRITE(table->weight + next * dim + d);
                if (kind == ADAGRAD || kind == ADAM) PREFETCH_WRITE(table->state0 + next * dim + d);
                if (kind == ADAM) PREFETCH_WRITE(table->state1 + next * dim + d);
            }
        }
        if (kind == SGD) {
            for (int64_t d = 0; d < dim; ++d) w[d] -= rate * g[d];
        } else if (kind == ROWWISE_ADAGRAD) {
            float sum = table->state0[row] += mean_square(g, dim);
            float step = rate / (sqrtf(sum) + eps);
            for (int64_t d = 0; d < dim; ++d) w[d] -= step * g[d];
        } else if (kind == ADAGRAD) {
            float *restrict s = table->state0 + row * dim;
            for (int64_t d = 0; d < dim; ++d) {
                s[d] += g[d] * g[d];
                w[d] -= rate * (g[d] / (sqrtf(s[d]) + eps));
            }
        } else {
            float *restrict m = table->state0 + row * dim, *restrict v = table->state1 + row * dim;
            for (int64_t d = 0; d < dim; ++d) {
                m[d] += keep1 * (g[d] - m[d]);
                v[d] += keep2 * (g[d] * g[d] - v[d]);
                w[d] -= rate * (m[d] / (sqrtf(v[d]) + eps));
            }
        }
    }
}

INLINE void update_table(const table_t *table, const segment_t *segments, const rule_t *rule,
                         int32_t *workspace, const int64_t dim, int kind) {
    seen_t seen;
    make_seen(&seen, table, workspace);
    float *sums = (float *)(seen.rows + table->count);
    for (int64_t s = 0; s < table->segments; ++s)
        sum_segment(table, segments + table->first + s, &seen, sums, dim, kind);
    update_rows(table, &seen, sums, rule, dim, kind);
}

INLINE void update_any_dim(const table_t *table, const segment_t *segments, const rule_t *rule,
                           int32_t *workspace, int kind) {
    switch (table->dim) {
    case 1:
        update_table(table, segments, rule, workspace, 1, kind);
        break;
    case 8:
        update_table(table, segments, rule, workspace, 8, kind);
        break;
    case 16:
        update_table(table, segments, rule, workspace, 16, kind);
        break;
    case 32:
        update_table(table, segments, rule, workspace, 32, kind);
        break;
    default:
        update_table(table, segments, rule, workspace, table->dim, kind);
    }
}

/* Sums duplicate rows and updates every table once. The workspace holds, for the largest table,
 * (5 + dim) * count + 16 words. */
CLONES void recsys_update(const table_t *tables, int64_t count, const segment_t *segments,
                          const rule_t *rule, int32_t *workspace) {
    for (int64_t t = 0; t < count; ++t) {
        if (!tables[t].count) continue;
        switch (rule->kind) {
        case SGD:
            update_any_dim(tables + t, segments, rule, workspace, SGD);
            break;
        case ADAGRAD:
            update_any_dim(tables + t, segments, rule, workspace, ADAGRAD);
            break;
        case ROWWISE_ADAGRAD:
            update_any_dim(tables + t, segments, rule, workspace, ROWWISE_ADAGRAD);
            break;
        default:
            update_any_dim(tables + t, segments, rule, workspace, ADAM);
        }
    }
}
