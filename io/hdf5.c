/* HDF5: Keras .h5 and .weights.h5 files, and any other file of datasets.
 *
 * Every dataset of numbers is a tensor whose name is its path with '.' for '/':
 * "/conv1/conv1/kernel:0" is "conv1.conv1.kernel:0". Where a file says in which order its weights
 * are to be taken (layer_names and weight_names of Keras), the tensors have that order, and what is
 * not mentioned comes behind; else they are sorted by path. Shapes and layouts are the file's: a
 * Keras kernel is not transposed here. Strings among the root's attributes become metadata; a
 * Keras model_config is such a string, and the code that it may hold is never looked at. Datasets
 * that are not numbers are left out, with a metadata entry "hdf5.skipped.NAME" that says why.
 *
 * Refused: links to other files or by name, data in other files, virtual datasets.
 */
#include "io/reader_int.h"

#include <string.h>

static bool ends(const char *path, const char *ending) {
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcmp(path + n - m, ending) == 0;
}

/* The signature; or, as it may also stand further behind, a file that is called so. */
static bool probe(const char *path, const unsigned char *head, size_t n, bool is_directory) {
    if (is_directory || n == 0) return false;
    if (n >= 8 && memcmp(head, "\x89HDF\r\n\x1a\n", 8) == 0) return true;
    /* What is plainly text is better called by its name. */
    return (ends(path, ".h5") || ends(path, ".hdf5")) && head[0] != '<' && head[0] != 'v';
}

#ifdef CK_HAVE_HDF5

#include "io/hdf5_int.h"
#include "io/os.h"
#include "io/utf8.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct helped {
    pid_t helper; /* 0: ended and waited for */
    int peer;     /* -1: closed */
    bool *served; /* of each tensor: ask the helper */
    size_t served_capacity;
    uint64_t file_size;
    pthread_mutex_t one_request;
} helped;

const char *ck_hdf5__type_name(ck_dtype dtype) {
    static const char *const names[CK_DTYPE_COUNT] = {
        [CK_BF16] = "bfloat16",
        [CK_F8_E4M3] = "float8_e4m3fn",
        [CK_F8_E5M2] = "float8_e5m2",
        [CK_F8_E8M0] = "float8_e8m0fnu",
        [CK_F8_E4M3FNUZ] = "float8_e4m3fnuz",
        [CK_F8_E5M2FNUZ] = "float8_e5m2fnuz",
    };
    return names[dtype];
}

bool ck_hdf5__send(int fd, const void *data, size_t n) {
    const char *p = data;
    while (n) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        p += sent;
        n -= (size_t)sent;
    }
    return true;
}

