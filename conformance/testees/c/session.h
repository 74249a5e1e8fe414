/* The conversation of libs/ptcomm/docs/format.md. Included by testee.c, which has the packets. */

typedef struct { const char *state; char who; const char *said, *next; } Rule;
static const Rule RULES[] = {
    {"CONNECTED", 'p', "PluginHello", "GREETING"},
    {"GREETING", 'b', "BackendHello", "GREETED"},
    {"GREETED", 'p', "Job", "JOB_TOLD"},
    {"JOB_TOLD", 'b', "Ack", "JOB_KNOWN"},
    {"JOB_KNOWN", 'p', "Parameters", "PARAMETERS_TOLD"},
    {"PARAMETERS_TOLD", 'b', "Ack", "PREPARED"},
    {"PREPARED", 'p', "BackupStart", "STARTING_BACKUP"},
    {"PREPARED", 'p', "EstimateStart", "STARTING_LISTING"},
    {"PREPARED", 'p', "ListingStart", "STARTING_LISTING"},
    {"PREPARED", 'p', "QueryStart", "STARTING_QUERY"},
    {"PREPARED", 'p', "RestoreStart", "STARTING_RESTORE"},
    {"STARTING_BACKUP", 'b', "Ack", "BACKUP"},
    {"STARTING_LISTING", 'b', "Ack", "LISTING"},
    {"STARTING_QUERY", 'b', "Ack", "QUERY"},
    {"STARTING_RESTORE", 'b', "Ack", "RESTORE"},
    {"BACKUP", 'b', "File", "BACKUP_FILE"},
    {"BACKUP", 'b', "RestoreObject", "BACKUP_OBJECT"},
    {"BACKUP", 'b', "PluginObject", "BACKUP"},
    {"BACKUP", 'b', "NoMoreFiles", "DONE"},
    {"BACKUP", 'p', "End", "GIVEN_UP"},
    {"BACKUP_FILE", 'b', "DataStart", "BACKUP_DATA"},
    {"BACKUP_FILE", 'b', "DataEnd", "BACKUP"},
    {"BACKUP_FILE", 'p', "End", "GIVEN_UP"},
    {"BACKUP_DATA", 'b', "Data", "BACKUP_DATA"},
    {"BACKUP_DATA", 'b', "DataEnd", "BACKUP"},
    {"BACKUP_DATA", 'p', "End", "GIVEN_UP"},
    {"BACKUP_OBJECT", 'b', "Data", "BACKUP_OBJECT"},
    {"BACKUP_OBJECT", 'b', "DataEnd", "BACKUP"},
    {"BACKUP_OBJECT", 'p', "End", "GIVEN_UP"},
    {"LISTING", 'b', "File", "LISTING"},
    {"LISTING", 'b', "NoMoreFiles", "DONE"},
    {"LISTING", 'p', "End", "GIVEN_UP"},
    {"QUERY", 'b', "QueryRow", "QUERY"},
    {"QUERY", 'b', "Data", "QUERY"},
    {"QUERY", 'b', "NoMoreFiles", "QUERY_DONE"},
    {"QUERY", 'p', "Terminate", "TERMINATED"},
    {"QUERY_DONE", 'p', "Terminate", "TERMINATED"},
    {"DONE", 'p', "End", "ENDING"},
    {"RESTORE", 'p', "RestoreObject", "RESTORE_OBJECT"},
    {"RESTORE", 'p', "File", "RESTORE_OFFERED"},
    {"RESTORE", 'p', "Finish", "FINISHING"},
    {"RESTORE", 'p', "End", "ENDING"},
    {"RESTORE_OBJECT", 'p', "Data", "RESTORE_OBJECT"},
    {"RESTORE_OBJECT", 'p', "DataEnd", "RESTORE_SENT"},
    {"RESTORE_OBJECT", 'b', "Message.E", "RESTORE_DATA_FAILED"},
    {"RESTORE_OFFERED", 'b', "OK", "RESTORE_FILE"},
    {"RESTORE_OFFERED", 'b', "SKIP", "RESTORE"},
    {"RESTORE_OFFERED", 'b', "CORE", "RESTORE"},
    {"RESTORE_OFFERED", 'b', "Message.E", "RESTORE"},
    {"RESTORE_FILE", 'p', "DataStart", "RESTORE_DATA"},
    {"RESTORE_FILE", 'p', "RestoreObject", "RESTORE_OBJECT"},
    {"RESTORE_FILE", 'p', "File", "RESTORE_OFFERED"},
    {"RESTORE_FILE", 'p', "Finish", "FINISHING"},
    {"RESTORE_FILE", 'p', "End", "ENDING"},
    {"RESTORE_DATA", 'p', "Data", "RESTORE_DATA"},
    {"RESTORE_DATA", 'p', "DataEnd", "RESTORE_SENT"},
    {"RESTORE_DATA", 'b', "Message.E", "RESTORE_DATA_FAILED"},
    {"RESTORE_DATA_FAILED", 'p', "Data", "RESTORE_DATA_FAILED"},
    {"RESTORE_DATA_FAILED", 'p', "DataEnd", "RESTORE"},
    {"RESTORE_SENT", 'b', "OK", "RESTORE"},
    {"RESTORE_SENT", 'b', "Message.E", "RESTORE"},
    {"FINISHING", 'b', "Ack", "FINISHED"},
    {"FINISHED", 'p', "End", "ENDING"},
    {"ENDING", 'b', "Ack", "ENDED"},
    {"ENDING", 'p', "Terminate", "TERMINATED"},
    {"ENDED", 'p', "Terminate", "TERMINATED"},
    {"GIVEN_UP", 'b', "Ack", "ENDED"},
    {"GIVEN_UP", 'p', "Terminate", "TERMINATED"},
    {"FAILED", 'p', "Terminate", "TERMINATED"},
    {"BROKEN", 'p', "Terminate", "TERMINATED"},
};

