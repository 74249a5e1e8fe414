/* An independent testee: PTCOMM, PHCBT01 and the names of virtual files, written from
 * libs/ptcomm/docs/format.md, libs/phcbt01/docs/format.md and
 * apps/nutanix_backend/docs/format.md alone. C11, standard library only. Speaks PROTOCOL.md.
 *
 *     cc -std=c11 -O2 -Wall -Wextra -Werror -o testee testee.c
 *
 * Packets and sessions are decoded one byte at a time, so that pieces cannot matter there. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint64_t u64;
typedef struct { u8 *at; size_t size, room; } Bytes;

static void put(Bytes *to, const void *data, size_t size) {
    if (to->size + size + 1 > to->room) {
        to->room = (to->size + size + 1) * 2;
        to->at = realloc(to->at, to->room);
        if (!to->at) exit(3);
    }
    if (size) memcpy(to->at + to->size, data, size);
    to->size += size;
    to->at[to->size] = 0;
}
static void text(Bytes *to, const char *string) { put(to, string, strlen(string)); }
static void put_byte(Bytes *to, u8 byte) { put(to, &byte, 1); }
static void put_hex(Bytes *to, const u8 *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        char pair[3];
        snprintf(pair, sizeof pair, "%02x", data[i]);
        put(to, pair, 2);
    }
}
static void put_text(Bytes *to, const u8 *data, size_t size) {
    int plain = 1;
    for (size_t i = 0; i < size; i++)
        if (data[i] < 0x20 || data[i] > 0x7e || data[i] == '"' || data[i] == '\\') plain = 0;
    text(to, plain ? "\"" : "{\"hex\":\"");
    if (plain) put(to, data, size); else put_hex(to, data, size);
    text(to, plain ? "\"" : "\"}");
}
static void put_key(Bytes *to, const char *key, const u8 *data, size_t size) {
    put_text(to, (const u8 *)key, strlen(key));
    text(to, ":");
    put_text(to, data, size);
}

/* --- JSON as the runner writes it: no escapes, no fractions ------------------------------------ */

typedef struct Node { char kind; Bytes key, value; long number; struct Node *first, *next; } Node;

static const char *cursor;
static char peek(void) { while (*cursor == ' ') cursor++; return *cursor; }
static void expect(char wanted) { if (peek() != wanted) exit(4); cursor++; }
static Bytes string(void) {
    Bytes found = {0};
    expect('"');
    const char *end = strchr(cursor, '"');
    if (!end) exit(4);
    put(&found, cursor, (size_t)(end - cursor));
    cursor = end + 1;
    return found;
}
static Node *json(void) {
    Node *node = calloc(1, sizeof *node), **tail = &node->first;
    node->kind = peek();
    if (node->kind == '"') node->value = string();
    else if (node->kind == '{' || node->kind == '[') {
        char end = node->kind == '{' ? '}' : ']';
        cursor++;
        while (peek() != end) {
            Bytes key = {0};
            if (end == '}') { key = string(); expect(':'); }
            *tail = json();
            (*tail)->key = key;
            tail = &(*tail)->next;
            if (peek() == ',') cursor++;
        }
        cursor++;
    } else if (strchr("tfn", node->kind)) { while (*cursor >= 'a' && *cursor <= 'z') cursor++; }
    else { char *end; node->number = strtol(cursor, &end, 10); if (end == cursor) exit(4); cursor = end; }
    return node;
}
static void drop(Node *node) {
    while (node) {
        Node *next = node->next;
        drop(node->first);
        free(node->key.at); free(node->value.at); free(node);
        node = next;
    }
}
static Node *get(Node *node, const char *key) {
    for (Node *each = node ? node->first : NULL; each; each = each->next)
        if (each->key.at && !strcmp((char *)each->key.at, key)) return each;
    return NULL;
}
static int is(Node *node, const char *string_) {
    return node && node->value.at && !strcmp((char *)node->value.at, string_);
}
static int digit(u8 c) { return c <= '9' ? c - '0' : c - 'a' + 10; }
static Bytes from_hex(Node *node) {
    Bytes found = {0};
    put(&found, "", 0);
    for (size_t i = 0; node && i + 1 < node->value.size; i += 2)
        put_byte(&found, (u8)(digit(node->value.at[i]) * 16 + digit(node->value.at[i + 1])));
    return found;
}
static Bytes bytes_of(Node *node) { /* a text */
    Bytes found = {0};
    if (node && node->kind == '{') return from_hex(get(node, "hex"));
    put(&found, node ? node->value.at : (u8 *)"", node ? node->value.size : 0);
    return found;
}
static u64 unsigned_of(Node *node) { return node && node->value.at ? strtoull((char *)node->value.at, NULL, 16) : 0; }

