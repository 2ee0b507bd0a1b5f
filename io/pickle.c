/* One function per opcode or family of opcodes, and a table that leads to it; see pickle.h. */
#include "io/pickle.h"
#include "io/os.h"
#include "io/utf8.h"
#include "io/zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef ck_pickle_node node;

typedef struct memo_slot {
    uint64_t key;
    node *value; /* NULL: free */
} memo_slot;

typedef struct machine {
    ck_pickle_input *in;
    const ck_pickle_rules *rules;
    ck_pickle *pickle;
    ck_error *err;
    const char *opcode; /* the one at work */
    uint64_t opcode_at, start, skipped;
    uint64_t frame_end; /* offset; 0: no frame yet */
    node **stack;
    size_t depth, capacity;
    size_t *marks; /* depths of the stack */
    size_t mark_count, mark_capacity;
    memo_slot
        *memo; /* open addressing; slots are a power of two. Keys are the attacker's choice. */
    size_t memo_count, memo_slots;
    char *line; /* of a text opcode, CK_PICKLE_MAX_TEXT + 1 bytes; allocated when first needed */
    bool stopped;
} machine;

/* Values that need no node of their own. They are never written to. */
static node none = {.kind = CK_PICKLE_NONE};
static node no = {.kind = CK_PICKLE_BOOL};
static node yes = {.kind = CK_PICKLE_BOOL, .integer = 1};
static node empty_tuple = {.kind = CK_PICKLE_TUPLE};
static node other = {.kind = CK_PICKLE_OTHER};

static ck_status fail(machine *m, const char *what) {
    return ck_fail(m->err, CK_INPUT, "%s: pickle opcode %s at offset %" PRIu64 ": %s", m->in->name,
                   m->opcode, m->opcode_at, what);
}

static ck_status no_memory(machine *m) {
    return ck_fail_memory(m->err, m->in->name);
}

/* ---- Input ---- */

ck_status ck_pickle_read_range(void *context, void *dst, size_t n, size_t *got, ck_error *err) {
    ck_pickle_range *range = context;
    if (n > range->end - range->at) n = (size_t)(range->end - range->at);
    CK_TRY(ck_pread_all(range->fd, dst, n, range->at, range->path, err));
    range->at += n;
    *got = n;
    return CK_OK;
}

ck_status ck_pickle_read_zip(void *context, void *dst, size_t n, size_t *got, ck_error *err) {
    return ck_zip_stream_read(context, dst, n, got, err);
}

static ck_status fill(ck_pickle_input *in, ck_error *err) {
    if (in->at < in->filled) return CK_OK;
    in->at = in->filled = 0;
    return in->read(in->context, in->buffer, sizeof in->buffer, &in->filled, err);
}

ck_status ck_pickle_input_more(ck_pickle_input *in, bool *more, ck_error *err) {
    CK_TRY(fill(in, err));
    *more = in->at < in->filled;
    return CK_OK;
}

/* Takes n bytes; dst NULL drops them. */
static ck_status take(machine *m, void *dst, uint64_t n) {
    ck_pickle_input *in = m->in;
    while (n > 0) {
        CK_TRY(fill(in, m->err));
        if (in->at == in->filled)
            return ck_fail(m->err, CK_INPUT,
                           "%s: pickle opcode %s at offset %" PRIu64
                           ": the pickle ends at offset %" PRIu64 ", %" PRIu64 " bytes too early",
                           in->name, m->opcode, m->opcode_at, in->offset, n);
        size_t some = in->filled - in->at;
        if (some > n) some = (size_t)n;
        if (dst) {
            memcpy(dst, in->buffer + in->at, some);
            dst = (char *)dst + some;
        }
        in->at += some;
        in->offset += some;
        n -= some;
    }
    return CK_OK;
}

static ck_status take_little(machine *m, unsigned bytes, uint64_t *value) {
    unsigned char raw[8];
    CK_TRY(take(m, raw, bytes));
    *value = 0;
    for (unsigned i = bytes; i > 0; i--) *value = *value << 8 | raw[i - 1];
    return CK_OK;
}

static ck_status skip(machine *m, uint64_t n) {
    m->skipped += n;
    return take(m, NULL, n);
}

