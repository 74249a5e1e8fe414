/* The conversation of libs/ptcomm/docs/format.md. Included by testee.c, which has the packets. */

static const struct { const char *state, *plugin, *backend; } STATES[] = { /* said>state after it */
    {"CONNECTED", "PluginHello>GREETING", ""},
    {"GREETING", "", "BackendHello>GREETED"},
    {"GREETED", "Job>JOB_TOLD", ""},
    {"JOB_TOLD", "", "Ack>JOB_KNOWN"},
    {"JOB_KNOWN", "Parameters>PARAMETERS_TOLD", ""},
    {"PARAMETERS_TOLD", "", "Ack>PREPARED"},
    {"PREPARED", "BackupStart>STARTING_BACKUP EstimateStart>STARTING_LISTING ListingStart>STARTING_LISTING "
                 "QueryStart>STARTING_QUERY RestoreStart>STARTING_RESTORE", ""},
    {"STARTING_BACKUP", "", "Ack>BACKUP"},
    {"STARTING_LISTING", "", "Ack>LISTING"},
    {"STARTING_QUERY", "", "Ack>QUERY"},
    {"STARTING_RESTORE", "", "Ack>RESTORE"},
    {"BACKUP", "End>GIVEN_UP", "File>BACKUP_FILE RestoreObject>BACKUP_OBJECT PluginObject>BACKUP NoMoreFiles>DONE"},
    {"BACKUP_FILE", "End>GIVEN_UP", "DataStart>BACKUP_DATA DataEnd>BACKUP"},
    {"BACKUP_DATA", "End>GIVEN_UP", "Data>BACKUP_DATA DataEnd>BACKUP"},
    {"BACKUP_OBJECT", "End>GIVEN_UP", "Data>BACKUP_OBJECT DataEnd>BACKUP"},
    {"LISTING", "End>GIVEN_UP", "File>LISTING NoMoreFiles>DONE"},
    {"QUERY", "Terminate>TERMINATED", "QueryRow>QUERY Data>QUERY NoMoreFiles>QUERY_DONE"},
    {"QUERY_DONE", "Terminate>TERMINATED", ""},
    {"DONE", "End>ENDING", ""},
    {"RESTORE", "RestoreObject>RESTORE_OBJECT File>RESTORE_OFFERED Finish>FINISHING End>ENDING", ""},
    {"RESTORE_OBJECT", "Data>RESTORE_OBJECT DataEnd>RESTORE_SENT", "E>RESTORE_DATA_FAILED"},
    {"RESTORE_OFFERED", "", "OK>RESTORE_FILE SKIP>RESTORE CORE>RESTORE E>RESTORE"},
    {"RESTORE_FILE", "DataStart>RESTORE_DATA RestoreObject>RESTORE_OBJECT File>RESTORE_OFFERED Finish>FINISHING "
                     "End>ENDING", ""},
    {"RESTORE_DATA", "Data>RESTORE_DATA DataEnd>RESTORE_SENT", "E>RESTORE_DATA_FAILED"},
    {"RESTORE_DATA_FAILED", "Data>RESTORE_DATA_FAILED DataEnd>RESTORE", ""},
    {"RESTORE_SENT", "", "OK>RESTORE E>RESTORE"},
    {"FINISHING", "", "Ack>FINISHED"},
    {"FINISHED", "End>ENDING", ""},
    {"ENDING", "Terminate>TERMINATED", "Ack>ENDED"},
    {"ENDED", "Terminate>TERMINATED", ""},
    {"GIVEN_UP", "Terminate>TERMINATED", "Ack>ENDED"},
    {"FAILED", "Finish>FAILED_ASKED End>FAILED_ASKED Terminate>TERMINATED", ""},
    {"FAILED_ASKED", "Terminate>TERMINATED", "Ack>FAILED"},
    {"BROKEN", "Terminate>TERMINATED", ""},
};
static const struct { const char *line, *event, *key; } WORDS[] = { /* with a key the line is its value */
    {"Hello Bacula", "BackendHello", NULL}, {"DATA", "DataStart", NULL},
    {"FINISH", "Finish", NULL},             {"END", "End", NULL},
    {"BackupStart", "Start", "phase"},      {"EstimateStart", "Start", "phase"},
    {"ListingStart", "Start", "phase"},     {"QueryStart", "Start", "phase"},
    {"RestoreStart", "Start", "phase"},     {"OK", "Reply", "answer"},
    {"SKIP", "Reply", "answer"},            {"CORE", "Reply", "answer"},
};
/* What an event of several lines consists of; ? may be missing; then items: prefix, key, mark, value. */
typedef struct { const char *name, *lines[5], *prefix, *mark, *keys; int by_f, count; } Kind;
static const Kind KINDS[] = {
    {"PluginHello", {"Hello |plugin api"}, NULL, NULL, NULL, 0, 1},
    {"Job", {"Job"}, "", "=", "Name JobID Type Level Since Where RegexWhere Replace Namespace PrevJobName WorkingDir "
                              "SysconfigPath ExePath", 1, 0},
    {"Parameters", {"Params"}, "", "=", "", 1, 0},
    {"File", {"FNAME:|name", "STAT:|type size uid gid mode nlink ?file_index", "TSTAMP:|atime mtime ctime",
              "?LSTAT:|link"}, NULL, NULL, NULL, 1, 0},
    {"RestoreObject", {"RESTOREOBJ:|name", "RESTOREOBJ_LEN:|length"}, NULL, NULL, NULL, 0, 2},
    {"PluginObject", {"PLUGINOBJ:|path"}, "PLUGINOBJ_", ":", "CAT TYPE NAME SRC UUID SIZE COUNT STATUS", 1, 0},
};
#define INT31 0x7fffffffULL
#define U32 0xffffffffULL
static const struct { const char *key, *words; int base; u64 low, high; } VALUES[] = { /* base 0: not empty */
    {"plugin", NULL, 0, 0, 0}, {"api", NULL, 0, 0, 0}, {"name", NULL, 0, 0, 0}, {"path", NULL, 0, 0, 0},
    {"type", "F E D S L", 0, 0, 0}, {"size", NULL, 10, 0, LARGEST}, {"mode", NULL, 8, 0, U32},
    {"uid", NULL, 10, INT31 + 1, U32}, {"gid", NULL, 10, INT31 + 1, U32}, {"nlink", NULL, 10, 0, INT31},
    {"file_index", NULL, 10, INT31 + 1, INT31}, {"atime", NULL, 10, LARGEST + 1, LARGEST},
    {"mtime", NULL, 10, LARGEST + 1, LARGEST}, {"ctime", NULL, 10, LARGEST + 1, LARGEST},
    {"length", NULL, 10, 0, INT31}, {"JobID", NULL, 10, 0, INT31}, {"Since", NULL, 10, LARGEST + 1, LARGEST},
    {"Type", "B E R", 0, 0, 0}, {"Level", "F I D", 0, 0, 0}, {"Replace", "a w n o", 0, 0, 0},
    {"SIZE", NULL, 10, 0, LARGEST}, {"COUNT", NULL, 10, 0, INT31}, {"STATUS", "OK WARNING ERROR FATAL", 0, 0, 0},
};
#define COUNT(table) (sizeof table / sizeof *table)