typedef struct {
    char role;
    const char *state, *kind;   /* kind: the event whose lines are being collected, or NULL */
    Packets in;
    Bytes lines;                /* of that event, each ended by a newline */
    u64 packet_bytes, object_left;
    int in_object, lost, eof;
    const char *error;
    u64 error_at;
} Session;

static int same(const char *a, const char *b) { return !strcmp(a, b); }
static int one_of(const char *wanted, const char *list) { /* list: words between spaces */
    size_t n = strlen(wanted);
    for (const char *at = list; n && (at = strstr(at, wanted)); at++)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return 1;
    return 0;
}
static const char *after(const char *state, char who, const char *said) {
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++)
        if (same(RULES[i].state, state) && RULES[i].who == who && same(RULES[i].said, said)) return RULES[i].next;
    if (who != 'b' || strncmp(said, "Message.", 8) || one_of(state, "FAILED TERMINATED")) return NULL;
    return said[8] == 'A' ? "FAILED" : state;
}
static int ignored(Session *s, char who) {
    return one_of(s->state, "FAILED BROKEN") || (who == 'b' && one_of(s->state, "GIVEN_UP TERMINATED"));
}
static void give_up(Session *s) {
    if (!one_of(s->state, "FAILED TERMINATED CLOSED")) s->state = "BROKEN";
}

/* --- lines to events: each writes its JSON and answers whether the lines are the event ------------- */

