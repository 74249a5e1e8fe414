/* An independent testee: PTCOMM, PHCBT01, digest lists and the names of virtual files, written from
 * libs/ptcomm/docs/format.md, libs/phcbt01/docs/format.md, libs/digests/docs/format.md and
 * apps/nutanix_backend/docs/format.md alone. C11, standard library only. Speaks PROTOCOL.md.
 *
 *     cc -std=c11 -O2 -Wall -Wextra -Werror -o testee testee.c
 *
 * Packets and sessions are decoded one byte at a time, so that pieces cannot matter there. A third
 * of this file is memory, JSON and the loop; the conversation, in both roles, is in session.h: its
 * tables are those of the page, and half of the rest is for events of several lines. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint64_t u64;
typedef struct { u8 *at; size_t size, room; } Bytes; /* that grow; a zero byte follows them */
typedef struct { const u8 *at; size_t size; } Part;  /* of bytes that stay where they are */

/* --- memory: all of a request's goes with it ------------------------------------------------------ */

typedef struct Chunk { struct Chunk *next; } Chunk;
static Chunk *chunks;

static void *take(size_t size) {
    Chunk *chunk = calloc(1, sizeof *chunk + size);
    if (!chunk) exit(3);
    chunk->next = chunks;
    chunks = chunk;
    return chunk + 1;
}
static void drop_all(void) {
    for (Chunk *next; chunks; chunks = next) { next = chunks->next; free(chunks); }
}
static void put(Bytes *to, const void *data, size_t size) {
    if (to->size + size + 1 > to->room) {
        to->room = 2 * (to->size + size + 1);
        u8 *larger = take(to->room);
        if (to->size) memcpy(larger, to->at, to->size);
        to->at = larger;
    }
    if (size) memcpy(to->at + to->size, data, size);
    to->size += size;
    to->at[to->size] = 0;
}
static void put_byte(Bytes *to, u8 byte) { put(to, &byte, 1); }
static void print(Bytes *to, const char *format, ...) {
    char text[256];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (size < 0 || (size_t)size >= sizeof text) exit(3);
    put(to, text, (size_t)size);
}

/* --- parts ---------------------------------------------------------------------------------------- */

static Part part(const char *text) { return (Part){(const u8 *)text, strlen(text)}; }
static Part all(Bytes bytes) { return (Part){bytes.at, bytes.size}; }
static int same(const char *a, const char *b) { return !strcmp(a, b); }
static int starts(Part p, Part with) {
    return p.size >= with.size && (!with.size || !memcmp(p.at, with.at, with.size));
}
static int equals(Part p, const char *text) { return p.size == strlen(text) && starts(p, part(text)); }
static int has(Part p, u8 byte) { return p.size && memchr(p.at, byte, p.size); }
static size_t span(Part p, const char *set) { /* how many of the first bytes are of the set */
    size_t n = 0;
    while (n < p.size && p.at[n] && strchr(set, p.at[n])) n++;
    return n;
}
static int prefixed(Part *p, const char *prefix) { /* takes it off, as the next four do */
    size_t n = strlen(prefix);
    if (!starts(*p, part(prefix))) return 0;
    *p = (Part){p->at + n, p->size - n};
    return 1;
}
static int suffixed(Part *p, const char *suffix) {
    size_t n = strlen(suffix);
    if (p->size < n || !equals((Part){p->at + p->size - n, n}, suffix)) return 0;
    p->size -= n;
    return 1;
}
static int until(Part *p, char mark, Part *before) {
    const u8 *end = p->size ? memchr(p->at, mark, p->size) : NULL;
    if (!end) return 0;
    *before = (Part){p->at, (size_t)(end - p->at)};
    *p = (Part){end + 1, p->size - before->size - 1};
    return 1;
}
static int next_word(Part *list, Part *word) { /* of a list with blanks between */
    if (!list->size) return 0;
    if (!until(list, ' ', word)) { *word = *list; list->size = 0; }
    return 1;
}
static int from_last(Part *p, char mark, Part *behind) {
    size_t at = p->size;
    while (at && p->at[at - 1] != mark) at--;
    if (!at) return 0;
    *behind = (Part){p->at + at, p->size - at};
    p->size = at - 1;
    return 1;
}