/* --- answers ------------------------------------------------------------------------------------ */

static Bytes out;      /* the value of the answer, while it is made */
static const char *failed;
static u64 failed_at;
static int has_position;
static int fail(const char *code, u64 at) { failed = code; failed_at = at; has_position = 1; return 0; }
static int refuse(void) { failed = "refused"; has_position = 0; return 0; }

/* --- PTCOMM packets ------------------------------------------------------------------------------ */

typedef struct { u8 header[8]; size_t have; u64 length, start, position; Bytes payload; } Packets;

static int judge_header(Packets *p) {
    if (!p->header[0] || !strchr("CDFTIWQEASNRPOV", p->header[0])) return fail("bad-status", p->start);
    p->length = 0;
    for (int i = 1; i < 7; i++) {
        if (p->header[i] < '0' || p->header[i] > '9') return fail("bad-length", p->start + (u64)i);
        p->length = p->length * 10 + (u64)(p->header[i] - '0');
    }
    if (p->header[7] != '\n') return fail("bad-length", p->start + 7);
    if (p->length && strchr("FT", p->header[0])) return fail("bad-length", p->start + 1);
    return 1;
}
/* Takes one byte; 1: a packet is complete, 0: not yet or failed. */
static int packet_byte(Packets *p, u8 byte) {
    if (p->have == 0) { p->start = p->position; p->payload.size = 0; }
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
    int count = 0;
    text(&out, "[");
    for (size_t i = 0; i < in.size && !failed; i++) {
        if (!packet_byte(&p, in.at[i])) continue;
        text(&out, count++ ? ",[\"" : "[\"");
        put(&out, p.header, 1);
        text(&out, "\",\"");
        put_hex(&out, p.payload.at, p.payload.size);
        text(&out, "\"]");
    }
    if (!failed && p.have) fail("truncated", in.size);
    text(&out, "]");
    free(p.payload.at);
}
static int add_packet(Bytes *to, char status, const u8 *payload, size_t size) {
    char header[9];
    if (!strchr("CDFTIWQEASNRPOV", status) || size > 999999 || (size && strchr("FT", status))) return refuse();
    snprintf(header, sizeof header, "%c%06u\n", status, (unsigned)size % 1000000);
    put(to, header, 8);
    put(to, payload, size);
    return 1;
}
static void encode_packets(Node *value) {
    Bytes wire = {0};
    put(&wire, "", 0);
    for (Node *packet = value->first; packet && !failed; packet = packet->next) {
        Bytes payload = from_hex(packet->first->next);
        if (packet->first->value.size != 1) refuse();
        else add_packet(&wire, (char)packet->first->value.at[0], payload.at, payload.size);
        free(payload.at);
    }
    text(&out, "\""); put_hex(&out, wire.at, wire.size); text(&out, "\"");
    free(wire.at);
}

/* --- PHCBT01 -------------------------------------------------------------------------------------- */

