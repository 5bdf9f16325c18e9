/* Exact counting and looking up of ids: one open-addressing map from byte strings or int64 to the
 * order in which they came. Called through ctypes, which releases the GIL; a map must not be used
 * by two threads at once while it grows.
 *
 * An entry is 24 bytes. Strings of up to 8 bytes live in the entry itself, longer ones in `arena`.
 * Slots are 64 bits: the upper half of the hash and the entry number + 1. Work goes in blocks, so
 * that the memory of all probes of a block is fetched at the same time. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64
#define NO_ENTRY (-1)

typedef struct {
    uint64_t word;   /* int64 key, the bytes of a short string, or the hash of a long one */
    uint64_t place;  /* arena offset << 24 | length */
    int64_t count;
} entry;

typedef struct {
    uint64_t *slots;
    uint64_t mask;
    entry *entries;
    int64_t size, capacity;
    uint8_t *arena;
    uint64_t arena_size, arena_capacity;
    int64_t null_entry;
    int is_text;
} vocab;

typedef struct {
    const uint8_t *validity; /* may be NULL */
    const int32_t *offsets;  /* text only */
    const uint8_t *bytes;    /* text only */
    const int64_t *ints;     /* integers only */
    int64_t offset, length;
} column;

static inline uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    return x ^ (x >> 32);
}

static inline uint64_t load(const uint8_t *p, uint32_t n) {
    uint64_t w = 0;
    memcpy(&w, p, n);
    return w;
}

static inline uint64_t short_word(const uint8_t *p, uint32_t n) {
    if (n == 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        return w;
    }
    return load(p, n);
}

static uint64_t hash_long(const uint8_t *p, uint32_t n) {
    uint64_t h = n * 0x9e3779b97f4a7c15ULL;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = mix(h ^ w) + 0x9e3779b97f4a7c15ULL;
        p += 8;
        n -= 8;
    }
    return mix(h ^ load(p, n));
}

void recsys_vocab_free(vocab *v) {
    if (!v) return;
    free(v->slots);
    free(v->entries);
    free(v->arena);
    free(v);
}

vocab *recsys_vocab_new(int is_text) {
    vocab *v = calloc(1, sizeof(vocab));
    if (!v) return NULL;
    v->is_text = is_text;
    v->null_entry = NO_ENTRY;
    v->mask = 1023;
    v->capacity = 512;
    v->slots = calloc(v->mask + 1, sizeof(uint64_t));
    v->entries = malloc(v->capacity * sizeof(entry));
    v->arena_capacity = 1024;
    v->arena = malloc(v->arena_capacity);
    if (!v->slots || !v->entries || !v->arena) {
        recsys_vocab_free(v);
        return NULL;
    }
    return v;
}

int64_t recsys_vocab_size(const vocab *v) { return v->size; }
int64_t recsys_vocab_null(const vocab *v) { return v->null_entry; }
int64_t recsys_vocab_bytes(const vocab *v) { return (int64_t)v->arena_size; }

static inline uint64_t entry_hash(const vocab *v, const entry *e) {
    uint32_t n = (uint32_t)(e->place & 0xffffff);
    return v->is_text && n > 8 ? e->word : mix(e->word + n * 0x9e3779b97f4a7c15ULL);
}

static int grow_slots(vocab *v) {
    uint64_t mask = v->mask * 2 + 1;
    uint64_t *slots = calloc(mask + 1, sizeof(uint64_t));
    if (!slots) return -1;
    for (int64_t i = 0; i < v->size; i++) {
        if (i == v->null_entry) continue;
        uint64_t h = entry_hash(v, &v->entries[i]), at = h & mask;
        while (slots[at]) at = (at + 1) & mask;
        slots[at] = (h & 0xffffffff00000000ULL) | (uint64_t)(i + 1);
    }
    free(v->slots);
    v->slots = slots;
    v->mask = mask;
    return 0;
}