/* --- JSON as the runner writes it: no escapes, no fractions ---------------------------------------- */

typedef struct Node { char kind; Bytes key, value; long number; struct Node *first, *next; } Node;

static const char *cursor;
static char peek(void) { while (*cursor == ' ') cursor++; return *cursor; }
static void expect(char wanted) { if (peek() != wanted) exit(4); cursor++; }
static Bytes string(void) {
    Bytes found = {0};
    expect('"');
    size_t size = strcspn(cursor, "\"");
    put(&found, cursor, size);
    cursor += size;
    expect('"');
    return found;
}
static Node *json(void) {
    Node *node = take(sizeof *node), **tail = &node->first;
    node->kind = peek();
    if (node->kind == '"') node->value = string();
    else if (node->kind == '{' || node->kind == '[') {
        char end = node->kind == '{' ? '}' : ']';
        for (cursor++; peek() != end; tail = &(*tail)->next) {
            Bytes key = {0};
            if (end == '}') { key = string(); expect(':'); }
            *tail = json();
            (*tail)->key = key;
            if (peek() == ',') cursor++;
        }
        cursor++;
    } else if (strchr("tfn", node->kind)) cursor += strspn(cursor, "truefalsn");
    else { char *end; node->number = strtol(cursor, &end, 10); if (end == cursor) exit(4); cursor = end; }
    return node;
}
static Node *get(Node *node, const char *key) {
    for (Node *each = node ? node->first : NULL; each; each = each->next)
        if (each->key.at && same((char *)each->key.at, key)) return each;
    return NULL;
}
static const char *text_of(Node *node, const char *key) { /* "" if it is not there */
    Node *found = get(node, key);
    return found && found->value.at ? (char *)found->value.at : "";
}
static int digit(u8 c) { return c <= '9' ? c - '0' : c - 'a' + 10; }
static Bytes from_hex(Node *node) {
    Bytes found = {0};
    put(&found, "", 0);
    for (size_t i = 0; node && i + 1 < node->value.size; i += 2)
        put_byte(&found, (u8)(digit(node->value.at[i]) * 16 + digit(node->value.at[i + 1])));
    return found;
}
static Part bytes_of(Node *node) { /* a text */
    if (!node) return part("");
    return all(node->kind == '{' ? from_hex(get(node, "hex")) : node->value);
}

/* --- answers ---------------------------------------------------------------------------------------- */

static Bytes out; /* the value of the answer, while it is made */
static const char *failed;
static u64 failed_at;
static int has_position;

static int fail(const char *code, u64 at) { failed = code; failed_at = at; has_position = 1; return 0; }
static int refuse(void) { failed = "refused"; has_position = 0; return 0; }
static void put_hex(Part p) { for (size_t i = 0; i < p.size; i++) print(&out, "%02x", p.at[i]); }
static void put_quoted_hex(Part p) { print(&out, "\""); put_hex(p); print(&out, "\""); }
static void put_text(Part p) {
    int plain = 1;
    for (size_t i = 0; i < p.size; i++)
        if (p.at[i] < 0x20 || p.at[i] > 0x7e || p.at[i] == '"' || p.at[i] == '\\') plain = 0;
    print(&out, plain ? "\"" : "{\"hex\":\"");
    if (plain) put(&out, p.at, p.size);
    else put_hex(p);
    print(&out, plain ? "\"" : "\"}");
}
static void put_named(Part name, Part value) {
    if (!strchr("{[", out.at[out.size - 1])) print(&out, ",");
    put_text(name); print(&out, ":"); put_text(value);
}
static void put_part(const char *name, Part value) { put_named(part(name), value); }
static void add_text(Bytes *to, const char *before, Node *node, const char *after) { /* one line's */
    Part value = bytes_of(node);
    if (has(value, '\n')) refuse();
    print(to, "%s", before);
    put(to, value.at, value.size);
    print(to, "%s", after);
}

/* --- PTCOMM packets ---------------------------------------------------------------------------------- */

static const char STATUS[] = "CDFTIWQEASNRPOV";
typedef struct { u8 header[8]; size_t have; u64 length, start, position; Bytes payload; } Packets;

