/* XXH3, 128 bits, seed 0, written from the specification of xxHash (its doc/xxhash_spec.md).
 * Included by testee.c. */

typedef unsigned __int128 u128;
typedef struct { u64 low, high; } Hash;

#define P32_1 0x9E3779B1ULL
#define P32_2 0x85EBCA77ULL
#define P32_3 0xC2B2AE3DULL
#define P64_1 0x9E3779B185EBCA87ULL
#define P64_2 0xC2B2AE3D27D4EB4FULL
#define P64_3 0x165667B19E3779F9ULL
#define P64_4 0x85EBCA77C2B2AE63ULL
#define P64_5 0x27D4EB2F165667C5ULL
#define MX_1 0x165667919E3779F9ULL
#define MX_2 0x9FB21C651E98DF25ULL

static const u8 SECRET[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};

static u64 u32_at(const u8 *at) { return at[0] | at[1] << 8 | at[2] << 16 | (u64)at[3] << 24; }
static u64 secret(size_t at) { return u64_at(SECRET + at); }
static u64 two_of_secret(size_t at) { return secret(at) ^ secret(at + 8); }
static u64 fold(u64 a, u64 b) { u128 both = (u128)a * b; return (u64)both ^ (u64)(both >> 64); }
static u64 stir(u64 x) { x ^= x >> 37; x *= MX_1; return x ^ x >> 32; }           /* avalanche */
static u64 stir_64(u64 x) { x ^= x >> 33; x *= P64_2; x ^= x >> 29; x *= P64_3; return x ^ x >> 32; }

static Hash hash_to_3(const u8 *in, size_t size) {
    uint32_t all = (uint32_t)(in[size - 1] | size << 8 | in[0] << 16) | (uint32_t)in[size >> 1] << 24;
    uint32_t turned = __builtin_bswap32(all);
    turned = turned << 13 | turned >> 19;
    return (Hash){stir_64(u32_at(SECRET) ^ u32_at(SECRET + 4) ^ all),
                  stir_64(u32_at(SECRET + 8) ^ u32_at(SECRET + 12) ^ turned)};
}
static Hash hash_to_8(const u8 *in, size_t size) {
    u64 value = two_of_secret(16) ^ (u32_at(in) | u32_at(in + size - 4) << 32);
    u128 both = (u128)value * (P64_1 + (size << 2));
    u64 low = (u64)both, high = (u64)(both >> 64);
    high += low << 1;
    low ^= high >> 3;
    low ^= low >> 35;
    low *= MX_2;
    low ^= low >> 28;
    return (Hash){low, stir(high)};
}
static Hash hash_to_16(const u8 *in, size_t size) {
    u64 first = u64_at(in), last = u64_at(in + size - 8);
    u64 one = two_of_secret(32) ^ first ^ last, two = two_of_secret(48) ^ last;
    u128 both = (u128)one * P64_1;
    u64 low = (u64)both + ((u64)(size - 1) << 54);
    u64 high = (u64)(both >> 64) + two + (two & 0xffffffff) * (P32_2 - 1);
    low ^= __builtin_bswap64(high);
    both = (u128)low * P64_2;
    return (Hash){stir((u64)both), stir((u64)(both >> 64) + high * P64_2)};
}
static u64 mix(const u8 *in, size_t at) { return fold(u64_at(in) ^ secret(at), u64_at(in + 8) ^ secret(at + 8)); }
static void mix_two(u64 acc[2], const u8 *a, const u8 *b, size_t at) {
    acc[0] = (acc[0] + mix(a, at)) ^ (u64_at(b) + u64_at(b + 8));
    acc[1] = (acc[1] + mix(b, at + 16)) ^ (u64_at(a) + u64_at(a + 8));
}
static Hash hash_to_240(const u8 *in, size_t size) {
    u64 acc[2] = {size * P64_1, 0};
    if (size <= 128)
        for (size_t i = ((size - 1) >> 5) + 1; i-- > 0;) mix_two(acc, in + i * 16, in + size - i * 16 - 16, i * 32);
    else {
        for (size_t i = 0; i < 4; i++) mix_two(acc, in + i * 32, in + i * 32 + 16, i * 32);
        acc[0] = stir(acc[0]);
        acc[1] = stir(acc[1]);
        for (size_t i = 4; i < size >> 5; i++) mix_two(acc, in + i * 32, in + i * 32 + 16, (i - 4) * 32 + 3);
        mix_two(acc, in + size - 16, in + size - 32, 103);
    }
    u64 high = acc[0] * P64_1 + acc[1] * P64_4 + size * P64_2;
    return (Hash){stir(acc[0] + acc[1]), 0 - stir(high)};
}
static void accumulate(u64 acc[8], const u8 *stripe, size_t at) {
    for (size_t i = 0; i < 8; i++) {
        u64 word = u64_at(stripe + 8 * i), value = word ^ secret(at + 8 * i);
        acc[i ^ 1] += word;
        acc[i] += (value & 0xffffffff) * (value >> 32);
    }
}
static void scramble(u64 acc[8]) {
    for (size_t i = 0; i < 8; i++) acc[i] = (acc[i] ^ acc[i] >> 47 ^ secret(128 + 8 * i)) * P32_1;
}
static u64 merge(u64 acc[8], u64 result, size_t at) {
    for (size_t i = 0; i < 8; i += 2)
        result += fold(acc[i] ^ secret(at + 8 * i), acc[i + 1] ^ secret(at + 8 * i + 8));
    return stir(result);
}
static Hash hash_long(const u8 *in, size_t size) {
    u64 acc[8] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
    size_t at = 0;
    for (; size - at > 1024; at += 1024) {
        for (size_t n = 0; n < 16; n++) accumulate(acc, in + at + 64 * n, 8 * n);
        scramble(acc);
    }
    for (size_t n = 0; n < (size - at - 1) / 64; n++) accumulate(acc, in + at + 64 * n, 8 * n);
    accumulate(acc, in + size - 64, 192 - 71);
    return (Hash){merge(acc, size * P64_1, 11), merge(acc, ~(size * P64_2), 192 - 75)};
}
static Hash xxh3_128(const u8 *in, size_t size) {
    if (!size) return (Hash){stir_64(two_of_secret(64)), stir_64(two_of_secret(80))};
    if (size <= 3) return hash_to_3(in, size);
    if (size <= 8) return hash_to_8(in, size);
    if (size <= 16) return hash_to_16(in, size);
    if (size <= 240) return hash_to_240(in, size);
    return hash_long(in, size);
}