static int prefixed(Part *line, const char *prefix) {
    size_t n = strlen(prefix);
    if (line->size < n || memcmp(line->at, prefix, n)) return 0;
    *line = (Part){line->at + n, line->size - n};
    return 1;
}
static Part next_line(Part *rest) {
    const u8 *end = memchr(rest->at, '\n', rest->size);
    Part line = {rest->at, (size_t)(end - rest->at)};
    *rest = (Part){end + 1, rest->size - line.size - 1};
    return line;
}
static int until(Part *rest, char mark, Part *found) {
    const u8 *end = memchr(rest->at, mark, rest->size);
    if (!end) return 0;
    *found = (Part){rest->at, (size_t)(end - rest->at)};
    *rest = (Part){end + 1, rest->size - found->size - 1};
    return 1;
}
/* A number from -low to high; strict: in its shortest form (octal: of at least six digits). */
static int number(Part p, int base, u64 low, u64 high, int strict) {
    int minus = p.size && p.at[0] == '-';
    Part digits = {p.at + minus, p.size - (size_t)minus};
    u64 value = 0;
    if (digits.size < 1 || digits.size > 20) return 0;
    for (size_t i = 0; i < digits.size; i++) {
        u64 d = (u64)digits.at[i] - '0';
        if (digits.at[i] < '0' || d >= (u64)base || value > (UINT64_MAX - d) / (u64)base) return 0;
        value = value * (u64)base + d;
    }
    if (value > (minus ? low : high) || (strict && minus && !value)) return 0;
    size_t shortest = base == 8 ? 6 : 1;
    return !strict || (digits.size >= shortest && (digits.size == shortest || digits.at[0] != '0'));
}
static int word(Part p, const char *list) {
    char copy[32];
    if (p.size < 1 || p.size >= sizeof copy) return 0;
    memcpy(copy, p.at, p.size);
    copy[p.size] = 0;
    return !memchr(p.at, ' ', p.size) && !memchr(p.at, 0, p.size) && one_of(copy, list);
}
#define INT31 0x7fffffffULL
#define U32 0xffffffffULL

static int read_hello(Part rest) {
    Part line = next_line(&rest), api;
    if (!prefixed(&line, "Hello ")) return 0;
    size_t cut = line.size;
    while (cut > 0 && line.at[cut - 1] != ' ') cut--;
    api = (Part){line.at + cut, line.size - cut};
    if (cut < 2 || !api.size) return 0;
    put_part("plugin", (Part){line.at, cut - 1});
    put_part("api", api);
    return 1;
}
static int item(Part key, Part value, int first) {
    text(&out, first ? "[" : ",[");
    put_text(&out, key.at, key.size); text(&out, ","); put_text(&out, value.at, value.size);
    text(&out, "]");
    return 0;
}
static int read_parameters(Part rest) {
    Part key;
    int first = 1;
    next_line(&rest);
    text(&out, ",\"items\":[");
    while (rest.size) {
        Part value = next_line(&rest);
        if (!until(&value, '=', &key) || !key.size) return 0;
        first = item(key, value, first);
    }
    text(&out, "]");
    return 1;
}
static const char *const JOB_KEYS[] = {"Name", "JobID", "Type", "Level", "Since", "Where", "RegexWhere", "Replace",
                                       "Namespace", "PrevJobName", "WorkingDir", "SysconfigPath", "ExePath"};