static int judge_header(Packets *p) {
    if (!p->header[0] || !strchr(STATUS, p->header[0])) return fail("bad-status", p->start);
    size_t digits = span((Part){p->header + 1, 6}, "0123456789");
    if (digits < 6) return fail("bad-length", p->start + 1 + digits);
    if (p->header[7] != '\n') return fail("bad-length", p->start + 7);
    p->length = strtoull((char *)p->header + 1, NULL, 10);
    if (p->length && strchr("FT", p->header[0])) return fail("bad-length", p->start + 1);
    return 1;
}
/* Takes one byte; 1: a packet is complete, 0: not yet or failed. */
static int packet_byte(Packets *p, u8 byte) {
    if (p->have == 0) { p->start = p->position; p->payload.size = 0; put(&p->payload, "", 0); }
    p->position++;
    if (p->have < 8) {
        p->header[p->have++] = byte;
        if (p->have == 8 && !judge_header(p)) return 0;
    } else put_byte(&p->payload, byte);
    if (p->have < 8 || p->payload.size < p->length) return 0;
    p->have = 0;
    return 1;
}
static void decode_packets(Bytes in) {
    Packets p = {0};
    print(&out, "[");
    for (size_t i = 0; i < in.size && !failed; i++) {
        if (!packet_byte(&p, in.at[i])) continue;
        print(&out, "%s[\"%c\",", out.size > 1 ? "," : "", p.header[0]);
        put_quoted_hex(all(p.payload));
        print(&out, "]");
    }
    if (!failed && p.have) fail("truncated", in.size);
    print(&out, "]");
}
static int add_packet(Bytes *to, char status, Part payload) {
    if (!strchr(STATUS, status) || payload.size > 999999 || (payload.size && strchr("FT", status))) return refuse();
    print(to, "%c%06u\n", status, (unsigned)payload.size);
    put(to, payload.at, payload.size);
    return 1;
}
static void encode_packets(Node *value) {
    Bytes wire = {0};
    for (Node *packet = value->first; packet && !failed; packet = packet->next) {
        if (packet->first->value.size != 1) refuse();
        else add_packet(&wire, (char)packet->first->value.at[0], all(from_hex(packet->first->next)));
    }
    put_quoted_hex(all(wire));
}

/* --- PHCBT01 ------------------------------------------------------------------------------------------ */

#define LARGEST 0x7fffffffffffffffULL
static const u8 MAGIC[8] = {0x50, 0x48, 0x43, 0x42, 0x54, 0x30, 0x31, 0};
typedef struct { u64 start, end, size; int any; } Sequence; /* the region before, and the disk */