/* The rest of the line to m->line, without its newline, NUL-terminated. */
static ck_status take_line(machine *m, size_t *length) {
    if (!m->line && !(m->line = ck_alloc(CK_PICKLE_MAX_TEXT + 1))) return no_memory(m);
    for (size_t n = 0; n <= CK_PICKLE_MAX_TEXT; n++) {
        CK_TRY(take(m, m->line + n, 1));
        if (m->line[n] != '\n') continue;
        m->line[n] = 0;
        *length = n;
        return CK_OK;
    }
    return fail(m, "a line of more than 64 KiB");
}

/* ---- Nodes and the stack ---- */

static node *new_node(machine *m, ck_pickle_kind kind) {
    node *made = ck_arena_alloc(&m->pickle->arena, sizeof *made);
    if (!made) return NULL;
    made->kind = kind;
    made->offset = m->opcode_at;
    return made;
}

static ck_status push(machine *m, node *value) {
    if (!value) return no_memory(m);
    node **stack = ck_grow(m->stack, m->depth, &m->capacity, sizeof *stack);
    if (!stack) return no_memory(m);
    m->stack = stack;
    stack[m->depth++] = value;
    return CK_OK;
}

/* How many values lie above the last mark: Python takes none from below. */
static size_t available(const machine *m) {
    return m->depth - (m->mark_count ? m->marks[m->mark_count - 1] : 0);
}

static ck_status need(machine *m, size_t n) {
    return available(m) >= n ? CK_OK : fail(m, "not enough values on the stack");
}

static node *pop(machine *m) {
    return m->stack[--m->depth];
}

static node *top(const machine *m) {
    return m->stack[m->depth - 1];
}

/* Removes the last mark; what lay above it is then values[0..*count), valid until the next push. */
static ck_status pop_mark(machine *m, node ***values, size_t *count) {
    if (m->mark_count == 0) return fail(m, "no mark on the stack");
    size_t base = m->marks[--m->mark_count];
    *values = m->stack ? m->stack + base : NULL;
    *count = m->depth - base;
    m->depth = base;
    return CK_OK;
}

/* Adds values at the end of a node's items; room grows by doubling. */
static ck_status append(machine *m, node *to, node *const *values, size_t n) {
    if (n > to->capacity - to->count) {
        size_t capacity = to->capacity ? to->capacity : 4;
        while (capacity - to->count < n) capacity *= 2;
        node **items = ck_arena_alloc(&m->pickle->arena, capacity * sizeof *items);
        if (!items) return no_memory(m);
        if (to->count) memcpy(items, to->items, to->count * sizeof *items);
        to->items = items;
        to->capacity = (uint32_t)capacity;
    }
    if (n) memcpy(to->items + to->count, values, n * sizeof *values);
    to->count += (uint32_t)n;
    return CK_OK;
}

/* A node with exactly these items, or NULL. */
static node *new_items(machine *m, ck_pickle_kind kind, node *const *values, size_t n) {
    node *made = new_node(m, kind);
    if (!made) return NULL;
    made->items = ck_arena_alloc(&m->pickle->arena, n * sizeof *values);
    if (!made->items) return NULL;
    if (n) memcpy(made->items, values, n * sizeof *values);
    made->count = made->capacity = (uint32_t)n;
    return made;
}

static ck_status push_text(machine *m, const char *text, size_t n) {
    node *made = new_node(m, CK_PICKLE_TEXT);
    if (!made) return no_memory(m);
    made->text = ck_arena_strndup(&m->pickle->arena, text, n);
    made->count = (uint32_t)n;
    return made->text ? push(m, made) : no_memory(m);
}

static ck_status push_int(machine *m, int64_t value) {
    node *made = new_node(m, CK_PICKLE_INT);
    if (made) made->integer = value;
    return push(m, made);
}

/* ---- The memo ---- */

static memo_slot *memo_find(const machine *m, uint64_t key) {
    uint64_t hash = key * UINT64_C(0x9E3779B97F4A7C15);
    size_t mask = m->memo_slots - 1, at = (size_t)(hash ^ hash >> 32) & mask;
    while (m->memo[at].value && m->memo[at].key != key) at = (at + 1) & mask;
    return &m->memo[at];
}