static int job_value(int key, Part *p, char *buffer) {
    if (key == 2) return word(*p, "B E R");
    if (key == 3) return word(*p, "F I D");
    if (key == 7) return word(*p, "a w n o");
    if (key != 1 && key != 4) return 1;
    if (!number(*p, 10, key == 4 ? LARGEST + 1 : 0, key == 4 ? LARGEST : INT31, 0)) return 0;
    memcpy(buffer, p->at, p->size);
    buffer[p->size] = 0;
    unsigned long long value = strtoull(buffer + (buffer[0] == '-'), NULL, 10);
    int size = sprintf(buffer, "%s%llu", buffer[0] == '-' && value ? "-" : "", value);
    *p = (Part){(u8 *)buffer, (size_t)size};
    return 1;
}
static int read_job(Part lines) {
    Part known[13] = {{0}}, key, rest = lines;
    char numbers[2][32];
    int first = 1;
    next_line(&rest);
    for (Part scan = rest; scan.size;) {
        Part value = next_line(&scan);
        if (!until(&value, '=', &key) || !key.size) return 0;
        for (int i = 0; i < 13; i++)
            if (equals(key, JOB_KEYS[i])) {
                if (known[i].at || !job_value(i, &value, numbers[i == 4])) return 0;
                known[i] = value;
            }
    }
    if (!known[0].at || !known[1].at || !known[2].at) return 0;
    text(&out, ",\"items\":[");
    for (int i = 0; i < 13; i++)
        if (known[i].at || i >= 8)
            first = item((Part){(const u8 *)JOB_KEYS[i], strlen(JOB_KEYS[i])}, known[i].at ? known[i] : (Part){(u8 *)"", 0}, first);
    while (rest.size) {
        Part value = next_line(&rest);
        int extra = until(&value, '=', &key);
        for (int i = 0; i < 13; i++) if (equals(key, JOB_KEYS[i])) extra = 0;
        if (extra) first = item(key, value, first);
    }
    text(&out, "]");
    return 1;
}
static int field(Part *line, const char *key, int last) {
    Part value = *line;
    if (!last && !until(line, ' ', &value)) return 0;
    if (last && memchr(value.at, ' ', value.size)) return 0;
    int right = same(key, "type") ? word(value, "F E D S L")
              : same(key, "size") ? number(value, 10, 0, LARGEST, 1)
              : one_of(key, "uid gid") ? number(value, 10, INT31 + 1, U32, 1)
              : same(key, "mode") ? number(value, 8, 0, U32, 1)
              : same(key, "nlink") ? number(value, 10, 0, INT31, 1)
              : same(key, "file_index") ? number(value, 10, INT31 + 1, INT31, 1)
              : number(value, 10, LARGEST + 1, LARGEST, 1);
    if (right) put_part(key, value);
    return right;
}
static int read_file(Part rest) {
    Part name = next_line(&rest);
    if (!prefixed(&name, "FNAME:") || !name.size || !rest.size) return 0;
    put_part("name", name);
    Part stat = next_line(&rest);
    if (!prefixed(&stat, "STAT:") || !rest.size) return 0;
    int fields = 1;
    for (size_t i = 0; i < stat.size; i++) fields += stat.at[i] == ' ';
    if (fields < 6 || fields > 7) return 0;
    if (!field(&stat, "type", 0) || !field(&stat, "size", 0) || !field(&stat, "uid", 0) || !field(&stat, "gid", 0)
        || !field(&stat, "mode", 0) || !field(&stat, "nlink", fields == 6)) return 0;
    if (fields == 7 && !field(&stat, "file_index", 1)) return 0;
    Part times = next_line(&rest);
    if (!prefixed(&times, "TSTAMP:") || !field(&times, "atime", 0) || !field(&times, "mtime", 0)
        || !field(&times, "ctime", 1)) return 0;
    if (!rest.size) return 1;
    Part link = next_line(&rest);
    if (!prefixed(&link, "LSTAT:") || rest.size) return 0;
    put_part("link", link);
    return 1;
}
static int read_restore_object(Session *s, Part rest) {
    Part name = next_line(&rest);
    if (!prefixed(&name, "RESTOREOBJ:") || !name.size || !rest.size) return 0;
    Part length = next_line(&rest);
    if (!prefixed(&length, "RESTOREOBJ_LEN:") || rest.size || !number(length, 10, 0, INT31, 1)) return 0;
    put_part("name", name);
    put_part("length", length);
    s->object_left = strtoull((const char *)length.at, NULL, 10);
    return 1;
}
static int read_plugin_object(Part rest) {
    static const char *const keys[] = {"CAT", "TYPE", "NAME", "SRC", "UUID", "SIZE", "COUNT", "STATUS"};
    Part path = next_line(&rest), key;
    int at = 0, first = 1;
    if (!prefixed(&path, "PLUGINOBJ:") || !path.size) return 0;
    put_part("path", path);
    text(&out, ",\"items\":[");
    while (rest.size) {
        Part value = next_line(&rest);
        if (!prefixed(&value, "PLUGINOBJ_") || !until(&value, ':', &key)) return 0;
        while (at < 8 && !equals(key, keys[at])) at++;
        if (at == 8) return 0;
        if (at == 5 && !number(value, 10, 0, LARGEST, 1)) return 0;
        if (at == 6 && !number(value, 10, 0, INT31, 1)) return 0;
        if (at == 7 && !word(value, "OK WARNING ERROR FATAL")) return 0;
        at++;
        first = item(key, value, first);
    }
    text(&out, "]");
    return 1;
}
/* Writes the event that the lines are; 0: they are not, and what was written means nothing. */
static int read_event(Session *s, const char *kind, Bytes lines) {
    Part rest = {lines.at, lines.size};
    if (same(kind, "PluginHello")) return read_hello(rest);
    if (same(kind, "Job")) return read_job(rest);
    if (same(kind, "Parameters")) return read_parameters(rest);
    if (same(kind, "File")) return read_file(rest);
    if (same(kind, "RestoreObject")) return read_restore_object(s, rest);
    return read_plugin_object(rest);
}