static u64 u64_at(const u8 *at) { u64 n = 0; for (int i = 7; i >= 0; i--) n = n << 8 | at[i]; return n; }
static void put_u64(Bytes *to, u64 n) { for (int i = 0; i < 8; i++) put_byte(to, (u8)(n >> 8 * i)); }
static u64 unsigned_of(Node *node) { return strtoull((char *)node->value.at, NULL, 16); }
static int region_fits(Sequence *s, u64 at, u64 offset, u64 length) {
    if (!length) return fail("region-empty", at + 8);
    if (s->any && offset < s->start) return fail("region-order", at);
    if (s->any && offset < s->end) return fail("region-overlap", at);
    if (offset > s->size || length > s->size - offset) return fail("region-bounds", at + 8);
    *s = (Sequence){offset, offset + length, s->size, 1};
    return 1;
}
static int header_fits(Bytes in, Bytes *image) {
    if (in.size < 24) return fail("truncated", in.size);
    if (memcmp(in.at, MAGIC, 8)) return fail("bad-magic", 0);
    u64 size = u64_at(in.at + 8);
    if (size > LARGEST) return fail("bad-size", 8);
    if (image && image->size > size) return fail("shrunk-disk", 8);
    if (image && size > (1 << 24)) exit(5); /* apply is asked for small disks only */
    while (image && image->size < size) put_byte(image, 0);
    return 1;
}
/* Decodes all or the header only; with an image, applies to it. */
static void decode_stream(Bytes in, int header_only, Bytes *image) {
    if (!header_fits(in, image)) return;
    Sequence sequence = {.size = u64_at(in.at + 8)};
    u64 count = u64_at(in.at + 16), at = 24;
    if (!image) {
        print(&out, "{\"original_size\":\"0x%llx\",", (unsigned long long)sequence.size);
        print(&out, "\"region_count\":\"0x%llx\"%s", (unsigned long long)count, header_only ? "}" : ",\"regions\":[");
    }
    if (header_only) return;
    for (u64 i = 0; i < count; i++) {
        if (in.size - at < 16) { fail("truncated", in.size); return; }
        u64 offset = u64_at(in.at + at), length = u64_at(in.at + at + 8);
        if (!region_fits(&sequence, at, offset, length)) return;
        at += 16;
        if (in.size - at < length) { fail("truncated", in.size); return; }
        if (image) memcpy(image->at + offset, in.at + at, length);
        else {
            print(&out, "%s[\"0x%llx\",", i ? "," : "", (unsigned long long)offset);
            put_quoted_hex((Part){in.at + at, length});
            print(&out, "]");
        }
        at += length;
    }
    if (at < in.size) fail("trailing-bytes", at);
    if (image) put_quoted_hex(all(*image));
    else print(&out, "]}");
}
static void encode_stream(Node *value) {
    Bytes wire = {0};
    Sequence sequence = {.size = unsigned_of(get(value, "original_size"))};
    u64 count = unsigned_of(get(value, "region_count")), seen = 0;
    put(&wire, MAGIC, 8); put_u64(&wire, sequence.size); put_u64(&wire, count);
    for (Node *region = get(value, "regions")->first; region && !failed; region = region->next, seen++) {
        Bytes data = from_hex(region->first->next);
        u64 offset = unsigned_of(region->first);
        region_fits(&sequence, 0, offset, data.size);
        put_u64(&wire, offset); put_u64(&wire, data.size); put(&wire, data.at, data.size);
    }
    if (failed || seen != count || sequence.size > LARGEST) refuse();
    put_quoted_hex(all(wire));
}

/* --- digest lists -------------------------------------------------------------------------------------- */

#include "xxh3.h"
#define BLOCK 1048576ULL
static const u8 LIST_MAGIC[8] = {0x50, 0x48, 0x44, 0x47, 0x4c, 0x30, 0x31, 0};
static const u8 ZEROS[BLOCK];

static u64 blocks_of(u64 size) { return size / BLOCK + !!(size % BLOCK); }
static u64 block_size(u64 size, u64 number) { u64 left = size - number * BLOCK; return left < BLOCK ? left : BLOCK; }
static void put_digest(Bytes *to, const u8 *data, size_t size) { /* the highest byte first */
    Hash hash = xxh3_128(data, size);
    for (int i = 7; i >= 0; i--) put_byte(to, (u8)(hash.high >> 8 * i));
    for (int i = 7; i >= 0; i--) put_byte(to, (u8)(hash.low >> 8 * i));
}
static void print_root(u64 size, Bytes digests) {
    Bytes whole = {0}, root = {0};
    put_u64(&whole, size);
    if (digests.size) put(&whole, digests.at, digests.size);
    put_digest(&root, whole.at, whole.size);
    print(&out, "\"root\":\"xxh3-128:");
    put_hex(all(root));
    print(&out, "\"");
}
static int decode_list(Bytes in) {
    if (in.size < 16 || memcmp(in.at, LIST_MAGIC, 8)) return 0;
    u64 size = u64_at(in.at + 8), count = blocks_of(size), marks = count / 8 + !!(count % 8);
    if (size > LARGEST || in.size - 16 < marks) return 0;
    Bytes digests = {0};
    print(&out, "{\"size\":\"0x%llx\",\"blocks\":[", (unsigned long long)size);
    size_t at = 16 + marks;
    int any = 0;
    for (u64 i = 0; i < 8 * marks; i++) {
        if (!(in.at[16 + i / 8] >> i % 8 & 1)) { if (i < count) put_digest(&digests, ZEROS, block_size(size, i)); continue; }
        Bytes zero = {0};
        if (i >= count || in.size - at < 16) return 0;
        put_digest(&zero, ZEROS, block_size(size, i));
        if (!memcmp(zero.at, in.at + at, 16)) return 0;
        put(&digests, in.at + at, 16);
        print(&out, "%s[\"0x%llx\",", any++ ? "," : "", (unsigned long long)i);
        put_quoted_hex((Part){in.at + at, 16});
        print(&out, "]");
        at += 16;
    }
    print(&out, "],");
    print_root(size, digests);
    print(&out, "}");
    return at == in.size;
}
static void list_image(Bytes image) {
    Bytes list = {0}, digests = {0}, of_data = {0};
    put(&list, LIST_MAGIC, 8);
    put_u64(&list, image.size);
    u64 count = blocks_of(image.size);
    u8 mark = 0;
    for (u64 i = 0; i < count; i++) {
        const u8 *block = image.at + i * BLOCK;
        size_t size = block_size(image.size, i);
        put_digest(&digests, block, size);
        if (memcmp(block, ZEROS, size)) {
            mark |= (u8)(1 << i % 8);
            put(&of_data, digests.at + 16 * i, 16);
        }
        if (i % 8 == 7 || i + 1 == count) { put_byte(&list, mark); mark = 0; }
    }
    if (of_data.size) put(&list, of_data.at, of_data.size);
    print(&out, "{\"list\":");
    put_quoted_hex(all(list));
    print(&out, ",");
    print_root(image.size, digests);
    print(&out, "}");
}