static struct {
    char me, peer, state[24]; /* p or b */
    const Kind *kind;         /* of the event whose lines are coming, or NULL */
    Packets in;
    Bytes lines; /* of that event, each ended by a newline */
    u64 packet_bytes, object_left, error_at;
    int in_object, deaf;
    const char *error;
} s;

/* --- what may be said ------------------------------------------------------------------------------- */

static const char *find(const char *list, Part word) { /* what follows it in a list with blanks between */
    for (const char *at = list; *at; at += strcspn(at, " "), at += *at == ' ') {
        size_t n = strcspn(at, " >");
        if (n && n == word.size && !memcmp(at, word.at, n)) return at + n;
    }
    return NULL;
}
static int state_is(const char *list) { return find(list, part(s.state)) != NULL; }
static const char *after(char who, const char *said) { /* NULL: it may not be said now */
    const char *next = NULL;
    for (size_t i = 0; i < COUNT(STATES) && !next; i++)
        if (same(STATES[i].state, s.state))
            next = find(who == 'p' ? STATES[i].plugin : STATES[i].backend, part(said));
    if (next) return next + 1;
    if (who == 'p' || said[1] || state_is("FAILED FAILED_ASKED TERMINATED")) return NULL;
    return *said == 'A' ? "FAILED" : s.state; /* a message, by its letter */
}
static void go(const char *next) {
    char state[sizeof s.state] = {0};
    memcpy(state, next, strcspn(next, " "));
    memcpy(s.state, state, sizeof state);
}
static int lost(void) { return state_is("FAILED FAILED_ASKED"); }
static int ignored(void) { return lost() || state_is("BROKEN") || (s.peer == 'b' && state_is("GIVEN_UP TERMINATED")); }
static void give_up(void) { if (!lost() && !state_is("TERMINATED CLOSED")) go("BROKEN"); }