/* --- what is heard ------------------------------------------------------------------------------------ */

static int wrong(Session *s, const char *code) {
    s->error = code;
    s->error_at = s->in.start;
    return 0;
}
static void begin(const char *name) {
    text(&out, out.at[out.size - 1] == '[' ? "{\"event\":\"" : ",{\"event\":\"");
    text(&out, name);
    text(&out, "\"");
}
static int say(Session *s, char who, const char *said) {
    const char *next = after(s->state, who, said);
    if (!next) return wrong(s, "out-of-order");
    s->state = next;
    return 1;
}
static int end_event(Session *s, char who) {
    const char *kind = s->kind;
    s->kind = NULL;
    size_t mark = out.size;
    begin(kind);
    if (!read_event(s, kind, s->lines)) { out.size = mark; return wrong(s, "bad-command"); }
    text(&out, "}");
    if (same(kind, "RestoreObject")) s->in_object = 1;
    if (say(s, who, kind)) return 1;
    out.size = mark;
    return 0;
}
static int simple(Session *s, char who, const char *name, const char *said, const char *key) {
    if (!say(s, who, said)) return 0;
    begin(name);
    if (key) { text(&out, ","); put_key(&out, key, (const u8 *)said, strlen(said)); }
    text(&out, "}");
    return 1;
}
static int line_is_sound(Part line, char who) {
    if (memchr(line.at, '\n', line.size) || memchr(line.at, 0, line.size)) return 0;
    return who == 'p' || !line.size || !strchr(" \t\r\v\f", line.at[line.size - 1]);
}
static const char *opener(Part line) {
    if (prefixed(&line, "Hello ")) return "PluginHello";
    if (equals(line, "Job")) return "Job";
    if (equals(line, "Params")) return "Parameters";
    if (prefixed(&line, "FNAME:")) return "File";
    if (prefixed(&line, "PLUGINOBJ:")) return "PluginObject";
    return prefixed(&line, "RESTOREOBJ:") ? "RestoreObject" : NULL;
}
static int first_line(Session *s, char who, Part line) {
    if (after(s->state, who, "QueryRow")) {
        begin("QueryRow");
        put_part("text", line);
        text(&out, "}");
        return 2;
    }
    if (word(line, "BackupStart EstimateStart ListingStart QueryStart RestoreStart"))
        return simple(s, who, "Start", (const char *)s->lines.at, "phase") ? 2 : 0;
    if (word(line, "OK SKIP CORE")) return simple(s, who, "Reply", (const char *)s->lines.at, "answer") ? 2 : 0;
    const char *name = equals(line, "Hello Bacula") ? "BackendHello" : equals(line, "DATA") ? "DataStart"
                     : equals(line, "FINISH") ? "Finish" : equals(line, "END") ? "End" : NULL;
    if (name) return simple(s, who, name, name, NULL) ? 2 : 0;
    s->kind = opener(line);
    if (!s->kind) return wrong(s, "bad-command");
    s->packet_bytes = 0;
    return after(s->state, who, s->kind) ? 1 : wrong(s, "out-of-order");
}
static int heard_line(Session *s, char who) {
    Bytes *payload = &s->in.payload;
    if (!payload->size || payload->at[payload->size - 1] != '\n') return wrong(s, "bad-command");
    Part line = {payload->at, payload->size - 1};
    if (!line_is_sound(line, who)) return wrong(s, "bad-command");
    if (!s->kind) {
        s->lines.size = 0;
        put(&s->lines, line.at, line.size);
        int done = first_line(s, who, line);
        if (done != 1) return done;
        s->lines.size = 0;
    }
    put(&s->lines, payload->at, payload->size);
    s->packet_bytes += 8 + payload->size;
    if (s->packet_bytes > 1048576) return wrong(s, "oversized");
    int two = same(s->kind, "RestoreObject") && s->packet_bytes > 8 + payload->size;
    return same(s->kind, "PluginHello") || two ? end_event(s, who) : 1;
}
static int heard_data(Session *s, char who) {
    u64 size = s->in.payload.size;
    if (s->kind || !after(s->state, who, "Data")) return wrong(s, "out-of-order");
    if (!size && who == 'b') return wrong(s, "empty-data");
    if (s->in_object && size > s->object_left) return wrong(s, "object-length");
    if (s->in_object) s->object_left -= size;
    s->state = after(s->state, who, "Data");
    begin("Data");
    text(&out, ",\"data\":\""); put_hex(&out, s->in.payload.at, size); text(&out, "\"}");
    return 1;
}
static int heard_end(Session *s, char who) {
    if (s->kind) return end_event(s, who);
    if (after(s->state, who, "Ack")) return simple(s, who, "Ack", "Ack", NULL);
    if (after(s->state, who, "DataEnd")) {
        if (s->in_object && s->object_left) return wrong(s, "object-length");
        s->in_object = 0;
        return simple(s, who, "DataEnd", "DataEnd", NULL);
    }
    return simple(s, who, "NoMoreFiles", "NoMoreFiles", NULL);
}
static size_t utf8_size(const u8 *at, size_t left) { /* of the character there, 0: none */
    static const u8 heads[] = {0xc2, 0xe0, 0xf0, 0xf5};
    if (at[0] < 0x80) return 1;
    for (size_t n = 2; n <= 4; n++) {
        if (at[0] < heads[n - 2] || at[0] >= heads[n - 1] || left < n) continue;
        for (size_t i = 1; i < n; i++) if ((at[i] & 0xc0) != 0x80) return 0;
        if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f)) return 0;
        return (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f) ? 0 : n;
    }
    return 0;
}
static Bytes one_line(Bytes from) {
    Bytes shown = {0}, folded = {0};
    put(&shown, "", 0);
    put(&folded, "", 0);
    for (size_t i = 0; i < from.size;) {
        size_t n = utf8_size(from.at + i, from.size - i);
        char escape[8];
        if (n) put(&shown, from.at + i, n);
        else { snprintf(escape, sizeof escape, "\\x%02x", from.at[i]); text(&shown, escape); n = 1; }
        i += n;
    }
    size_t start = 0, end = shown.size;
    while (start < end && strchr("\r\n", shown.at[start])) start++; /* strchr finds NUL too */
    while (end > start && strchr("\r\n", shown.at[end - 1])) end--;
    while (start < end) {
        size_t stop = start, broken = 0;
        for (; stop < end && strchr("\r\n \t\v\f", shown.at[stop]); stop++) broken |= !!strchr("\r\n", shown.at[stop]);
        if (broken) put_byte(&folded, ' ');
        else put(&folded, shown.at + start, stop - start);
        if (stop < end) put_byte(&folded, shown.at[stop++]);
        start = stop;
    }
    free(shown.at);
    return folded;
}
static int heard_message(Session *s, char who) {
    char said[] = "Message.?";
    said[8] = (char)s->in.header[0];
    if (ignored(s, who) && !after(s->state, who, said)) return 1;
    if (!say(s, who, said)) return 0;
    Bytes line = one_line(s->in.payload);
    begin("Message");
    put_part("severity", (Part){s->in.header, 1});
    put_part("text", (Part){line.at, line.size});
    text(&out, "}");
    free(line.at);
    return 1;
}
static int heard(Session *s, char who) {
    char status = (char)s->in.header[0];
    put(&s->in.payload, "", 0);
    if (strchr("IWQEASNRPOV", status)) return heard_message(s, who);
    if (status == 'T') return ignored(s, who) && !after(s->state, who, "Terminate") ? 1 : simple(s, who, "Terminate", "Terminate", NULL);
    if (ignored(s, who)) { s->kind = NULL; return 1; }
    return status == 'C' ? heard_line(s, who) : status == 'F' ? heard_end(s, who) : heard_data(s, who);
}
static void stumble(Session *s) {
    s->lost = 1;
    s->kind = NULL;
    s->in.have = 0;
    give_up(s);
    if (same(s->state, "FAILED")) s->error = NULL;
}
static void receive(Session *s, Bytes data) {
    char who = s->role == 'b' ? 'p' : 'b';
    for (size_t i = 0; i < data.size && !s->lost; i++) {
        int right = 1;
        if (packet_byte(&s->in, data.at[i])) right = heard(s, who);
        else if (failed) { s->error = failed; s->error_at = failed_at; failed = NULL; right = 0; }
        if (!right) stumble(s);
    }
}
static void end_of_input(Session *s) {
    char who = s->role == 'b' ? 'p' : 'b';
    if (same(s->state, "FAILED")) s->error = NULL;
    if (s->error || same(s->state, "CLOSED")) return;
    if (!ignored(s, who) && (s->in.have || s->kind)) {
        s->error = "truncated";
        s->error_at = s->in.position;
        stumble(s);
        return;
    }
    s->state = "CLOSED";
    begin("EndOfInput");
    text(&out, "}");
}