/* --- names ------------------------------------------------------------------------------------------- */

#define DIGITS "0123456789"
#define ID_BEGINS DIGITS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
static const char *const METADATA[4][2] = {
    {"@nutanix", "vm-metadata.json"}, {"@proxmox", ".conf"}, {"@vsphere", ".vmx"}, {"@hyperv", ".xml"}};

static int is_id(Part p) { return p.size && p.size <= 64 && span(p, ID_BEGINS) && span(p, ID_BEGINS "_-") == p.size; }
static int is_index(Part p) {
    return p.size && p.size <= 4 && span(p, DIGITS) == p.size && (p.size == 1 || *p.at != '0');
}
static int is_stamp(Part p) {
    return p.size == 16 && span(p, DIGITS) == 8 && p.at[8] == 'T'
           && span((Part){p.at + 9, 7}, DIGITS) == 6 && p.at[15] == 'Z';
}
static int is_dots(Part p) { return equals(p, ".") || equals(p, ".."); }
static int is_where(Part p) {
    Part between;
    if (p.size && !prefixed(&p, "/")) return 0;
    while (until(&p, '/', &between)) if (is_dots(between)) return 0;
    return 1;
}
static int is_metadata(Part namespace, Part file) {
    if (equals(namespace, METADATA[0][0])) return equals(file, METADATA[0][1]) || equals(file, "vg-metadata.json");
    for (int i = 1; i < 4; i++)
        if (equals(namespace, METADATA[i][0])) return suffixed(&file, METADATA[i][1]) && is_id(file);
    return 0;
}
static int is_namespace(Part p) {
    for (int i = 0; i < 4; i++) if (equals(p, METADATA[i][0])) return 1;
    return 0;
}
static int is_disk(Part file, Part *index, Part *disk, Part *stamp, const char **kind) {
    *stamp = (Part){0};
    if (!prefixed(&file, "disk-") || !until(&file, '-', index)) return 0;
    *kind = suffixed(&file, ".raw") ? "raw" : suffixed(&file, ".phcbt01") ? "phcbt01"
          : suffixed(&file, ".digests") ? "digests" : NULL;
    if (!*kind || (!same(*kind, "raw") && !(from_last(&file, '.', stamp) && is_stamp(*stamp)))) return 0;
    *disk = file;
    return is_index(*index) && is_id(*disk);
}
static int decode_name(Bytes in) {
    Part rest = all(in), file, folder, vm, cluster, where, namespace, index, disk, stamp;
    if (has(rest, 0) || has(rest, '\n') || !from_last(&rest, '/', &file)) return 0;
    const char *kind = NULL;
    int of_disk = is_disk(file, &index, &disk, &stamp, &kind);
    if (of_disk && !(from_last(&rest, '/', &folder) && equals(folder, "disks"))) return 0;
    if (!from_last(&rest, '/', &vm) || !from_last(&rest, '/', &cluster)) return 0;
    where = namespace = rest;
    if (from_last(&where, '/', &namespace)) where.size++;
    else where.size = 0;
    if (!is_where(where) || !is_namespace(namespace) || !cluster.size || is_dots(cluster) || !is_id(vm)) return 0;
    if (!of_disk && !is_metadata(namespace, file)) return 0;
    print(&out, "{");
    put_part("where", where); put_part("namespace", namespace); put_part("cluster", cluster); put_part("vm", vm);
    if (!of_disk) put_part("metadata", file);
    else { put_part("index", index); put_part("disk", disk); }
    if (of_disk && stamp.size) put_part("stamp", stamp);
    if (of_disk && same(kind, "digests")) put_part("kind", part(kind));
    print(&out, "}");
    return 1;
}
static void encode_name(Node *value) {
    Bytes name = {0};
    Node *stamp = get(value, "stamp");
    add_text(&name, "", get(value, "where"), "");
    add_text(&name, "", get(value, "namespace"), "/");
    add_text(&name, "", get(value, "cluster"), "/");
    add_text(&name, "", get(value, "vm"), "/");
    if (get(value, "metadata")) add_text(&name, "", get(value, "metadata"), "");
    else {
        add_text(&name, "disks/disk-", get(value, "index"), "-");
        add_text(&name, "", get(value, "disk"), stamp ? "." : ".raw");
        if (stamp) add_text(&name, "", stamp, same(text_of(value, "kind"), "digests") ? ".digests" : ".phcbt01");
    }
    if (!decode_name(name)) refuse();
    out.size = 0;
    put_quoted_hex(all(name));
}