/* --- lines to events: each writes its JSON and answers whether the lines are the event ---------------- */

static Part next_line(Part *rest) { Part line = {0}; until(rest, '\n', &line); return line; }
static int line_is_sound(Part line, char who) {
    if (has(line, '\n') || has(line, 0)) return 0;
    return who == 'p' || !line.size || !strchr(" \t\r\v\f", line.at[line.size - 1]);
}
/* A number from -low to high; not strict: in any form, and put into the shortest. */
static int is_number(Part *p, int base, u64 low, u64 high, int strict) {
    int minus = p->size && *p->at == '-';
    Part digits = {p->at + minus, p->size - (size_t)minus};
    if (!digits.size || digits.size > 20 || span(digits, base == 8 ? "01234567" : DIGITS) < digits.size) return 0;
    char *text = take(24);
    memcpy(text, digits.at, digits.size);
    if (digits.size == 20 && strcmp(text, "18446744073709551615") > 0) return 0;
    u64 value = strtoull(text, NULL, base);
    snprintf(text, 24, base == 8 ? "%s%06llo" : "%s%llu", minus && value ? "-" : "", (unsigned long long)value);
    if (value > (minus ? low : high) || (strict && !equals(*p, text))) return 0;
    *p = part(text);
    return 1;
}
static int fits(Part key, Part *value, int strict) {
    for (size_t i = 0; i < COUNT(VALUES); i++) {
        if (!equals(key, VALUES[i].key)) continue;
        if (VALUES[i].words) return find(VALUES[i].words, *value) != NULL;
        if (!VALUES[i].base) return value->size > 0;
        return is_number(value, VALUES[i].base, VALUES[i].low, VALUES[i].high, strict);
    }
    return 1;
}
static int read_fields(Part names, Part line) {
    Part key, value, rest;
    for (int more = 1; next_word(&names, &key); put_named(key, value)) {
        int may_lack = prefixed(&key, "?");
        if (!more) return may_lack;
        value = line;
        if (!names.size) more = 0; /* the last one is all that is left */
        else if (!equals(key, "plugin")) more = until(&line, ' ', &value);
        else if ((more = from_last(&value, ' ', &rest))) line = rest;
        if (!fits(key, &value, 1)) return 0;
    }
    return 1;
}
static int place(const char *list, Part word) { /* its number in the list, or -1 */
    const char *found = find(list, word);
    int n = 0;
    for (const char *at = list; found && at < found; at++) n += *at == ' ';
    return found ? n : -1;
}
static int next_item(const Kind *kind, Part *rest, Part *key, Part *value) {
    *value = next_line(rest);
    return prefixed(value, kind->prefix) && until(value, *kind->mark, key) && key->size;
}
static void put_item(Part key, Part value) {
    print(&out, out.at[out.size - 1] == '[' ? "[" : ",[");
    put_text(key); print(&out, ","); put_text(value);
    print(&out, "]");
}
static int read_items(const Kind *kind, Part lines) {
    Part known[13] = {{0}}, key, value, names = part(kind->keys);
    int is_job = same(kind->name, "Job"), last = -1;
    for (Part rest = lines; rest.size;) {
        if (!next_item(kind, &rest, &key, &value)) return 0;
        int n = place(kind->keys, key);
        if (same(kind->name, "PluginObject") && n <= last) return 0; /* in this order, and no others */
        if ((last = n) < 0) continue;
        if (known[n].at || !fits(key, &value, !is_job)) return 0;
        known[n] = value;
    }
    if (is_job && !(known[0].at && known[1].at && known[2].at)) return 0;
    print(&out, ",\"items\":[");
    for (int n = 0; next_word(&names, &key); n++)
        if (known[n].at || (is_job && n > 7)) put_item(key, known[n]);
    while (next_item(kind, &lines, &key, &value)) if (place(kind->keys, key) < 0) put_item(key, value);
    print(&out, "]");
    return 1;
}
static int read_event(const Kind *kind, Part rest) {
    for (int i = 0; kind->lines[i]; i++) {
        Part pattern = part(kind->lines[i]), prefix = pattern;
        if (prefixed(&pattern, "?") && !rest.size) break;
        if (!rest.size) return 0;
        Part line = next_line(&rest);
        if (!until(&pattern, '|', &prefix)) continue; /* a word, which was looked at */
        if (!starts(line, prefix)) return 0;
        line = (Part){line.at + prefix.size, line.size - prefix.size};
        if (!read_fields(pattern, line)) return 0;
    }
    return kind->keys ? read_items(kind, rest) : !rest.size;
}