bool ck_hdf5__receive(int fd, void *data, size_t n) {
    char *p = data;
    while (n) {
        ssize_t got = recv(fd, p, n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

/* Ends the helper if it has not ended; returns its wait status. */
static int end_helper(helped *h) {
    int status = 0;
    if (h->peer >= 0) close(h->peer);
    h->peer = -1;
    if (h->helper > 0) {
        kill(h->helper, SIGKILL);
        while (waitpid(h->helper, &status, 0) < 0 && errno == EINTR) {
        }
    }
    h->helper = 0;
    return status;
}

/* What is to be said when the helper went away in the middle of a sentence. */
static ck_status fail_lost(const ck_reader *r, helped *h, ck_error *err) {
    int status = 0;
    /* It has closed its socket, so it is about to end by itself, and the reason is worth knowing.
     */
    if (h->helper > 0) {
        while (waitpid(h->helper, &status, 0) < 0 && errno == EINTR) {
        }
        h->helper = 0;
    }
    end_helper(h);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF)
        return ck_fail(err, CK_INPUT,
                       "%s: libhdf5 was at it for %d s without an end: a damaged or hostile file",
                       r->path, CK_HDF5_CPU_SECONDS);
    if (WIFSIGNALED(status))
        return ck_fail(err, CK_INPUT, "%s: libhdf5 crashes on it (%s): a damaged or hostile file",
                       r->path, strsignal(WTERMSIG(status)));
    return ck_fail(err, CK_INPUT, "%s: libhdf5 gave up on it: a damaged or hostile file", r->path);
}

/* The helper may be anything by now: it is not asked again. */
static ck_status fail_nonsense(const ck_reader *r, helped *h, ck_error *err) {
    end_helper(h);
    return ck_fail(err, CK_INPUT, "%s: libhdf5 gives nonsense for it: a damaged or hostile file",
                   r->path);
}

static ck_status start_helper(const ck_reader *r, helped *h, ck_error *err) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return ck_fail_errno(err, "%s: socketpair", r->path);
    h->peer = pair[0];
    h->helper = fork();
    if (h->helper == 0) ck_hdf5__help(r->fd, r->path, pair[1]);
    close(pair[1]);
    if (h->helper < 0) return ck_fail_errno(err, "%s: fork", r->path);
    return CK_OK;
}

static bool is_text(const char *s, size_t n) {
    return !memchr(s, 0, n) && ck_utf8_check((const unsigned char *)s, n) == n;
}

static bool starts(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static ck_status add_tensor(ck_reader *r, const ck_hdf5_item *item, const char *name,
                            ck_error *err) {
    helped *h = r->state;
    if (item->rank > CK_HDF5_MAX_RANK || item->dtype >= CK_DTYPE_COUNT)
        return fail_nonsense(r, h, err);
    bool *served = ck_grow(h->served, r->count, &h->served_capacity, sizeof *served);
    if (!served) return ck_fail_memory(err, r->path);
    h->served = served;
    served[r->count] = item->served != 0;
    CK_TRY(ck_reader__add(r, name, item->name_size, (ck_dtype)item->dtype, item->rank, item->shape,
                          item->offset, err));
    const ck_tensor *t = &r->tensors[r->count - 1];
    if (!item->served && (t->offset > h->file_size || t->nbytes > h->file_size - t->offset))
        return ck_fail(err, CK_INPUT,
                       "%s: tensor '%s' at offset %llu: its %llu bytes go beyond the end of the "
                       "file: it is cut off (an incomplete download?)",
                       r->path, t->name, (unsigned long long)t->offset,
                       (unsigned long long)t->nbytes);
    return CK_OK;
}

/* text: the item's name and value, one behind the other. */
static ck_status take_item(ck_reader *r, const ck_hdf5_item *item, const char *text,
                           ck_error *err) {
    const char *value = text + item->name_size;
    if (!is_text(text, (size_t)item->name_size + item->value_size))
        return ck_fail(err, CK_INPUT, "%s: a name or an attribute is not UTF-8", r->path);
    if (item->kind == CK_HDF5_TENSOR) return add_tensor(r, item, text, err);
    if (item->kind == CK_HDF5_META && starts(text, CK_HDF5_SKIPPED)) r->skipped++;
    if (item->kind == CK_HDF5_META)
        return ck_reader__add_meta(r, text, item->name_size, value, item->value_size, err);
    ck_status status =
        item->status > CK_OK && item->status <= CK_CANCELLED ? (ck_status)item->status : CK_INPUT;
    return ck_fail(err, status, "%.*s", (int)item->value_size, value);
}

/* Everything the helper has to say up to CK_HDF5_END. */
static ck_status receive_list(ck_reader *r, ck_error *err) {
    helped *h = r->state;
    for (;;) {
        ck_hdf5_item item;
        if (!ck_hdf5__receive(h->peer, &item, sizeof item)) return fail_lost(r, h, err);
        if (item.kind == CK_HDF5_END) return CK_OK;
        if (item.kind > CK_HDF5_ERROR || item.name_size > CK_HDF5_MAX_NAME ||
            item.value_size > CK_HDF5_MAX_TEXT)
            return fail_nonsense(r, h, err);
        size_t n = (size_t)item.name_size + item.value_size;
        char *text = ck_alloc(n + 1);
        if (!text) return ck_fail_memory(err, r->path);
        ck_status status = ck_hdf5__receive(h->peer, text, n) ? take_item(r, &item, text, err)
                                                              : fail_lost(r, h, err);
        free(text);
        if (status != CK_OK) return status;
    }
}

static ck_status open_hdf5(ck_reader *r, ck_error *err) {
    struct stat st;
    if (fstat(r->fd, &st) != 0) return ck_fail_errno(err, "%s", r->path);
    helped *h = ck_alloc(sizeof *h);
    if (!h) return ck_fail_memory(err, r->path);
    r->state = h;
    h->peer = -1;
    h->file_size = (uint64_t)st.st_size;
    pthread_mutex_init(&h->one_request, NULL);
    CK_TRY(start_helper(r, h, err));
    CK_TRY(receive_list(r, err));
    bool needed = false;
    for (size_t i = 0; i < r->count; i++) needed |= h->served[i];
    if (!needed) end_helper(h);
    return ck_reader__index(r, err);
}

static ck_status ask(const ck_reader *r, const ck_tensor *t, uint64_t begin, char *dst, size_t n,
                     ck_error *err) {
    helped *h = r->state;
    unsigned bytes = ck_dtype_bits(t->dtype) / 8;
    ck_hdf5_request request = {(uint64_t)(t - r->tensors), begin / bytes, n / bytes};
    if (h->peer < 0) return ck_fail(err, CK_INPUT, "%s: libhdf5 has failed on it before", r->path);
    if (!ck_hdf5__send(h->peer, &request, sizeof request)) return fail_lost(r, h, err);
    while (n) {
        ck_hdf5_reply reply;
        if (!ck_hdf5__receive(h->peer, &reply, sizeof reply)) return fail_lost(r, h, err);
        if (reply.status != CK_OK) {
            char message[sizeof err->message] = {0};
            if (reply.size >= sizeof message) return fail_nonsense(r, h, err);
            if (!ck_hdf5__receive(h->peer, message, reply.size)) return fail_lost(r, h, err);
            return ck_fail(err, CK_INPUT, "%s", message);
        }
        if (reply.size == 0 || reply.size > n) return fail_nonsense(r, h, err);
        if (!ck_hdf5__receive(h->peer, dst, reply.size)) return fail_lost(r, h, err);
        dst += reply.size;
        n -= reply.size;
    }
    return CK_OK;
}

static ck_status read_hdf5(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                           size_t n, ck_error *err) {
    helped *h = r->state;
    if (!h->served[t - r->tensors]) return ck_reader__pread(r, t, begin, dst, n, err);
    pthread_mutex_lock(&h->one_request);
    ck_status status = ask(r, t, begin, dst, n, err);
    pthread_mutex_unlock(&h->one_request);
    return status == CK_OK ? CK_OK : ck_context(err, "tensor '%s'", t->name);
}

static void close_hdf5(ck_reader *r) {
    helped *h = r->state;
    if (!h) return;
    end_helper(h);
    pthread_mutex_destroy(&h->one_request);
    free(h->served);
    free(h);
}

const ck_format ck_format_hdf5 = {
    .name = "HDF5",
    .probe = probe,
    .open = open_hdf5,
    .read = read_hdf5,
    .close = close_hdf5,
};

#else

static ck_status open_hdf5(ck_reader *r, ck_error *err) {
    return ck_fail(err, CK_USAGE,
                   "%s: this program was built without HDF5; install libhdf5-dev and build again",
                   r->path);
}

const ck_format ck_format_hdf5 = {.name = "HDF5", .probe = probe, .open = open_hdf5};

#endif