#define LARGEST 0x7fffffffffffffffULL
static const u8 MAGIC[8] = {0x50, 0x48, 0x43, 0x42, 0x54, 0x30, 0x31, 0};
static u64 u64_at(const u8 *at) { u64 n = 0; for (int i = 7; i >= 0; i--) n = n << 8 | at[i]; return n; }
static void put_u64(Bytes *to, u64 n) { for (int i = 0; i < 8; i++) put_byte(to, (u8)(n >> 8 * i)); }
static void put_unsigned(Bytes *to, u64 n) {
    char string_[24];
    snprintf(string_, sizeof string_, "\"0x%llx\"", (unsigned long long)n);
    text(to, string_);
}
static int region_fits(u64 start, u64 offset, u64 length, u64 before, u64 end, int first, u64 size) {
    if (!length) return fail("region-empty", start + 8);
    if (!first && offset < before) return fail("region-order", start);
    if (!first && offset < end) return fail("region-overlap", start);
    if (offset > size || length > size - offset) return fail("region-bounds", start + 8);
    return 1;
}
static int put_header(u64 size, u64 count) {
    text(&out, "{\"original_size\":"); put_unsigned(&out, size);
    text(&out, ",\"region_count\":"); put_unsigned(&out, count);
    return 1;
}
/* Decodes what is there; headers_only: stop after the header; image: apply to it. */
static void decode_stream(Bytes in, int header_only, Bytes *image) {
    if (in.size < 24) { fail("truncated", in.size); return; }
    if (memcmp(in.at, MAGIC, 8)) { fail("bad-magic", 0); return; }
    u64 size = u64_at(in.at + 8), count = u64_at(in.at + 16), at = 24, before = 0, end = 0;
    if (size > LARGEST) { fail("bad-size", 8); return; }
    if (image && image->size > size) { fail("shrunk-disk", 8); return; }
    if (image && size > (1 << 24)) exit(5); /* apply is asked for small disks only */
    while (image && image->size < size) put_byte(image, 0);
    if (!image) put_header(size, count);
    if (!image) text(&out, header_only ? "}" : ",\"regions\":[");
    for (u64 i = 0; i < count && !header_only; i++) {
        if (in.size - at < 16) { fail("truncated", in.size); return; }
        u64 offset = u64_at(in.at + at), length = u64_at(in.at + at + 8);
        if (!region_fits(at, offset, length, before, end, i == 0, size)) return;
        at += 16;
        if (in.size - at < length) { fail("truncated", in.size); return; }
        if (image) memcpy(image->at + offset, in.at + at, length);
        else {
            text(&out, i ? ",[" : "["); put_unsigned(&out, offset);
            text(&out, ",\""); put_hex(&out, in.at + at, length); text(&out, "\"]");
        }
        at += length;
        before = offset;
        end = offset + length;
    }
    if (header_only) return;
    if (at < in.size) { fail("trailing-bytes", at); return; }
    if (!image) text(&out, "]}");
}
static void encode_stream(Node *value) {
    Bytes wire = {0};
    u64 size = unsigned_of(get(value, "original_size")), count = unsigned_of(get(value, "region_count"));
    u64 seen = 0, before = 0, end = 0;
    put(&wire, MAGIC, 8); put_u64(&wire, size); put_u64(&wire, count);
    if (size > LARGEST) refuse();
    for (Node *region = get(value, "regions")->first; region && !failed; region = region->next, seen++) {
        Bytes data = from_hex(region->first->next);
        u64 offset = unsigned_of(region->first);
        if (!region_fits(0, offset, data.size, before, end, !seen, size)) refuse();
        put_u64(&wire, offset); put_u64(&wire, data.size); put(&wire, data.at, data.size);
        before = offset;
        end = offset + data.size;
        free(data.at);
    }
    if (!failed && seen != count) refuse();
    text(&out, "\""); put_hex(&out, wire.at, wire.size); text(&out, "\"");
    free(wire.at);
}

/* --- names ---------------------------------------------------------------------------------------- */

typedef struct { const u8 *at; size_t size; } Part;
static const char *const NAMESPACES[4][2] = {
    {"@nutanix", "vm-metadata.json"}, {"@proxmox", ".conf"}, {"@vsphere", ".vmx"}, {"@hyperv", ".xml"}};