/* --- what is heard --------------------------------------------------------------------------------------- */

static int wrong(const char *code) { s.error = code; s.error_at = s.in.start; return 0; }
static void begin(const char *name) {
    print(&out, "%s{\"event\":\"%s\"", out.at[out.size - 1] == '[' ? "" : ",", name);
}
static int hear(const char *event, const char *said, const char *key, Part value) { /* key: or NULL */
    const char *next = after(s.peer, said);
    if (!next) return wrong("out-of-order");
    go(next);
    begin(event);
    if (key) put_part(key, value);
    print(&out, "}");
    return 1;
}
static int hear_bare(const char *event) { return hear(event, event, NULL, part("")); }
static int end_lines(void) {
    const Kind *kind = s.kind;
    size_t mark = out.size;
    s.kind = NULL;
    begin(kind->name);
    if (!read_event(kind, all(s.lines))) { out.size = mark; return wrong("bad-command"); }
    print(&out, "}");
    if (same(kind->name, "RestoreObject")) {
        s.in_object = 1;
        s.object_left = strtoull(strstr((char *)s.lines.at, "_LEN:") + 5, NULL, 10);
    }
    go(after(s.peer, kind->name));
    return 1;
}
static const Kind *opened_by(Part line) {
    for (size_t i = 0; i < COUNT(KINDS); i++) {
        Part head = part(KINDS[i].lines[0]), prefix;
        if (until(&head, '|', &prefix) ? starts(line, prefix) : equals(line, KINDS[i].lines[0])) return &KINDS[i];
    }
    return NULL;
}
static int hear_word(Part line) { /* -1: it is none */
    for (size_t i = 0; i < COUNT(WORDS); i++) {
        const char *said = WORDS[i].key ? WORDS[i].line : WORDS[i].event;
        if (equals(line, WORDS[i].line)) return hear(WORDS[i].event, said, WORDS[i].key, line);
    }
    return -1;
}
static int hear_line(void) {
    Part line = all(s.in.payload);
    if (!suffixed(&line, "\n") || !line_is_sound(line, s.peer)) return wrong("bad-command");
    if (!s.kind) {
        if (after(s.peer, "QueryRow")) return hear("QueryRow", "QueryRow", "text", line);
        int done = hear_word(line);
        if (done >= 0) return done;
        if (!(s.kind = opened_by(line))) return wrong("bad-command");
        if (!after(s.peer, s.kind->name)) return wrong("out-of-order");
        s.lines.size = s.packet_bytes = 0;
    }
    put(&s.lines, s.in.payload.at, s.in.payload.size);
    s.packet_bytes += 8 + s.in.payload.size;
    if (s.packet_bytes > 1048576) return wrong("oversized");
    int lines = 0;
    for (size_t i = 0; s.kind->count && i < s.lines.size; i++) lines += s.lines.at[i] == '\n';
    return s.kind->count && lines == s.kind->count ? end_lines() : 1;
}
static int hear_data(void) {
    u64 size = s.in.payload.size;
    const char *next = after(s.peer, "Data");
    if (s.kind || !next) return wrong("out-of-order");
    if (!size && s.peer == 'b') return wrong("empty-data");
    if (s.in_object && size > s.object_left) return wrong("object-length");
    if (s.in_object) s.object_left -= size;
    go(next);
    begin("Data");
    print(&out, ",\"data\":");
    put_quoted_hex(all(s.in.payload));
    print(&out, "}");
    return 1;
}
static int hear_end(void) {
    if (s.kind) return end_lines();
    if (after(s.peer, "Ack")) return hear_bare("Ack");
    if (!after(s.peer, "DataEnd")) return hear_bare("NoMoreFiles");
    if (s.in_object && s.object_left) return wrong("object-length");
    s.in_object = 0;
    return hear_bare("DataEnd");
}
static int hear_call(void) { /* after a fatal message: what wants an answer, and the answer */
    Part line = all(s.in.payload);
    if (!lost()) return 1;
    if (s.in.header[0] == 'F' && after(s.peer, "Ack")) return hear_bare("Ack");
    if (s.in.header[0] != 'C' || !suffixed(&line, "\n")) return 1;
    if (equals(line, "FINISH") && after(s.peer, "Finish")) return hear_bare("Finish");
    return equals(line, "END") && after(s.peer, "End") ? hear_bare("End") : 1;
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
static int breaks(u8 c) { return c == '\r' || c == '\n' || !c; }
static Bytes one_line(Part from) {
    Bytes shown = {0}, folded = {0};
    for (size_t i = 0, n; i < from.size; i += n ? n : 1)
        if ((n = utf8_size(from.at + i, from.size - i))) put(&shown, from.at + i, n);
        else print(&shown, "\\x%02x", from.at[i]);
    size_t at = 0, end = shown.size, stop;
    while (at < end && breaks(shown.at[at])) at++;
    while (end > at && breaks(shown.at[end - 1])) end--;
    for (; at < end; at = stop) { /* a run of white space is one blank if a line breaks in it */
        int broken = 0;
        for (stop = at; stop < end && strchr("\r\n \t\v\f", shown.at[stop]); stop++) broken |= breaks(shown.at[stop]);
        if (broken) put(&folded, " ", 1);
        else put(&folded, shown.at + at, (stop += stop == at) - at);
    }
    return folded;
}
static int hear_message(void) {
    const char said[] = {(char)s.in.header[0], 0};
    if (ignored() && !after(s.peer, said)) return 1;
    if (!after(s.peer, said)) return wrong("out-of-order");
    go(after(s.peer, said));
    begin("Message");
    put_part("severity", part(said));
    put_part("text", all(one_line(all(s.in.payload))));
    print(&out, "}");
    return 1;
}
static int heard(void) { /* a packet; 0: it is wrong */
    char status = (char)s.in.header[0];
    if (ignored()) s.kind = NULL;
    if (!strchr("CDFT", status)) return hear_message();
    if (status == 'T') return ignored() && !after(s.peer, "Terminate") ? 1 : hear_bare("Terminate");
    if (ignored()) return hear_call();
    return status == 'C' ? hear_line() : status == 'F' ? hear_end() : hear_data();
}
static void stumble(void) {
    s.deaf = 1;
    s.kind = NULL;
    s.in.have = 0;
    give_up();
    if (lost()) s.error = NULL;
}
static void receive(Bytes data) {
    for (size_t i = 0; i < data.size && !s.deaf; i++) {
        int right = !packet_byte(&s.in, data.at[i]) || heard();
        if (failed) { s.error = failed; s.error_at = failed_at; failed = NULL; right = 0; }
        if (!right) stumble();
    }
}
static void end_of_input(void) {
    if (s.error || state_is("CLOSED")) return;
    if (!ignored() && (s.in.have || s.kind)) {
        wrong("truncated");
        s.error_at = s.in.position;
        stumble();
        return;
    }
    go("CLOSED");
    begin("EndOfInput");
    print(&out, "}");
}

/* --- what is said ------------------------------------------------------------------------------------------ */

static void write_lines(const Kind *kind, Node *event, Bytes *to) {
    for (int i = 0; kind->lines[i]; i++) {
        Part names = part(kind->lines[i]), prefix = names, key;
        if (prefixed(&names, "?") && !get(event, "link")) continue;
        if (!until(&names, '|', &prefix)) { prefix = names; names.size = 0; }
        put(to, prefix.at, prefix.size);
        for (const char *before = ""; next_word(&names, &key); before = " ") {
            int may_lack = prefixed(&key, "?");
            char name[16] = {0};
            memcpy(name, key.at, key.size);
            if (!may_lack || get(event, name)) add_text(to, before, get(event, name), "");
        }
        print(to, "\n");
    }
    for (Node *item = kind->keys ? get(event, "items")->first : NULL; item; item = item->next) {
        if (has(bytes_of(item->first), (u8)*kind->mark)) refuse();
        add_text(to, kind->prefix, item->first, kind->mark);
        add_text(to, "", item->first->next, "\n");
    }
}
static int add_lines(Part rest, Bytes *wire) {
    while (rest.size) {
        Part line = next_line(&rest);
        if (!line_is_sound(line, s.me) || !add_packet(wire, 'C', (Part){line.at, line.size + 1})) return 0;
    }
    return 1;
}
static int say_lines(const Kind *kind, Node *event, Bytes *wire) {
    Bytes lines = {0};
    size_t mark = out.size;
    write_lines(kind, event, &lines);
    if (has(bytes_of(get(event, "api")), ' ') || failed || !add_lines(all(lines), wire)) return 0;
    int right = read_event(kind, all(lines)); /* as the other end will */
    out.size = mark;
    if (right && same(kind->name, "RestoreObject")) {
        s.in_object = 1;
        s.object_left = strtoull(text_of(event, "length"), NULL, 10);
    }
    return right && (!kind->by_f || add_packet(wire, 'F', part("")));
}
static int say_data(Bytes data, Bytes *wire) {
    if ((!data.size && s.me == 'b') || (s.in_object && data.size > s.object_left)) return 0;
    if (s.in_object) s.object_left -= data.size;
    return add_packet(wire, 'D', all(data));
}
static int say_message(Node *event, Bytes *wire) {
    Bytes line = one_line(bytes_of(get(event, "text")));
    if (line.size > 999998) line.size = 999998;
    put(&line, "\n", 1);
    return add_packet(wire, *text_of(event, "severity"), all(line));
}
static int write_event(const char *name, const char *said, Node *event, Bytes *wire) {
    if (same(name, "Data")) return say_data(from_hex(get(event, "data")), wire);
    if (same(name, "Message")) return say_message(event, wire);
    if (same(name, "Terminate")) return add_packet(wire, 'T', part(""));
    if (find("Ack DataEnd NoMoreFiles", part(name))) return add_packet(wire, 'F', part(""));
    for (size_t i = 0; i < COUNT(KINDS); i++) if (same(KINDS[i].name, name)) return say_lines(&KINDS[i], event, wire);
    Bytes line = {0};
    if (same(name, "QueryRow")) add_text(&line, "", get(event, "text"), "\n");
    for (size_t i = 0; i < COUNT(WORDS); i++)
        if (same(said, WORDS[i].key ? WORDS[i].line : WORDS[i].event)) print(&line, "%s\n", WORDS[i].line);
    return !failed && add_lines(all(line), wire);
}
static int speak(Node *event, Bytes *wire) {
    static const char *const deciding[] = {"phase", "answer", "severity"};
    const char *name = text_of(event, "event"), *said = name;
    for (int i = 0; i < 3; i++) if (get(event, deciding[i])) said = text_of(event, deciding[i]);
    if (s.me == 'b' && find("E Terminate", part(said))) return 0; /* what bacula-fd misunderstands */
    const char *next = after(s.me, said);
    int ends = same(name, "DataEnd");
    if (!next || (ends && s.in_object && s.object_left) || !write_event(name, said, event, wire)) return 0;
    if (ends) s.in_object = 0;
    go(next);
    return 1;
}
static void step(Node *each) {
    Bytes wire = {0};
    if (get(each, "send")) {
        int right = speak(get(each, "send"), &wire);
        failed = NULL;
        if (!right) give_up();
        print(&out, right ? "{\"bytes\":" : "{\"refused\":true");
        if (right) put_quoted_hex(all(wire));
    } else {
        print(&out, "{\"events\":[");
        if (lost()) s.error = NULL;
        if (get(each, "end")) end_of_input();
        else receive(from_hex(get(each, "receive")));
        print(&out, "]");
        if (s.error) print(&out, ",\"error\":\"%s\",\"offset\":%llu", s.error, (unsigned long long)s.error_at);
    }
    print(&out, "}");
}
static void session(Node *request) {
    memset(&s, 0, sizeof s);
    s.me = *text_of(request, "role");
    s.peer = s.me == 'b' ? 'p' : 'b';
    go("CONNECTED");
    print(&out, "[");
    for (Node *each = get(request, "steps")->first; each; each = each->next) {
        step(each);
        if (each->next) print(&out, ",");
    }
    print(&out, "]");
}
