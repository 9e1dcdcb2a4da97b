/* Products with GPTQ matrices: a weight is a code of 4 bits less a zero, times a scale that it shares
 * with its group in its column.
 *
 * The difference is exact in bfloat16, and its products with x are in float: only the sums are
 * rounded, and each group's sum is scaled once. Weights that are scaled first and kept in bfloat16
 * are rounded once more, and are four times as much to read.
 *
 * Columns go in tiles of 16. With AMX a tile's codes are spread out to bfloat16 once and serve all
 * rows from the cache; with AVX512 alone they are spread out in registers, for 8 rows at a time.
 */

#include <stdint.h>
#include <string.h>

#define TILE 16 /* columns of a tile, and the most rows of one */
#define ROWS 8  /* that AVX512 has registers for */
#define CHUNK 4 /* tiles that a thread takes at a time */

enum { NONE, AVX512, AMX };

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define HAS_AVX512
#if defined(__AMX_BF16__) && defined(__linux__)
#define HAS_AMX
#endif
#endif

/* What fourbit.py makes of a GPTQ matrix, by tiles of columns; the last one is filled up. */
typedef struct {
    const uint16_t *codes;  /* (tiles, in / 8, TILE, 2): neighbours in a column lie side by side, as
                               they are multiplied; a word has 4 codes, 2 places from each other */
    const uint16_t *scales; /* bfloat16 (tiles, in / group, TILE) */
    const uint16_t *lifts;  /* (tiles, in / group, TILE, 2): minus the zero; null if all zeros are 8 */
    const float *bias;      /* (tiles, TILE) or null */
    int64_t in, out, group; /* group is a multiple of 32 */
} Matrix;

#ifdef HAS_AVX512
#include <immintrin.h>

typedef struct {
    const uint16_t *codes, *scales, *lifts;
    __m512 bias;
    __mmask16 columns; /* those that there are */
} Tile;

static Tile tile_of(const Matrix *m, long index) {
    long groups = m->in / m->group, left = m->out - index * TILE;
    return (Tile){
        .codes = m->codes + index * m->in / 8 * TILE * 2,
        .scales = m->scales + index * groups * TILE,
        .lifts = m->lifts ? m->lifts + index * groups * TILE * 2 : 0,
        .bias = m->bias ? _mm512_loadu_ps(m->bias + index * TILE) : _mm512_setzero_ps(),
        .columns = left < TILE ? (1 << left) - 1 : 0xFFFF,
    };
}

/* What 5 bits mean in bfloat16. Without lifts they are a code and a stray bit, which is why each
 * number is there twice; with lifts a code less its zero, from -16 to 15. */
static __m512i meanings(const uint16_t *lifts) {
    uint16_t table[32];
    for (int i = 0; i < 32; i++) {
        float number = !lifts ? i % 16 - 8 : i < 16 ? i : i - 32;
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        table[i] = bits >> 16;
    }
    return _mm512_loadu_si512(table);
}

static inline __m512i lift_of(const uint16_t *lifts, long group) {
    return lifts ? _mm512_loadu_si512(lifts + group * TILE * 2) : _mm512_setzero_si512();
}

/* The codes number `place` of some words as bfloat16. */
static inline __m512i spread(__m512i words, int place, __m512i table, const uint16_t *lifts, __m512i lift) {
    __m512i index = _mm512_srli_epi16(words, 4 * place);
    if (lifts) index = _mm512_add_epi16(_mm512_and_si512(index, _mm512_set1_epi16(15)), lift);
    return _mm512_permutexvar_epi16(index, table);
}

static inline __m512 scale_of(const Tile *t, long group) {
    __m256i half = _mm256_loadu_si256((const __m256i *)(t->scales + group * TILE));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline void store(const Tile *t, uint16_t *out, __m512 sums) {
    _mm256_mask_storeu_epi16(out, t->columns, (__m256i)_mm512_cvtneps_pbh(sums));
}

/* Some rows of x (rows, in) times a tile. Inlined for each number of rows, so that sums stay in
 * registers. */
__attribute__((always_inline)) static inline void
multiply_rows(const Matrix *m, const Tile *t, const uint16_t *x, uint16_t *out, const int rows) {
    __m512 sums[ROWS], products[ROWS];
    __m512i table = meanings(t->lifts);
    for (int r = 0; r < rows; r++) sums[r] = t->bias;
    for (long group = 0, k = 0; k < m->in; group++) {
        __m512i lift = lift_of(t->lifts, group);
        for (int r = 0; r < rows; r++) products[r] = _mm512_setzero_ps();
        for (long end = k + m->group; k < end; k += 8) {
            __m512i words = _mm512_loadu_si512(t->codes + k / 8 * TILE * 2);
            for (int place = 0; place < 4; place++) {
                __m512bh weights = (__m512bh)spread(words, place, table, t->lifts, lift);
                for (int r = 0; r < rows; r++) {
                    int pair;
                    memcpy(&pair, x + r * m->in + k + 2 * place, sizeof pair);
                    __m512bh pairs = (__m512bh)_mm512_set1_epi32(pair);
                    products[r] = _mm512_dpbf16_ps(products[r], weights, pairs);
                }
            }
        }
        __m512 scale = scale_of(t, group);
        for (int r = 0; r < rows; r++) sums[r] = _mm512_fmadd_ps(products[r], scale, sums[r]);
    }
    for (int r = 0; r < rows; r++) store(t, out + r * m->out, sums[r]);
}

static void multiply_tile(const Matrix *m, const Tile *t, const uint16_t *x, uint16_t *out, long rows) {
    for (; rows >= ROWS; rows -= ROWS, x += ROWS * m->in, out += ROWS * m->out)
        multiply_rows(m, t, x, out, ROWS);
    if (rows & 4) multiply_rows(m, t, x, out, 4), x += 4 * m->in, out += 4 * m->out;
    if (rows & 2) multiply_rows(m, t, x, out, 2), x += 2 * m->in, out += 2 * m->out;
    if (rows & 1) multiply_rows(m, t, x, out, 1);
}

static void multiply_avx512(const Matrix *m, const uint16_t *x, uint16_t *out, long rows) {
#pragma omp parallel for schedule(dynamic, CHUNK)
    for (long index = 0; index < (m->out + TILE - 1) / TILE; index++) {
        Tile tile = tile_of(m, index);
        multiply_tile(m, &tile, x, out + index * TILE, rows);
    }
}
#endif

#ifdef HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18              /* XFEATURE_XTILEDATA */

/* Sums, rows of x, and weights; the instructions want literal numbers. */
#define SUMS 0
#define LEFT 1
#define RIGHT 2

/* As the processor reads it. */
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} __attribute__((aligned(64))) Shapes;