static ck_status memo_grow(machine *m) {
    memo_slot *old = m->memo;
    size_t old_slots = m->memo_slots;
    memo_slot *fresh = ck_alloc_array(old_slots ? old_slots * 2 : 64, sizeof *fresh);
    if (!fresh) return no_memory(m);
    m->memo = fresh;
    m->memo_slots = old_slots ? old_slots * 2 : 64;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].value) *memo_find(m, old[i].key) = old[i];
    free(old);
    return CK_OK;
}

static ck_status memo_put(machine *m, uint64_t key) {
    CK_TRY(need(m, 1));
    if (m->memo_count >= m->memo_slots / 4 * 3) CK_TRY(memo_grow(m));
    memo_slot *slot = memo_find(m, key);
    if (!slot->value) m->memo_count++;
    *slot = (memo_slot){key, top(m)};
    return CK_OK;
}

static ck_status memo_get(machine *m, uint64_t key) {
    node *value = m->memo_slots ? memo_find(m, key)->value : NULL;
    return value ? push(m, value) : fail(m, "nothing was stored under this number");
}

/* A memo number in text form, as Python takes it: what comes before a NUL, with spaces around,
 * underscores and a sign; -0 is 0. */
static ck_status line_index(machine *m, uint64_t *index) {
    size_t n;
    CK_TRY(take_line(m, &n));
    n = strlen(m->line);
    const char *p = m->line, *spaces = " \t\r\f\v";
    while (n > 0 && p[n - 1] && strchr(spaces, p[n - 1])) n--;
    while (n > 0 && *p && strchr(spaces, *p)) p++, n--;
    bool minus = n > 0 && *p == '-';
    if (n > 0 && (*p == '+' || minus)) p++, n--;
    *index = 0;
    bool good = n > 0 && p[n - 1] != '_';
    for (size_t i = 0; i < n && good; i++) {
        if (p[i] == '_' && i > 0 && p[i - 1] != '_') continue;
        good = p[i] >= '0' && p[i] <= '9' && !__builtin_mul_overflow(*index, 10, index) &&
               !__builtin_add_overflow(*index, (uint64_t)(p[i] - '0'), index);
    }
    return good && !(minus && *index) ? CK_OK : fail(m, "not a memo number");
}

/* ---- Opcodes; argument is what the table gives for them ---- */

static ck_status op_proto(machine *m, int argument) {
    uint64_t version;
    (void)argument;
    CK_TRY(take_little(m, 1, &version));
    return version <= 5 ? CK_OK : fail(m, "a protocol newer than 5");
}

/* Python reads a frame ahead, and forgets what is left of it when an opcode goes beyond its end or
 * another frame begins: then it sees other names than those that are written here. */
static ck_status beyond_frame(machine *m) {
    ck_pickle_import i = {NULL, NULL, m->opcode, m->opcode_at};
    if (m->rules->import && !m->rules->strict)
        CK_TRY(m->rules->import(m->rules->context, &i, m->err));
    return fail(m, "it reaches beyond the end of its frame");
}

static ck_status op_frame(machine *m, int bytes) {
    uint64_t n;
    CK_TRY(take_little(m, (unsigned)bytes, &n));
    if (m->opcode_at < m->frame_end) return beyond_frame(m);
    if (__builtin_add_overflow(m->in->offset, n, &m->frame_end)) m->frame_end = UINT64_MAX;
    return CK_OK;
}

static ck_status op_stop(machine *m, int argument) {
    (void)argument;
    CK_TRY(need(m, 1));
    m->pickle->root = pop(m);
    m->stopped = true;
    return CK_OK;
}

static ck_status op_mark(machine *m, int argument) {
    (void)argument;
    size_t *marks = ck_grow(m->marks, m->mark_count, &m->mark_capacity, sizeof *marks);
    if (!marks) return no_memory(m);
    m->marks = marks;
    marks[m->mark_count++] = m->depth;
    return CK_OK;
}

static ck_status op_pop(machine *m, int argument) {
    (void)argument;
    if (available(m) == 0 && m->mark_count) {
        m->mark_count--;
        return CK_OK;
    }
    CK_TRY(need(m, 1));
    pop(m);
    return CK_OK;
}

static ck_status op_pop_mark(machine *m, int argument) {
    node **values = NULL;
    size_t n = 0;
    (void)argument;
    return pop_mark(m, &values, &n);
}