static int64_t append(vocab *v, uint64_t word, const uint8_t *p, uint32_t n, int64_t count) {
    if (v->size == v->capacity) {
        if (v->size >= 0x7ffffff0) return -1;
        entry *grown = realloc(v->entries, (v->capacity + v->capacity / 2) * sizeof(entry));
        if (!grown) return -1;
        v->capacity += v->capacity / 2;
        v->entries = grown;
    }
    uint64_t place = n;
    if (v->is_text && n > 8) {
        while (v->arena_size + n > v->arena_capacity) {
            uint64_t wanted = v->arena_capacity + v->arena_capacity / 2;
            uint8_t *grown = realloc(v->arena, wanted);
            if (!grown) return -1;
            v->arena = grown;
            v->arena_capacity = wanted;
        }
        memcpy(v->arena + v->arena_size, p, n);
        place |= v->arena_size << 24;
        v->arena_size += n;
    }
    v->entries[v->size] = (entry){word, place, count};
    return v->size++;
}

static inline int is_null(const column *c, int64_t i) {
    int64_t at = i + c->offset;
    return c->validity && !((c->validity[at >> 3] >> (at & 7)) & 1);
}

/* Words, hashes and lengths of a block of rows. */
static void read_block(const vocab *v, const column *c, int64_t start, int n, uint64_t *word,
                       uint64_t *hash, uint32_t *length, const uint8_t **bytes) {
    for (int j = 0; j < n; j++) {
        int64_t at = start + j + c->offset;
        if (v->is_text) {
            const uint8_t *p = c->bytes + c->offsets[at];
            uint32_t len = (uint32_t)(c->offsets[at + 1] - c->offsets[at]);
            bytes[j] = p;
            length[j] = len;
            if (len <= 8) {
                word[j] = short_word(p, len);
                hash[j] = mix(word[j] + len * 0x9e3779b97f4a7c15ULL);
            } else {
                word[j] = hash[j] = hash_long(p, len);
            }
        } else {
            bytes[j] = NULL;
            length[j] = 0;
            word[j] = (uint64_t)c->ints[at];
            hash[j] = mix(word[j]);
        }
        __builtin_prefetch(&v->slots[hash[j] & v->mask]);
    }
    for (int j = 0; j < n; j++) {
        uint64_t slot = v->slots[hash[j] & v->mask];
        if (slot) __builtin_prefetch(&v->entries[(slot & 0xffffffff) - 1]);
    }
}

static inline int64_t find(const vocab *v, uint64_t word, uint64_t hash, uint32_t length,
                           const uint8_t *bytes, uint64_t *free_slot) {
    uint64_t at = hash & v->mask;
    for (;; at = (at + 1) & v->mask) {
        uint64_t slot = v->slots[at];
        if (!slot) {
            *free_slot = at;
            return NO_ENTRY;
        }
        if ((slot ^ hash) >> 32) continue;
        int64_t i = (int64_t)(slot & 0xffffffff) - 1;
        const entry *e = &v->entries[i];
        if (e->word != word || (uint32_t)(e->place & 0xffffff) != length) continue;
        if (v->is_text && length > 8 && memcmp(v->arena + (e->place >> 24), bytes, length))
            continue;
        return i;
    }
}

/* Adds `counts[i]` (or 1) to every row's id; new ids get the next entries. 0, or -1: no memory,
 * -2: an id longer than 16 MB. */
int recsys_vocab_add(vocab *v, const column *c, const int64_t *counts) {
    uint64_t word[BLOCK], hash[BLOCK];
    uint32_t length[BLOCK];
    const uint8_t *bytes[BLOCK];
    for (int64_t start = 0; start < c->length; start += BLOCK) {
        int n = c->length - start < BLOCK ? (int)(c->length - start) : BLOCK;
        while ((uint64_t)(v->size + n) * 2 > v->mask)
            if (grow_slots(v)) return -1;
        read_block(v, c, start, n, word, hash, length, bytes);
        for (int j = 0; j < n; j++) {
            int64_t more = counts ? counts[start + j] : 1;
            if (is_null(c, start + j)) {
                if (v->null_entry == NO_ENTRY) {
                    v->null_entry = append(v, 0, NULL, 0, 0);
                    if (v->null_entry < 0) return -1;
                }
                v->entries[v->null_entry].count += more;
                continue;
            }
            uint64_t slot = 0;
            if (length[j] > 0xffffff) return -2;
            int64_t i = find(v, word[j], hash[j], length[j], bytes[j], &slot);
            if (i == NO_ENTRY) {
                i = append(v, word[j], bytes[j], length[j], 0);
                if (i < 0) return -1;
                v->slots[slot] = (hash[j] & 0xffffffff00000000ULL) | (uint64_t)(i + 1);
            }
            v->entries[i].count += more;
        }
    }
    return 0;
}