static int alnum(u8 c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static int is_id(Part p) {
    if (p.size < 1 || p.size > 64 || !alnum(p.at[0])) return 0;
    for (size_t i = 1; i < p.size; i++) if (!alnum(p.at[i]) && p.at[i] != '_' && p.at[i] != '-') return 0;
    return 1;
}
static int equals(Part p, const char *s) { return p.size == strlen(s) && !memcmp(p.at, s, p.size); }
static int dots(Part p) { return equals(p, ".") || equals(p, ".."); }
static int is_index(Part p) {
    if (p.size < 1 || p.size > 4 || (p.size > 1 && p.at[0] == '0')) return 0;
    for (size_t i = 0; i < p.size; i++) if (p.at[i] < '0' || p.at[i] > '9') return 0;
    return 1;
}
static int is_stamp(Part p) {
    if (p.size != 16) return 0;
    for (size_t i = 0; i < 16; i++) {
        u8 wanted = i == 8 ? 'T' : i == 15 ? 'Z' : '0';
        if (wanted == '0' ? p.at[i] < '0' || p.at[i] > '9' : p.at[i] != wanted) return 0;
    }
    return 1;
}
static int ends_with(Part *p, const char *s) {
    size_t n = strlen(s);
    if (p->size < n || memcmp(p->at + p->size - n, s, n)) return 0;
    p->size -= n;
    return 1;
}
static int metadata_of(int namespace, Part file) {
    if (namespace == 0) return equals(file, NAMESPACES[0][1]);
    return ends_with(&file, NAMESPACES[namespace][1]) && is_id(file);
}
/* Takes `count` last components off, from the end of the name. */
static int take_name(Bytes in, int count, Part *parts, size_t *where) {
    size_t end = in.size;
    for (int i = count - 1; i >= 0; i--) {
        size_t start = end;
        while (start > 0 && in.at[start - 1] != '/') start--;
        parts[i] = (Part){in.at + start, end - start};
        if (i == 0) { *where = start; return 1; }
        if (start == 0) return 0;
        end = start - 1;
    }
    return 0;
}
static int namespace_of(Part p) {
    for (int i = 0; i < 4; i++) if (equals(p, NAMESPACES[i][0])) return i;
    return -1;
}
static int where_is_sound(const u8 *at, size_t size) {
    if (size && at[0] != '/') return 0;
    for (size_t start = 1, i = 1; i < size; i++)
        if (at[i] == '/') {
            if (dots((Part){at + start, i - start})) return 0;
            start = i + 1;
        }
    return 1;
}
static void put_part(const char *key, Part p) { text(&out, ","); put_key(&out, key, p.at, p.size); }
static int split_disk(Part file, Part *index, Part *disk, Part *stamp) {
    *stamp = (Part){0};
    if (file.size < 5 || memcmp(file.at, "disk-", 5)) return 0;
    Part rest = {file.at + 5, file.size - 5};
    if (!ends_with(&rest, ".raw")) {
        if (!ends_with(&rest, ".phcbt01") || rest.size < 17) return 0;
        *stamp = (Part){rest.at + rest.size - 16, 16};
        rest.size -= 16;
        if (!is_stamp(*stamp) || !ends_with(&rest, ".")) return 0;
    }
    const u8 *dash = memchr(rest.at, '-', rest.size);
    if (!dash) return 0;
    *index = (Part){rest.at, (size_t)(dash - rest.at)};
    *disk = (Part){dash + 1, rest.size - index->size - 1};
    return is_index(*index) && is_id(*disk);
}
static int head_is_sound(Bytes in, Part *p, size_t where) {
    return namespace_of(p[0]) >= 0 && p[1].size && !dots(p[1]) && is_id(p[2]) && where_is_sound(in.at, where);
}
static int decode_name(Bytes in) {
    Part p[5], index, disk, stamp;
    size_t where;
    if (memchr(in.at, 0, in.size) || memchr(in.at, '\n', in.size)) return 0;
    int metadata = take_name(in, 4, p, &where) && head_is_sound(in, p, where) && metadata_of(namespace_of(p[0]), p[3]);
    if (!metadata && !(take_name(in, 5, p, &where) && head_is_sound(in, p, where) && equals(p[3], "disks")
                       && split_disk(p[4], &index, &disk, &stamp))) return 0;
    text(&out, "{"); put_key(&out, "where", in.at, where);
    put_part("namespace", p[0]); put_part("cluster", p[1]); put_part("vm", p[2]);
    if (metadata) put_part("metadata", p[3]);
    else {
        put_part("index", index); put_part("disk", disk);
        if (stamp.size) put_part("stamp", stamp);
    }
    text(&out, "}");
    return 1;
}
static void add_text(Bytes *to, const char *before, Node *node, const char *after) {
    Bytes value = bytes_of(node);
    text(to, before); put(to, value.at, value.size); text(to, after);
    free(value.at);
}
static void encode_name(Node *value) {
    Bytes name = {0};
    add_text(&name, "", get(value, "where"), "");
    add_text(&name, "", get(value, "namespace"), "/");
    add_text(&name, "", get(value, "cluster"), "/");
    add_text(&name, "", get(value, "vm"), "/");
    if (get(value, "metadata")) add_text(&name, "", get(value, "metadata"), "");
    else {
        add_text(&name, "disks/disk-", get(value, "index"), "-");
        add_text(&name, "", get(value, "disk"), get(value, "stamp") ? "." : ".raw");
        if (get(value, "stamp")) add_text(&name, "", get(value, "stamp"), ".phcbt01");
    }
    if (!decode_name(name)) refuse();
    out.size = 0;
    text(&out, "\""); put_hex(&out, name.at, name.size); text(&out, "\"");
    free(name.at);
}

#include "session.h"

/* --- the loop --------------------------------------------------------------------------------------- */

static int answer_value(Node *request) {
    Node *suite = get(request, "suite"), *value = get(request, "value");
    int decode = is(get(request, "op"), "decode");
    Bytes in = from_hex(get(request, "input")), image = from_hex(get(request, "base"));
    int known = 1;
    if (is(get(request, "op"), "hello"))
        text(&out, "{\"name\":\"c\",\"suites\":[\"ptcomm-packets\",\"ptcomm-sessions\",\"phcbt01-headers\","
                   "\"phcbt01-streams\",\"phcbt01-apply\",\"names\"]}");
    else if (is(suite, "ptcomm-packets")) { if (decode) decode_packets(in); else encode_packets(value); }
    else if (is(suite, "ptcomm-sessions")) session(request);
    else if (is(suite, "phcbt01-headers")) decode_stream(in, 1, NULL);
    else if (is(suite, "phcbt01-streams")) { if (decode) decode_stream(in, 0, NULL); else encode_stream(value); }
    else if (is(suite, "phcbt01-apply")) {
        decode_stream(in, 0, &image);
        text(&out, "\""); put_hex(&out, image.at, image.size); text(&out, "\"");
    } else if (is(suite, "names")) {
        if (!decode) encode_name(value);
        else if (!decode_name(in)) { failed = "bad-name"; has_position = 0; }
    } else known = 0;
    free(in.at); free(image.at);
    return known;
}
int main(void) {
    Bytes line = {0};
    for (int c; (c = getchar()) != EOF;) {
        if (c != '\n') { put_byte(&line, (u8)c); continue; }
        cursor = (char *)line.at;
        Node *request = json();
        failed = NULL;
        has_position = 0;
        out.size = 0;
        int known = answer_value(request);
        printf("{\"id\":%ld,", get(request, "id")->number);
        if (!known) printf("\"skipped\":\"needs a reader of any JSON\"}\n");
        else if (!failed) printf("\"ok\":%s}\n", (char *)out.at);
        else if (has_position) printf("\"error\":\"%s\",\"offset\":%llu}\n", failed, (unsigned long long)failed_at);
        else printf("\"error\":\"%s\"}\n", failed);
        fflush(stdout);
        drop(request);
        line.size = 0;
    }
    return 0;
}