static ck_status op_dup(machine *m, int argument) {
    (void)argument;
    CK_TRY(need(m, 1));
    return push(m, top(m));
}

enum { IS_NONE, IS_FALSE, IS_TRUE, IS_EMPTY_TUPLE, IS_OTHER };

static ck_status op_constant(machine *m, int argument) {
    static node *const values[] = {&none, &no, &yes, &empty_tuple, &other};
    return push(m, values[argument]);
}

/* An unsigned (or, of four bytes, signed) number of so many bytes. */
static ck_status op_int(machine *m, int bytes) {
    uint64_t value;
    CK_TRY(take_little(m, (unsigned)bytes, &value));
    return push_int(m, bytes == 4 ? (int32_t)(uint32_t)value : (int64_t)value);
}

/* A length of so many bytes, then a two's complement number. */
static ck_status op_long(machine *m, int bytes) {
    uint64_t n, value;
    CK_TRY(take_little(m, (unsigned)bytes, &n));
    if (n > 8) {
        CK_TRY(skip(m, n));
        return push(m, &other);
    }
    CK_TRY(take_little(m, (unsigned)n, &value));
    if (n > 0 && n < 8 && value >> (8 * n - 1)) value |= UINT64_MAX << (8 * n);
    return push_int(m, (int64_t)value);
}

/* Eight bytes that are a float. */
static ck_status op_float(machine *m, int bytes) {
    CK_TRY(take(m, NULL, (uint64_t)bytes));
    return push(m, &other);
}

/* A length of so many bytes, then text. */
static ck_status op_text(machine *m, int bytes) {
    uint64_t n;
    CK_TRY(take_little(m, (unsigned)bytes, &n));
    if (n > CK_PICKLE_MAX_TEXT) {
        CK_TRY(skip(m, n));
        return push(m, &other);
    }
    node *made = new_node(m, CK_PICKLE_TEXT);
    char *text = ck_arena_alloc(&m->pickle->arena, (size_t)n + 1);
    if (!made || !text) return no_memory(m);
    CK_TRY(take(m, text, n));
    made->text = text;
    made->count = (uint32_t)n;
    return push(m, made);
}

static ck_status op_bytes(machine *m, int bytes) {
    uint64_t n;
    CK_TRY(take_little(m, (unsigned)bytes, &n));
    CK_TRY(skip(m, n));
    return push(m, &other);
}