#include "session.h"

/* --- the loop ------------------------------------------------------------------------------------------ */

static int answer_value(Node *request) {
    const char *suite = text_of(request, "suite"), *op = text_of(request, "op");
    int decode = same(op, "decode");
    Node *value = get(request, "value");
    Bytes in = from_hex(get(request, "input")), image = from_hex(get(request, "base"));
    if (same(op, "hello"))
        print(&out, "{\"name\":\"c\",\"suites\":[\"ptcomm-packets\",\"ptcomm-sessions\",\"phcbt01-headers\","
                    "\"phcbt01-streams\",\"phcbt01-apply\",\"digest-lists\",\"names\"]}");
    else if (same(suite, "ptcomm-packets")) { if (decode) decode_packets(in); else encode_packets(value); }
    else if (same(suite, "ptcomm-sessions")) session(request);
    else if (same(suite, "phcbt01-headers")) decode_stream(in, 1, NULL);
    else if (same(suite, "phcbt01-streams")) { if (decode) decode_stream(in, 0, NULL); else encode_stream(value); }
    else if (same(suite, "phcbt01-apply")) decode_stream(in, 0, &image);
    else if (same(suite, "digest-lists")) {
        if (!decode) list_image(in);
        else if (!decode_list(in)) { failed = "bad-list"; has_position = 0; }
    }
    else if (!same(suite, "names")) return 0;
    else if (!decode) encode_name(value);
    else if (!decode_name(in)) { failed = "bad-name"; has_position = 0; }
    return 1;
}
static void answer(Bytes line) {
    cursor = (char *)line.at;
    Node *request = json();
    failed = NULL;
    out = (Bytes){0};
    int known = answer_value(request);
    printf("{\"id\":%ld,", get(request, "id")->number);
    if (!known) printf("\"skipped\":\"needs a reader of any JSON\"}\n");
    else if (!failed) printf("\"ok\":%s}\n", (char *)out.at);
    else if (has_position) printf("\"error\":\"%s\",\"offset\":%llu}\n", failed, (unsigned long long)failed_at);
    else printf("\"error\":\"%s\"}\n", failed);
    fflush(stdout);
}
int main(void) {
    Bytes line = {0};
    for (int c; (c = getchar()) != EOF;) {
        if (c != '\n') { put_byte(&line, (u8)c); continue; }
        answer(line);
        drop_all();
        line = (Bytes){0};
    }
    return 0;
}