/* --- what is said -------------------------------------------------------------------------------------- */

static void add_line(Session *s, Node *value, const char *before) {
    add_text(&s->lines, before, value, "\n");
}
static void add_fields(Session *s, Node *event, const char *prefix, const char *const *keys) {
    text(&s->lines, prefix);
    for (int i = 0; keys[i]; i++)
        if (get(event, keys[i])) add_text(&s->lines, i ? " " : "", get(event, keys[i]), "");
    text(&s->lines, "\n");
}
static void add_items(Session *s, Node *event, const char *prefix, const char *between) {
    for (Node *pair = get(event, "items")->first; pair; pair = pair->next) {
        Bytes key = bytes_of(pair->first);
        if (memchr(key.at, between[0], key.size)) refuse();
        free(key.at);
        add_text(&s->lines, prefix, pair->first, between);
        add_text(&s->lines, "", pair->first->next, "\n");
    }
}
static void write_lines(Session *s, const char *name, Node *event) {
    static const char *const stat[] = {"type", "size", "uid", "gid", "mode", "nlink", "file_index", NULL};
    static const char *const times[] = {"atime", "mtime", "ctime", NULL};
    s->lines.size = 0;
    put(&s->lines, "", 0);
    Bytes api = bytes_of(get(event, "api"));
    if (memchr(api.at, ' ', api.size)) refuse();
    free(api.at);
    if (same(name, "PluginHello")) { add_text(&s->lines, "Hello ", get(event, "plugin"), " "); add_line(s, get(event, "api"), ""); }
    if (same(name, "BackendHello")) text(&s->lines, "Hello Bacula\n");
    if (same(name, "Start")) add_line(s, get(event, "phase"), "");
    if (same(name, "Reply")) add_line(s, get(event, "answer"), "");
    if (same(name, "DataStart")) text(&s->lines, "DATA\n");
    if (same(name, "Finish")) text(&s->lines, "FINISH\n");
    if (same(name, "End")) text(&s->lines, "END\n");
    if (same(name, "QueryRow")) add_line(s, get(event, "text"), "");
    if (same(name, "Job")) { text(&s->lines, "Job\n"); add_items(s, event, "", "="); }
    if (same(name, "Parameters")) { text(&s->lines, "Params\n"); add_items(s, event, "", "="); }
    if (same(name, "PluginObject")) { add_line(s, get(event, "path"), "PLUGINOBJ:"); add_items(s, event, "PLUGINOBJ_", ":"); }
    if (same(name, "RestoreObject")) { add_line(s, get(event, "name"), "RESTOREOBJ:"); add_line(s, get(event, "length"), "RESTOREOBJ_LEN:"); }
    if (!same(name, "File")) return;
    add_line(s, get(event, "name"), "FNAME:");
    add_fields(s, event, "STAT:", stat);
    add_fields(s, event, "TSTAMP:", times);
    if (get(event, "link")) add_line(s, get(event, "link"), "LSTAT:");
}
static int add_lines(Session *s, const char *name, Bytes *wire) {
    size_t lines = 0, mark = out.size;
    for (Part rest = {s->lines.at, s->lines.size}; rest.size; lines++) {
        Part line = next_line(&rest);
        if (!line_is_sound(line, s->role) || !add_packet(wire, 'C', line.at, line.size + 1)) return 0;
    }
    if (one_of(name, "PluginHello Job Parameters File RestoreObject PluginObject")) {
        int right = read_event(s, name, s->lines);
        out.size = mark;
        if (!right || (same(name, "PluginHello") && lines != 1)) return 0;
    } else if (lines > 1) return 0;
    return !one_of(name, "Job Parameters File PluginObject") || add_packet(wire, 'F', (const u8 *)"", 0);
}
static int say_data(Session *s, Node *event, Bytes *wire) {
    Bytes data = from_hex(get(event, "data"));
    int right = add_packet(wire, 'D', data.at, data.size) && (data.size || s->role == 'p')
                && !(s->in_object && data.size > s->object_left);
    if (right && s->in_object && after(s->state, s->role, "Data")) s->object_left -= data.size;
    free(data.at);
    return right;
}
static int say_message(Node *event, Bytes *wire) {
    Bytes given = bytes_of(get(event, "text")), line = one_line(given);
    if (line.size > 999998) line.size = 999998;
    put_byte(&line, '\n');
    int right = add_packet(wire, (char)get(event, "severity")->value.at[0], line.at, line.size);
    free(given.at); free(line.at);
    return right;
}
static int speak(Session *s, Node *event, Bytes *wire) {
    const char *name = (char *)get(event, "event")->value.at, *said = name;
    char message[] = "Message.?";
    if (same(name, "Start")) said = (char *)get(event, "phase")->value.at;
    if (same(name, "Reply")) said = (char *)get(event, "answer")->value.at;
    if (same(name, "Message")) { message[8] = (char)get(event, "severity")->value.at[0]; said = message; }
    if (s->role == 'b' && one_of(said, "Message.E Terminate")) return 0;
    const char *next = after(s->state, s->role, said);
    if (!next) return 0;
    if (same(name, "DataEnd") && s->in_object && s->object_left) return 0;
    if (same(name, "Data")) { if (!say_data(s, event, wire)) return 0; }
    else if (same(name, "Message")) { if (!say_message(event, wire)) return 0; }
    else if (one_of(name, "Ack DataEnd NoMoreFiles")) add_packet(wire, 'F', (const u8 *)"", 0);
    else if (same(name, "Terminate")) add_packet(wire, 'T', (const u8 *)"", 0);
    else {
        write_lines(s, name, event);
        if (failed || !add_lines(s, name, wire)) return 0;
    }
    if (same(name, "RestoreObject")) s->in_object = 1;
    if (same(name, "DataEnd")) s->in_object = 0;
    s->state = next;
    return 1;
}
static void step(Session *s, Node *each) {
    Bytes wire = {0};
    put(&wire, "", 0);
    if (get(each, "send")) {
        int right = speak(s, get(each, "send"), &wire);
        failed = NULL;
        if (!right) give_up(s);
        text(&out, right ? "{\"bytes\":\"" : "{\"refused\":true");
        if (right) { put_hex(&out, wire.at, wire.size); text(&out, "\""); }
    } else {
        Bytes data = from_hex(get(each, "receive"));
        text(&out, "{\"events\":[");
        if (same(s->state, "FAILED")) s->error = NULL;
        if (get(each, "end")) end_of_input(s);
        else receive(s, data);
        text(&out, "]");
        if (s->error) {
            char at[64];
            snprintf(at, sizeof at, "\",\"offset\":%llu", (unsigned long long)s->error_at);
            text(&out, ",\"error\":\""); text(&out, s->error); text(&out, at);
        }
        free(data.at);
    }
    text(&out, "}");
    free(wire.at);
}
static void session(Node *request) {
    Session s = {0};
    s.role = is(get(request, "role"), "backend") ? 'b' : 'p';
    s.state = "CONNECTED";
    put(&s.lines, "", 0);
    text(&out, "[");
    for (Node *each = get(request, "steps")->first; each; each = each->next) {
        step(&s, each);
        if (each->next) text(&out, ",");
    }
    text(&out, "]");
    free(s.in.payload.at); free(s.lines.at);
}