static void shape_tiles(int rows) {
    Shapes shapes = {.palette = 1, .bytes = {64, 64, 64}, .rows = {rows, rows, TILE}};
    /* GCC before 12.4 believes that the instruction reads 8 bytes only (GCC bug 114098). */
    __asm__ volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
}

/* All weights of a tile: panel (in / 2, TILE, 2). */
static void spread_all(const Matrix *m, const Tile *t, uint16_t *panel) {
    __m512i table = meanings(t->lifts);
    for (long group = 0, k = 0; k < m->in; group++) {
        __m512i lift = lift_of(t->lifts, group);
        for (long end = k + m->group; k < end; k += 8) {
            __m512i words = _mm512_loadu_si512(t->codes + k / 8 * TILE * 2);
            for (int place = 0; place < 4; place++) {
                __m512i weights = spread(words, place, table, t->lifts, lift);
                _mm512_store_si512(panel + (k + 2 * place) * TILE, weights);
            }
        }
    }
}

/* Sixteen sums that shall stay in registers, which GCC does not do for an array. */
#define EACH_ROW(DO) \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define BEGIN_ROW(r) __m512 sums##r = t->bias;
#define ADD_ROW(r) sums##r = _mm512_fmadd_ps(_mm512_load_ps(products[turn][r]), scale, sums##r);
#define STORE_ROW(r) if (r < rows) store(t, out + r * m->out, sums##r);

/* At most 16 rows of x (rows, in) times a tile. */
static void multiply_block(const Matrix *m, const Tile *t, const uint16_t *x, uint16_t *out, long rows,
                           const uint16_t *panel) {
    /* Two, so that a group need not wait for the one before; rows that there are not stay 0. */
    float products[2][TILE][TILE] __attribute__((aligned(64))) = {0};
    long in = m->in, size = m->group;
    EACH_ROW(BEGIN_ROW)
    for (long group = 0, k = 0; k < in; group++) {
        int turn = group % 2;
        _tile_zero(SUMS);
        for (long end = k + size; k < end; k += 32) {
            _tile_loadd(LEFT, x + k, in * 2);
            _tile_loadd(RIGHT, panel + k * TILE, TILE * 4);
            _tile_dpbf16ps(SUMS, LEFT, RIGHT);
        }
        _tile_stored(SUMS, products[turn], TILE * 4);
        __m512 scale = scale_of(t, group);
        EACH_ROW(ADD_ROW)
    }
    EACH_ROW(STORE_ROW)
}

static void multiply_amx(const Matrix *m, const uint16_t *x, uint16_t *out, long rows) {
    /* Blocks of one size, so that all tiles have one shape; the last does some rows once more. */
    long blocks = (rows + TILE - 1) / TILE, size = (rows + blocks - 1) / blocks;
#pragma omp parallel
    {
        uint16_t panel[m->in * TILE] __attribute__((aligned(64)));
        shape_tiles(size);
#pragma omp for schedule(dynamic, CHUNK)
        for (long index = 0; index < (m->out + TILE - 1) / TILE; index++) {
            Tile tile = tile_of(m, index);
            spread_all(m, &tile, panel);
            __asm__ volatile("" : : "r"(panel) : "memory"); /* nor that loads of tiles read memory */
            for (long block = 0; block < blocks; block++) {
                long first = block + 1 < blocks ? block * size : rows - size;
                uint16_t *to = out + first * m->out + index * TILE;
                multiply_block(m, &tile, x + first * m->in, to, size, panel);
            }
        }
        _tile_release();
    }
}
#endif

/* The best that this processor has and the system lets a process use. */
int four_bit_means(void) {
#ifdef HAS_AMX
    if (!syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA)) return AMX;
#endif
#ifdef HAS_AVX512
    return AVX512;
#endif
    return NONE;
}

/* out (rows, out) = x (rows, in) @ matrix + bias, both bfloat16; `means` as above, or less. */
void four_bit(const Matrix *m, const uint16_t *x, uint16_t *out, long rows, int means) {
#ifdef HAS_AMX
    if (means == AMX) multiply_amx(m, x, out, rows);
#endif
#ifdef HAS_AVX512
    if (means == AVX512) multiply_avx512(m, x, out, rows);
#endif
}