/* A number in text form. */
static ck_status op_line_number(machine *m, int argument) {
    size_t n;
    (void)argument;
    CK_TRY(take_line(m, &n));
    return push(m, &other);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The value of up to n digits at p in base 8 or 16; *used says how many there were. */
static uint32_t digits(const char *p, size_t n, int base, size_t *used) {
    uint32_t value = 0;
    for (*used = 0; *used < n; ++*used) {
        int digit = hex_digit(p[*used]);
        if (digit < 0 || digit >= base) break;
        value = value * (uint32_t)base + (uint32_t)digit;
    }
    return value;
}

/* STRING: a quoted literal of Python. Decoded, as names can be hidden in its escapes. */
static ck_status op_line_string(machine *m, int argument) {
    size_t n;
    (void)argument;
    CK_TRY(take_line(m, &n));
    char *p = m->line, *out = m->line;
    while (n > 0 && p[n - 1] && strchr(" \t\r\f\v", p[n - 1])) n--;
    if (n < 2 || (p[0] != '\'' && p[0] != '"') || p[n - 1] != p[0])
        return fail(m, "not a quoted string");
    for (size_t i = 1; i < n - 1; i++) {
        static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
        if (p[i] != '\\') {
            *out++ = p[i];
            continue;
        }
        char escape = i + 1 < n - 1 ? p[i + 1] : 0;
        const char *known = escape ? strchr(names, escape) : NULL;
        size_t used = 0, left = n - 2 - i;
        uint32_t code = 0;
        if (known) {
            *out++ = values[known - names];
            i++;
        } else if (escape == 'x') {
            code = digits(p + i + 2, left - 1 < 2 ? left - 1 : 2, 16, &used);
            if (used != 2) return fail(m, "\\x takes two hex digits");
            *out++ = (char)code;
            i += 3;
        } else if (escape >= '0' && escape <= '7') {
            code = digits(p + i + 1, left < 3 ? left : 3, 8, &used);
            *out++ = (char)code;
            i += used;
        } else {
            *out++ = '\\';
        }
    }
    return push_text(m, m->line, (size_t)(out - m->line));
}

/* UNICODE: Latin-1 with \uXXXX and \UXXXXXXXX; becomes UTF-8, which may be longer. */
static ck_status op_line_unicode(machine *m, int argument) {
    size_t n;
    (void)argument;
    CK_TRY(take_line(m, &n));
    char *text = ck_arena_alloc(&m->pickle->arena, 2 * n + 1), *out = text;
    node *made = new_node(m, CK_PICKLE_TEXT);
    if (!text || !made) return no_memory(m);
    for (size_t i = 0; i < n; i++) {
        uint32_t code = (unsigned char)m->line[i];
        char next = i + 1 < n ? m->line[i + 1] : 0;
        if (code == '\\' && (next == 'u' || next == 'U')) {
            size_t wanted = next == 'u' ? 4 : 8, left = n - i - 2, used;
            code = digits(m->line + i + 2, left < wanted ? left : wanted, 16, &used);
            if (used != wanted || code > 0x10FFFF) return fail(m, "a bad \\u escape");
            i += 1 + wanted;
        } else if (code == '\\' && next == '\\') {
            *out++ = '\\';
            i++;
        }
        out += ck_utf8_encode(code, out);
    }
    made->text = text;
    made->count = (uint32_t)(out - text);
    return push(m, made);
}

static ck_status op_empty(machine *m, int kind) {
    return push(m, new_node(m, (ck_pickle_kind)kind));
}

/* TUPLE, LIST, DICT of what lies above the mark. */
static ck_status op_collect(machine *m, int kind) {
    node **values = NULL;
    size_t n = 0;
    CK_TRY(pop_mark(m, &values, &n));
    if (kind == CK_PICKLE_DICT && n % 2) return fail(m, "a key without a value");
    return push(m, new_items(m, (ck_pickle_kind)kind, values, n));
}

static ck_status op_frozenset(machine *m, int argument) {
    (void)argument;
    CK_TRY(op_pop_mark(m, 0));
    return push(m, &other);
}

static ck_status op_tuple_of(machine *m, int n) {
    CK_TRY(need(m, (size_t)n));
    m->depth -= (size_t)n;
    return push(m, new_items(m, CK_PICKLE_TUPLE, m->stack + m->depth, (size_t)n));
}

/* Puts values into what lies on top: of this kind, or something that a call has made. */
static ck_status put_into_top(machine *m, int kind, node *const *values, size_t n) {
    CK_TRY(need(m, 1));
    node *target = top(m);
    if (target->kind == CK_PICKLE_OTHER) return CK_OK;
    if ((int)target->kind == kind || target->kind == CK_PICKLE_CALL)
        return append(m, target, values, n);
    return m->rules->strict ? fail(m, "what it adds to is not of the right kind") : CK_OK;
}

/* APPEND and SETITEM: one value or one pair, depending on the kind of what they add to. */
static ck_status op_put_one(machine *m, int kind) {
    size_t n = kind == CK_PICKLE_DICT ? 2 : 1;
    CK_TRY(need(m, n + 1));
    m->depth -= n;
    node *values[2] = {m->stack[m->depth], m->stack[m->depth + n - 1]};
    return put_into_top(m, kind, values, n);
}

static ck_status op_put_many(machine *m, int kind) {
    node **values = NULL;
    size_t n = 0;
    CK_TRY(pop_mark(m, &values, &n));
    if (kind == CK_PICKLE_DICT && n % 2) return fail(m, "a key without a value");
    return put_into_top(m, kind, values, n);
}

enum { MEMO_NEXT = -1, MEMO_LINE = 0 }; /* else: the number of bytes of the index */

static ck_status op_memo_put(machine *m, int bytes) {
    uint64_t key = m->memo_count;
    if (bytes == MEMO_LINE) CK_TRY(line_index(m, &key));
    if (bytes > 0) CK_TRY(take_little(m, (unsigned)bytes, &key));
    return memo_put(m, key);
}

static ck_status op_memo_get(machine *m, int bytes) {
    uint64_t key;
    CK_TRY(bytes == MEMO_LINE ? line_index(m, &key) : take_little(m, (unsigned)bytes, &key));
    return memo_get(m, key);
}

/* ---- Imports and calls ---- */

/* Python takes any text, but no module is called like this; a tensor's bytes that look like the
 * start of a pickle are. */
static bool is_name(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] <= 0x20 || s[i] == 0x7F) return false;
    return n > 0 && ck_utf8_check((const unsigned char *)s, n) == n;
}