/* Entry number + first of every row's id, or `unknown`. */
void recsys_vocab_lookup(const vocab *v, const column *c, int32_t first, int32_t unknown,
                         int32_t *codes) {
    uint64_t word[BLOCK], hash[BLOCK];
    uint32_t length[BLOCK];
    const uint8_t *bytes[BLOCK];
    for (int64_t start = 0; start < c->length; start += BLOCK) {
        int n = c->length - start < BLOCK ? (int)(c->length - start) : BLOCK;
        read_block(v, c, start, n, word, hash, length, bytes);
        for (int j = 0; j < n; j++) {
            uint64_t slot;
            int64_t i = is_null(c, start + j)
                            ? v->null_entry
                            : find(v, word[j], hash[j], length[j], bytes[j], &slot);
            codes[start + j] = i == NO_ENTRY ? unknown : (int32_t)i + first;
        }
    }
}

/* ------------------------------------------------------------------------------------- sorting */

typedef struct {
    int64_t count;
    uint64_t rank; /* orders like the first 8 bytes, or like the integer */
    const uint8_t *bytes;
    uint32_t length, index;
} sortable;

static int by_count_then_id(const void *left, const void *right) {
    const sortable *a = left, *b = right;
    if (a->count != b->count) return a->count > b->count ? -1 : 1;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    if (a->length > 8 && b->length > 8) {
        uint32_t shorter = a->length < b->length ? a->length : b->length;
        int order = memcmp(a->bytes, b->bytes, shorter);
        if (order) return order;
    }
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    return 0;
}

/* Entry numbers with at least `min_count`, by falling count, ties by id; null sorts first among
 * its ties. Returns how many, or -1: no memory. */
int64_t recsys_vocab_order(const vocab *v, int64_t min_count, int32_t *order) {
    sortable *list = malloc((v->size ? v->size : 1) * sizeof(sortable));
    if (!list) return -1;
    int64_t kept = 0, null_count = 0, null_at = 0, out = 0;
    for (int64_t i = 0; i < v->size; i++) {
        const entry *e = &v->entries[i];
        if (e->count < min_count) continue;
        if (i == v->null_entry) {
            null_count = e->count;
            continue;
        }
        sortable *s = &list[kept++];
        s->count = e->count;
        s->index = (uint32_t)i;
        s->length = (uint32_t)(e->place & 0xffffff);
        s->bytes = NULL;
        if (!v->is_text) {
            s->rank = e->word ^ 0x8000000000000000ULL;
        } else if (s->length > 8) {
            s->bytes = v->arena + (e->place >> 24);
            uint64_t head;
            memcpy(&head, s->bytes, 8);
            s->rank = __builtin_bswap64(head);
        } else {
            s->rank = __builtin_bswap64(e->word);
        }
    }
    qsort(list, kept, sizeof(sortable), by_count_then_id);
    while (null_at < kept && list[null_at].count > null_count) null_at++;
    for (int64_t i = 0; i < kept; i++) {
        if (null_count && i == null_at) order[out++] = (int32_t)v->null_entry;
        order[out++] = (int32_t)list[i].index;
    }
    if (null_count && null_at == kept) order[out++] = (int32_t)v->null_entry;
    free(list);
    return out;
}

/* Bytes that the texts of these entries take. */
int64_t recsys_vocab_text_bytes(const vocab *v, const int32_t *order, int64_t n) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) total += (int64_t)(v->entries[order[i]].place & 0xffffff);
    return total;
}

/* Writes ids and counts in the order given: `ints`, or `offsets` (n + 1) and `bytes`. */
void recsys_vocab_export(const vocab *v, const int32_t *order, int64_t n, int64_t *counts,
                         int64_t *ints, int64_t *offsets, uint8_t *bytes) {
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        const entry *e = &v->entries[order[i]];
        counts[i] = e->count;
        if (!v->is_text) {
            ints[i] = (int64_t)e->word;
            continue;
        }
        uint32_t length = (uint32_t)(e->place & 0xffffff);
        offsets[i] = at;
        if (length > 8) memcpy(bytes + at, v->arena + (e->place >> 24), length);
        else memcpy(bytes + at, &e->word, length);
        at += length;
    }
    if (v->is_text) offsets[n] = at;
}
