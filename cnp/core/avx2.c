/* What processors with AVX2 do at once with a record: looking into the table of its shape, filling its template, and making
   it of an instruction of bytecode. What others do instead, and this one with CNP_PORTABLE, stands where it is used. */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(CNP_PORTABLE)
#include <cpuid.h>
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE AVX2 INLINE

/* Whether the processor has it, and the system saves its registers. */
static bool has_avx2(void)
{
    enum { OSXSAVE = 1 << 27, WIDE_STATE = 6, HAS_AVX2 = 1 << 5 };
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE))
        return false;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & WIDE_STATE) == WIDE_STATE && __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & HAS_AVX2;
}

/* What is the same for all records of a program: the lanes, and the last slot of the frame as a bound. */
struct lanes { __m256i words, limit; };

AVX2_INLINE struct lanes lanes_of(uint32_t limit)
{
    return (struct lanes){_mm256_setr_epi32(2, 3, 4, 7, 2, 3, 4, 7), _mm256_set1_epi32((int32_t)(limit ^ TURN))};
}

/* Eight bounds are compared at a time:  lower half  bound 0   upper half  bound 1
                                                     bound 2               the last word that is taken */
AVX2_INLINE unsigned look_at_once(const struct shape *shape, __m256i record, const struct lanes *lanes)
{
    const __m256i *last = (const __m256i *)(const void *)shape->last, *slots = (const __m256i *)(const void *)shape->slots;
    const __m256i words = _mm256_permutevar8x32_epi32(record, lanes->words);
    const __m256i turned = _mm256_xor_si256(words, _mm256_set1_epi32(INT32_MIN));
    const __m256i highest = _mm256_or_si256(_mm256_and_si256(lanes->limit, _mm256_loadu_si256(slots)), _mm256_loadu_si256(last + 1));
    const __m256i low = _mm256_cmpgt_epi32(turned, _mm256_loadu_si256(last)), high = _mm256_cmpgt_epi32(turned, highest);
    const __m128i each = _mm256_castsi256_si128(words), odd = _mm_loadu_si128((const __m128i *)(const void *)shape->low);
    const __m128i same = _mm_cmpeq_epi32(each, _mm_shuffle_epi32(each, _MM_SHUFFLE(3, 0, 2, 1)));
    const unsigned equal = (unsigned)_mm_movemask_ps(_mm_castsi128_ps(same)) & shape->pairs;
    const unsigned place = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(low)) |
                           (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(high)) << 8;
    return LIKELY(place < PLACES && _mm_testz_si128(each, odd)) ? shape->table[equal][place] : SCAN;
}

/* Keep a record with this head, which was read before its words were: what is looked at is what is kept. */
AVX2_INLINE void keep_at_once(struct cnp_record *to, __m256i record, uint64_t head)
{
    const __m128i low = _mm_insert_epi64(_mm256_castsi256_si128(record), (int64_t)head, 0);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_blend_epi32(record, _mm256_castsi128_si256(low), 0x0F));
}

/* The template of a quick variant with its numbers: each byte that belongs to one is 0 in it, and comes from the words 0 to 3
   or 2 to 5 of the record. */
AVX2_INLINE __m256i filled_at_once(const struct variant *v, const struct cnp_record *record)
{
    const __m256i *spread = (const __m256i *)(const void *)v->spread;
    const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)&record->word[0]));
    const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)&record->word[2]));
    const __m256i code = _mm256_loadu_si256((const __m256i *)(const void *)v->code);
    const __m256i filled = _mm256_or_si256(_mm256_shuffle_epi8(low, _mm256_loadu_si256(spread)),
                                           _mm256_shuffle_epi8(high, _mm256_loadu_si256(spread + 1)));
    return _mm256_or_si256(code, filled);
}

/* Copy what is quick and has no registers. */
AVX2_INLINE void fill_at_once(const struct variant *v, const struct cnp_record *record, uint8_t *to)
{
    _mm256_storeu_si256((__m256i *)(void *)to, filled_at_once(v, record));
}

AVX2_INLINE __m128i turned_at_once(const struct variant *v, unsigned k, const struct cnp_record *record)
{
    return _mm_loadu_si128((const __m128i *)(const void *)turned_by(v, k, record));
}

/* Copy what is quick. What registers turn over is in none of the bytes that belong to a number. */
AVX2_INLINE void turn_at_once(const struct variant *v, const struct cnp_record *record, uint8_t *to)
{
    _Static_assert(FAST == 3 && TURNED == sizeof(__m128i), "a pattern for each register");
    const __m128i turned = _mm_xor_si128(_mm_xor_si128(turned_at_once(v, 0, record), turned_at_once(v, 1, record)),
                                         turned_at_once(v, 2, record));
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_xor_si256(filled_at_once(v, record), _mm256_zextsi128_si256(turned)));
}

/* The record of a recipe that is made at once: to each of its words is added what bytes of the instruction say, shifted down. */
AVX2_INLINE void spread_at_once(const struct cnp_recipe *recipe, uint64_t word, struct cnp_record *to)
{
    const __m256i spread = _mm256_loadu_si256((const __m256i *)(const void *)recipe->spread);
    const __m256i down = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)recipe->down));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi64x((int64_t)(word & recipe->spread_bits)), spread);
    const __m256i record = _mm256_loadu_si256((const __m256i *)(const void *)&recipe->record);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_add_epi32(record, _mm256_srav_epi32(bytes, down)));
}

#else

static bool has_avx2(void) { return false; }

#endif