static ck_status import(machine *m, const char *module, size_t module_length, const char *name,
                        size_t name_length, node **made) {
    /* (A module is imported even if it turns out not to have the member.) */
    bool named = m->rules->strict
                     ? is_name(name, name_length)
                     : ck_utf8_check((const unsigned char *)name, name_length) == name_length;
    if (!is_name(module, module_length) || !named) return fail(m, "not the name of anything");
    ck_arena *arena = &m->pickle->arena;
    node *global = new_node(m, CK_PICKLE_GLOBAL);
    char *text = ck_arena_alloc(arena, module_length + name_length + 2);
    if (!global || !text) return no_memory(m);
    /* First as two strings, for the listener. */
    memcpy(text, module, module_length);
    memcpy(text + module_length + 1, name, name_length);
    ck_pickle_import i = {text, text + module_length + 1, m->opcode, m->opcode_at};
    if (m->rules->import) CK_TRY(m->rules->import(m->rules->context, &i, m->err));
    text[module_length] = '.';
    global->text = text;
    global->count = (uint32_t)module_length;
    *made = global;
    return CK_OK;
}

/* The two lines of GLOBAL and INST. */
static ck_status import_lines(machine *m, node **made) {
    size_t module_length, name_length;
    CK_TRY(take_line(m, &module_length));
    char *module = ck_strndup(m->line, module_length);
    if (!module) return no_memory(m);
    ck_status status = take_line(m, &name_length);
    if (status == CK_OK) status = import(m, module, module_length, m->line, name_length, made);
    free(module);
    return status;
}

static ck_status op_global(machine *m, int argument) {
    node *made = NULL;
    (void)argument;
    CK_TRY(import_lines(m, &made));
    return push(m, made);
}

static ck_status op_stack_global(machine *m, int argument) {
    node *made = &other;
    (void)argument;
    CK_TRY(need(m, 2));
    const node *name = pop(m), *module = pop(m);
    if (name->kind == CK_PICKLE_TEXT && module->kind == CK_PICKLE_TEXT) {
        CK_TRY(import(m, module->text, module->count, name->text, name->count, &made));
    } else {
        if (m->rules->strict) return fail(m, "module and name must be texts");
        ck_pickle_import i = {NULL, NULL, m->opcode, m->opcode_at};
        if (m->rules->import) CK_TRY(m->rules->import(m->rules->context, &i, m->err));
    }
    return push(m, made);
}

static ck_status push_call(machine *m, node *callee, node *arguments) {
    if (m->rules->strict &&
        (callee->kind != CK_PICKLE_GLOBAL || arguments->kind != CK_PICKLE_TUPLE))
        return fail(m, "calls something that was not imported");
    node *const both[2] = {callee, arguments};
    return push(m, new_items(m, CK_PICKLE_CALL, both, 2));
}

/* REDUCE and NEWOBJ, and NEWOBJ_EX, which has keyword arguments on top. */
static ck_status op_call(machine *m, int n) {
    CK_TRY(need(m, (size_t)n));
    m->depth -= (size_t)n;
    return push_call(m, m->stack[m->depth], m->stack[m->depth + 1]);
}

/* OBJ: a class and its arguments above the mark. */
static ck_status op_obj(machine *m, int argument) {
    node **values = NULL;
    size_t n = 0;
    (void)argument;
    CK_TRY(pop_mark(m, &values, &n));
    if (n == 0) return fail(m, "nothing to call");
    node *callee = values[0], *arguments = new_items(m, CK_PICKLE_TUPLE, values + 1, n - 1);
    return arguments ? push_call(m, callee, arguments) : no_memory(m);
}

static ck_status op_inst(machine *m, int argument) {
    node *callee = NULL, **values = NULL;
    size_t n = 0;
    (void)argument;
    CK_TRY(import_lines(m, &callee));
    CK_TRY(pop_mark(m, &values, &n));
    node *arguments = new_items(m, CK_PICKLE_TUPLE, values, n);
    return arguments ? push_call(m, callee, arguments) : no_memory(m);
}

/* The state that an object would be given is dropped: nothing here has any use for it. */
static ck_status op_build(machine *m, int argument) {
    (void)argument;
    CK_TRY(need(m, 2));
    pop(m);
    bool fits = top(m)->kind == CK_PICKLE_CALL || !m->rules->strict;
    return fits ? CK_OK : fail(m, "what it adds to is not of the right kind");
}

static ck_status push_persistent(machine *m, node *id) {
    ck_pickle *p = m->pickle;
    node **all = ck_grow(p->persistent, p->persistent_count, &p->persistent_capacity, sizeof *all);
    if (!all) return no_memory(m);
    p->persistent = all;
    node *made = new_items(m, CK_PICKLE_PERSISTENT, &id, 1);
    if (!made) return no_memory(m);
    all[p->persistent_count++] = made;
    return push(m, made);
}

static ck_status op_persistent(machine *m, int argument) {
    (void)argument;
    CK_TRY(need(m, 1));
    return push_persistent(m, pop(m));
}

static ck_status op_persistent_line(machine *m, int argument) {
    size_t n;
    (void)argument;
    CK_TRY(take_line(m, &n));
    return push_persistent(m, &other);
}

static ck_status op_nothing(machine *m, int argument) {
    (void)argument;
    return need(m, 1);
}

/* Python knows these only where the program has registered something. */
static ck_status op_refused(machine *m, int argument) {
    (void)argument;
    return fail(m, "needs something from outside the pickle");
}

/* strict: what writers of checkpoints use. */
static const struct opcode {
    const char *name;
    ck_status (*run)(machine *m, int argument);
    int argument;
    bool strict;
} opcodes[256] = {
    [0x80] = {"PROTO", op_proto, 0, true},
    [0x95] = {"FRAME", op_frame, 8, true},
    ['.'] = {"STOP", op_stop, 0, true},
    ['('] = {"MARK", op_mark, 0, true},
    ['0'] = {"POP", op_pop, 0, true},
    ['1'] = {"POP_MARK", op_pop_mark, 0, true},
    ['2'] = {"DUP", op_dup, 0, true},
    ['N'] = {"NONE", op_constant, IS_NONE, true},
    [0x88] = {"NEWTRUE", op_constant, IS_TRUE, true},
    [0x89] = {"NEWFALSE", op_constant, IS_FALSE, true},
    ['J'] = {"BININT", op_int, 4, true},
    ['K'] = {"BININT1", op_int, 1, true},
    ['M'] = {"BININT2", op_int, 2, true},
    [0x8a] = {"LONG1", op_long, 1, true},
    [0x8b] = {"LONG4", op_long, 4, true},
    ['G'] = {"BINFLOAT", op_float, 8, true},
    ['T'] = {"BINSTRING", op_text, 4, true},
    ['U'] = {"SHORT_BINSTRING", op_text, 1, true},
    ['X'] = {"BINUNICODE", op_text, 4, true},
    [0x8c] = {"SHORT_BINUNICODE", op_text, 1, true},
    [0x8d] = {"BINUNICODE8", op_text, 8, true},
    ['B'] = {"BINBYTES", op_bytes, 4, true},
    ['C'] = {"SHORT_BINBYTES", op_bytes, 1, true},
    [0x8e] = {"BINBYTES8", op_bytes, 8, true},
    [0x96] = {"BYTEARRAY8", op_bytes, 8, true},
    [')'] = {"EMPTY_TUPLE", op_constant, IS_EMPTY_TUPLE, true},
    [']'] = {"EMPTY_LIST", op_empty, CK_PICKLE_LIST, true},
    ['}'] = {"EMPTY_DICT", op_empty, CK_PICKLE_DICT, true},
    [0x8f] = {"EMPTY_SET", op_constant, IS_OTHER, true},
    ['t'] = {"TUPLE", op_collect, CK_PICKLE_TUPLE, true},
    [0x85] = {"TUPLE1", op_tuple_of, 1, true},
    [0x86] = {"TUPLE2", op_tuple_of, 2, true},
    [0x87] = {"TUPLE3", op_tuple_of, 3, true},
    [0x91] = {"FROZENSET", op_frozenset, 0, true},
    ['a'] = {"APPEND", op_put_one, CK_PICKLE_LIST, true},
    ['e'] = {"APPENDS", op_put_many, CK_PICKLE_LIST, true},
    ['s'] = {"SETITEM", op_put_one, CK_PICKLE_DICT, true},
    ['u'] = {"SETITEMS", op_put_many, CK_PICKLE_DICT, true},
    [0x90] = {"ADDITEMS", op_put_many, CK_PICKLE_OTHER, true},
    ['q'] = {"BINPUT", op_memo_put, 1, true},
    ['r'] = {"LONG_BINPUT", op_memo_put, 4, true},
    [0x94] = {"MEMOIZE", op_memo_put, MEMO_NEXT, true},
    ['h'] = {"BINGET", op_memo_get, 1, true},
    ['j'] = {"LONG_BINGET", op_memo_get, 4, true},
    ['c'] = {"GLOBAL", op_global, 0, true},
    [0x93] = {"STACK_GLOBAL", op_stack_global, 0, true},
    ['R'] = {"REDUCE", op_call, 2, true},
    [0x81] = {"NEWOBJ", op_call, 2, true},
    [0x92] = {"NEWOBJ_EX", op_call, 3, true},
    ['b'] = {"BUILD", op_build, 0, true},
    ['Q'] = {"BINPERSID", op_persistent, 0, true},
    ['I'] = {"INT", op_line_number, 0, false},
    ['L'] = {"LONG", op_line_number, 0, false},
    ['F'] = {"FLOAT", op_line_number, 0, false},
    ['S'] = {"STRING", op_line_string, 0, false},
    ['V'] = {"UNICODE", op_line_unicode, 0, false},
    ['l'] = {"LIST", op_collect, CK_PICKLE_LIST, false},
    ['d'] = {"DICT", op_collect, CK_PICKLE_DICT, false},
    ['p'] = {"PUT", op_memo_put, MEMO_LINE, false},
    ['g'] = {"GET", op_memo_get, MEMO_LINE, false},
    ['i'] = {"INST", op_inst, 0, false},
    ['o'] = {"OBJ", op_obj, 0, false},
    ['P'] = {"PERSID", op_persistent_line, 0, false},
    [0x98] = {"READONLY_BUFFER", op_nothing, 0, false},
    [0x97] = {"NEXT_BUFFER", op_refused, 0, false},
    [0x82] = {"EXT1", op_refused, 0, false},
    [0x83] = {"EXT2", op_refused, 0, false},
    [0x84] = {"EXT4", op_refused, 0, false},
};

static ck_status step(machine *m) {
    unsigned char code;
    m->opcode = "STOP (missing)";
    m->opcode_at = m->in->offset;
    CK_TRY(take(m, &code, 1));
    const struct opcode *op = &opcodes[code];
    if (!op->name)
        return ck_fail(m->err, CK_INPUT,
                       "%s: pickle opcode 0x%02x at offset %" PRIu64 ": there is no such opcode",
                       m->in->name, code, m->opcode_at);
    m->opcode = op->name;
    if (m->rules->strict && !op->strict) return fail(m, "refused: no checkpoint needs it");
    if (m->in->offset - m->start - m->skipped > CK_PICKLE_MAX_BYTES)
        return fail(m, "the pickle is larger than 32 MiB");
    bool framed = m->opcode_at < m->frame_end;
    CK_TRY(op->run(m, op->argument));
    return framed && m->in->offset > m->frame_end ? beyond_frame(m) : CK_OK;
}

ck_status ck_pickle_load(ck_pickle_input *in, const ck_pickle_rules *rules, ck_pickle *pickle,
                         ck_error *err) {
    *pickle = (ck_pickle){0};
    machine m = {.in = in, .rules = rules, .pickle = pickle, .err = err, .start = in->offset};
    ck_status status = CK_OK;
    while (status == CK_OK && !m.stopped) status = step(&m);
    free(m.stack);
    free(m.marks);
    free(m.memo);
    free(m.line);
    if (status != CK_OK) ck_pickle_free(pickle);
    return status;
}

void ck_pickle_free(ck_pickle *pickle) {
    ck_arena_free(&pickle->arena);
    free(pickle->persistent);
    *pickle = (ck_pickle){0};
}
