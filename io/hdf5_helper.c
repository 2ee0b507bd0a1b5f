/* The process in which libhdf5 runs, see hdf5_int.h. It never returns to the program that it was
 * forked from, so it leaves freeing to its end. */
#ifdef CK_HAVE_HDF5

#include "io/hdf5_file.h"

#include "io/arena.h"
#include "io/hdf5_int.h"
#include "io/os.h"
#include "kernels/dtype.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

/* Sanitizers need terabytes of memory and system calls of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

enum { FILE_FD = 3, PEER_FD = 4, FD_LIMIT = 5 };

enum {
    MAX_DEPTH = 64, /* of groups; the library's walk recurses */
    MEMORY_LIMIT = 512 << 20,
    MAX_CHUNK = 64 << 20,  /* the library decompresses a chunk as a whole */
    CHUNK_CACHE = 4 << 20, /* or one chunk, if that is more */
    PIECE = 1 << 20,       /* bytes of a reply */
};

/* A dataset that is small in the file and larger than this is a bomb: the limits of Keras. */
#define BOMB_BYTES ((uint64_t)4 << 30)
enum { BOMB_RATIO = 100 };

typedef struct dataset {
    const char *path; /* "conv1/kernel:0", without the first slash */
    ck_dtype dtype;
    hid_t memory_type; /* of the elements as they are handed out; < 0: the dataset's own */
    size_t rank;
    uint64_t *shape;
    uint64_t chunk; /* bytes; 0: not chunked */
    bool served;
    uint64_t offset;
    uint64_t order;
} dataset;

typedef struct number_type {
    ck_dtype dtype;
    hid_t little, big;
} number_type;

static struct {
    const char *name; /* of the file, for messages */
    uint64_t file_size;
    hid_t file;
    ck_arena arena;
    number_type types[16];
    size_t type_count;
    char path[CK_HDF5_MAX_NAME + 1]; /* where the walk is */
    haddr_t *groups;                 /* that the walk has been in */
    size_t group_count, group_capacity;
    dataset *datasets;
    size_t count, capacity;
    ck_error err;
} h;

/* ---- Limits ---- */

/* Nothing but the file and the peer is open, and nothing more can be opened afterwards.
 */
static void keep_two_files(int file, int peer) {
    int high_file = fcntl(file, F_DUPFD, 64), high_peer = fcntl(peer, F_DUPFD, 64);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    dup2(high_file, FILE_FD);
    dup2(high_peer, PEER_FD);
    close_range(FILE_FD + 2, ~0u, 0);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){FD_LIMIT, FD_LIMIT});
}

/* What the process has already, which it inherited, plus MEMORY_LIMIT. */
static void limit_memory(void) {
    if (SANITIZED) return;
    char text[256] = {0};
    int fd = open("/proc/self/statm", O_RDONLY);
    unsigned long data = 0;
    if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
        sscanf(text, "%*u %*u %*u %*u %*u %lu", &data);
    if (fd >= 0) close(fd);
    rlim_t limit = data * (rlim_t)sysconf(_SC_PAGESIZE) + MEMORY_LIMIT;
    setrlimit(RLIMIT_DATA, &(struct rlimit){limit, limit});
}

/* Another CK_HDF5_CPU_SECONDS from now on; after them SIGPROF ends the process. */
static void limit_time(void) {
    setitimer(ITIMER_PROF, &(struct itimerval){.it_value = {CK_HDF5_CPU_SECONDS, 0}}, NULL);
}

/* From here on the process can compute, read and answer; whatever else it is made to try is refused
 * by the system. Without effect where the system has no such filters. */
static void allow_only_reading(void) {
#if !SANITIZED && (defined(__x86_64__) || defined(__aarch64__))
#ifdef __x86_64__
    const unsigned architecture = AUDIT_ARCH_X86_64;
#else
    const unsigned architecture = AUDIT_ARCH_AARCH64;
#endif
#define LOAD(field)      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define REFUSE           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define ALLOW            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define ALLOW_CALL(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), ALLOW
/* Unless the third argument has one of these bits. */
#define ALLOW_UNLESS(name, bits)                                                                   \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 4), LOAD(args[2]),                          \
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1), REFUSE, ALLOW
    struct sock_filter rules[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, architecture, 1, 0),
        REFUSE,
        LOAD(nr),
        ALLOW_CALL(read),
        ALLOW_CALL(pread64),
        ALLOW_CALL(lseek),
        ALLOW_CALL(fstat),
        ALLOW_CALL(newfstatat), /* is how some C libraries do fstat */
        ALLOW_CALL(close),
        ALLOW_CALL(sendto),
        ALLOW_CALL(recvfrom),
        ALLOW_CALL(brk),
        ALLOW_CALL(mremap),
        ALLOW_CALL(munmap),
        ALLOW_CALL(madvise),
        ALLOW_CALL(futex),
        ALLOW_CALL(setitimer),
        ALLOW_CALL(rt_sigreturn),
        ALLOW_CALL(exit_group),
        ALLOW_UNLESS(mmap, PROT_EXEC),
        ALLOW_UNLESS(mprotect, PROT_EXEC),
        REFUSE,
    };
    struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
#endif
}

static void confine(int file, int peer) {
    /* The program's handlers are for the program: here a crash shall be a crash. Ctrl-C is for the
     * program too, which ends this process when it is done. */
    for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
    signal(SIGINT, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    limit_memory();
    keep_two_files(file, peer);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){0, 0});
    limit_time();
}

/* ---- Errors ---- */

static herr_t keep_first(unsigned n, const H5E_error2_t *e, void *text) {
    if (n == 0 && e->desc) snprintf(text, 256, "%s (%s)", e->desc, e->func_name);
    return 0;
}

/* A failure of the library at a place of the file. */
static ck_status fail_library(const char *where, const char *what) {
    char text[256] = "unknown error";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, text);
    return ck_fail(&h.err, CK_INPUT, "%s: '%s': libhdf5 cannot %s: %s", h.name,
                   *where ? where : "/", what, text);
}

static ck_status fail_at(const char *where, const char *what) {
    return ck_fail(&h.err, CK_INPUT, "%s: '%s': %s", h.name, *where ? where : "/", what);
}

static ck_status fail_memory(void) {
    return ck_fail_memory(&h.err, h.name);
}

/* ---- Types of elements ---- */

static void add_type(ck_dtype dtype, hid_t little, hid_t big) {
    h.types[h.type_count++] = (number_type){dtype, little, big};
}

/* A binary float of sign, exponent and mantissa in that order. */
static void add_float(ck_dtype dtype, size_t exponent, size_t mantissa) {
    size_t bytes = (1 + exponent + mantissa) / 8;
    hid_t little = H5Tcopy(H5T_IEEE_F64LE);
    H5Tset_fields(little, exponent + mantissa, mantissa, exponent, 0, mantissa);
    H5Tset_size(little, bytes);
    H5Tset_ebias(little, ((size_t)1 << (exponent - 1)) - 1);
    hid_t big = H5Tcopy(little);
    H5Tset_order(big, H5T_ORDER_BE);
    add_type(dtype, little, big);
}

static void make_types(void) {
    add_float(CK_F32, 8, 23);
    add_float(CK_F16, 5, 10);
    add_float(CK_F64, 11, 52);
    add_float(CK_BF16, 8, 7);
    add_type(CK_I8, H5T_STD_I8LE, H5T_STD_I8BE);
    add_type(CK_U8, H5T_STD_U8LE, H5T_STD_U8BE);
    add_type(CK_I16, H5T_STD_I16LE, H5T_STD_I16BE);
    add_type(CK_U16, H5T_STD_U16LE, H5T_STD_U16BE);
    add_type(CK_I32, H5T_STD_I32LE, H5T_STD_I32BE);
    add_type(CK_U32, H5T_STD_U32LE, H5T_STD_U32BE);
    add_type(CK_I64, H5T_STD_I64LE, H5T_STD_I64BE);
    add_type(CK_U64, H5T_STD_U64LE, H5T_STD_U64BE);
}

/* h5py's bool: an enumeration of FALSE = 0 and TRUE = 1 in a byte. */
static bool is_bool(hid_t type) {
    char name[8] = {0};
    signed char no = 0, yes = 1;
    return H5Tget_class(type) == H5T_ENUM && H5Tget_size(type) == 1 && H5Tget_nmembers(type) == 2 &&
           H5Tenum_nameof(type, &no, name, sizeof name) >= 0 && strcmp(name, "FALSE") == 0 &&
           H5Tenum_nameof(type, &yes, name, sizeof name) >= 0 && strcmp(name, "TRUE") == 0;
}

/* A string attribute of one element into text[size]; false if there is no such thing. */
static bool short_text(hid_t object, const char *name, char *text, size_t size) {
    if (H5Aexists(object, name) <= 0) return false;
    hid_t a = H5Aopen(object, name, H5P_DEFAULT), space = H5Aget_space(a), type = H5Aget_type(a);
    bool ok = false;
    memset(text, 0, size);
    if (H5Tget_class(type) == H5T_STRING && H5Sget_simple_extent_npoints(space) == 1) {
        if (H5Tis_variable_str(type) > 0) {
            char *value = NULL;
            ok = H5Aread(a, type, &value) >= 0 && value;
            if (ok) strncpy(text, value, size - 1);
        } else if (H5Tget_size(type) < size) {
            ok = H5Aread(a, type, text) >= 0;
        }
    }
    H5Tclose(type);
    H5Sclose(space);
    H5Aclose(a);
    return ok;
}

/* Of a type that HDF5 does not have; CK_DTYPE_COUNT where no name says so. */
static ck_dtype named_type(hid_t object, hid_t type) {
    char text[16];
    H5T_class_t kind = H5Tget_class(type);
    if ((kind != H5T_OPAQUE && kind != H5T_INTEGER) ||
        !short_text(object, "dtype", text, sizeof text))
        return CK_DTYPE_COUNT;
    for (int d = 0; d < CK_DTYPE_COUNT; d++) {
        const char *name = ck_hdf5__type_name((ck_dtype)d);
        if (name && strcmp(text, name) == 0 && H5Tget_size(type) * 8 == ck_dtype_bits((ck_dtype)d))
            return (ck_dtype)d;
    }
    return CK_DTYPE_COUNT;
}

/* Fills in d's dtype and memory_type; *converted when that is not what lies in the file. Returns
 * what it is instead of a number, or NULL. */
static const char *find_type(hid_t object, hid_t type, dataset *d, bool *converted) {
    d->dtype = CK_DTYPE_COUNT;
    d->memory_type = -1;
    *converted = false;
    for (size_t i = 0; i < h.type_count; i++) {
        bool little = H5Tequal(type, h.types[i].little) > 0;
        if (!little && H5Tequal(type, h.types[i].big) <= 0) continue;
        d->dtype = h.types[i].dtype;
        d->memory_type = h.types[i].little;
        *converted = !little;
    }
    ck_dtype named = named_type(object, type);
    if (named != CK_DTYPE_COUNT) d->dtype = named;
    if (is_bool(type)) d->dtype = CK_BOOL;
    if (d->dtype != CK_DTYPE_COUNT) return NULL;
    switch (H5Tget_class(type)) {
    case H5T_STRING:
        return "strings";
    case H5T_COMPOUND:
        return "compounds";
    case H5T_OPAQUE:
        return "opaque bytes";
    case H5T_REFERENCE:
        return "references";
    case H5T_ENUM:
        return "enumerators";
    case H5T_VLEN:
        return "lists";
    case H5T_ARRAY:
        return "arrays";
    default:
        return "numbers of an unusual type";
    }
}

/* ---- Datasets ---- */

static ck_status check_filters(hid_t plist, const char *path) {
    int n = H5Pget_nfilters(plist);
    for (int i = 0; i < n; i++) {
        unsigned flags, config;
        size_t values = 0;
        H5Z_filter_t id =
            H5Pget_filter2(plist, (unsigned)i, &flags, &values, NULL, 0, NULL, &config);
        if (id < 0) return fail_library(path, "read its filters");
        if (H5Zfilter_avail(id) <= 0)
            return ck_fail(&h.err, CK_INPUT,
                           "%s: '%s': compressed with HDF5 filter %d, which is not built in: "
                           "repack the file with `h5repack -f GZIP=1`",
                           h.name, path, (int)id);
    }
    return CK_OK;
}

static ck_status check_chunks(hid_t plist, dataset *d, uint64_t nbytes, uint64_t stored) {
    hsize_t sides[CK_HDF5_MAX_RANK];
    d->chunk = ck_dtype_bits(d->dtype) / 8;
    int rank = H5Pget_chunk(plist, CK_HDF5_MAX_RANK, sides);
    if (rank < 0) return fail_library(d->path, "read its chunks' size");
    for (int i = 0; i < rank; i++)
        if (__builtin_mul_overflow(d->chunk, sides[i], &d->chunk) || d->chunk > MAX_CHUNK)
            return ck_fail(&h.err, CK_INPUT,
                           "%s: '%s': chunks of more than %d MiB: repack the file with "
                           "`h5repack -l CONTI`",
                           h.name, d->path, MAX_CHUNK >> 20);
    if (nbytes > BOMB_BYTES && nbytes / BOMB_RATIO > stored)
        return ck_fail(&h.err, CK_INPUT,
                       "%s: '%s': %llu bytes, of which only %llu are in the file: a bomb", h.name,
                       d->path, (unsigned long long)nbytes, (unsigned long long)stored);
    return check_filters(plist, d->path);
}

/* Where the elements are, and whether they are all there. */
static ck_status find_storage(hid_t object, hid_t plist, dataset *d, bool converted) {
    uint64_t nbytes = ck_dtype_bits(d->dtype) / 8;
    bool overflow = false;
    for (size_t i = 0; i < d->rank; i++)
        overflow |= __builtin_mul_overflow(nbytes, d->shape[i], &nbytes);
    if (overflow) return fail_at(d->path, "its shape is too large for any file");
    if (H5Pget_external_count(plist) != 0)
        return fail_at(d->path, "its data are in another file, which is not followed");
    H5D_layout_t layout = H5Pget_layout(plist);
    uint64_t stored = H5Dget_storage_size(object);
    haddr_t address = H5Dget_offset(object);
    d->served = nbytes > 0;
    switch (layout) {
    case H5D_CHUNKED:
        return check_chunks(plist, d, nbytes, stored);
    case H5D_COMPACT:
        return nbytes <= stored ? CK_OK : fail_at(d->path, "is larger than what is stored of it");
    case H5D_CONTIGUOUS:
        break;
    case H5D_VIRTUAL:
        return fail_at(d->path, "is put together from other files or datasets");
    default:
        return fail_at(d->path, "has an unknown storage layout");
    }
    if (stored == 0) { /* never written, so it has its fill value everywhere, without limit */
        if (nbytes <= h.file_size) return CK_OK;
        return fail_at(d->path, "is larger than the file and was never written");
    }
    if (nbytes > stored || address > h.file_size || nbytes > h.file_size - address)
        return ck_fail(&h.err, CK_INPUT,
                       "%s: '%s' at offset %llu: its %llu bytes are not all in the file: it is "
                       "cut off (an incomplete download?)",
                       h.name, d->path, (unsigned long long)address, (unsigned long long)nbytes);
    d->served = converted && nbytes > 0;
    d->offset = address;
    return CK_OK;
}

static ck_status send_item(const ck_hdf5_item *item, const char *name, const char *value) {
    if (ck_hdf5__send(PEER_FD, item, sizeof *item) &&
        ck_hdf5__send(PEER_FD, name, item->name_size) &&
        ck_hdf5__send(PEER_FD, value, item->value_size))
        return CK_OK;
    _exit(0); /* nobody is listening any more */
}

static ck_status send_meta(const char *key, const char *value) {
    size_t key_size = strlen(key), value_size = strlen(value);
    if (key_size > CK_HDF5_MAX_NAME || value_size > CK_HDF5_MAX_TEXT)
        return fail_at(key, "is longer than this program takes");
    ck_hdf5_item item = {
        .kind = CK_HDF5_META, .name_size = (uint32_t)key_size, .value_size = (uint32_t)value_size};
    return send_item(&item, key, value);
}

/* '/' becomes '.' */
static void dotted(const char *path, char *name) {
    do *name++ = *path == '/' ? '.' : *path;
    while (*path++);
}

static ck_status send_skipped(const char *path, const char *what) {
    char key[sizeof CK_HDF5_SKIPPED + CK_HDF5_MAX_NAME] = CK_HDF5_SKIPPED;
    dotted(path, key + strlen(key));
    return send_meta(key, what);
}

static ck_status take_dataset(hid_t object, hid_t type, hid_t space, hid_t plist) {
    dataset d = {.order = UINT64_MAX};
    bool converted;
    hsize_t shape[CK_HDF5_MAX_RANK];
    H5S_class_t kind = H5Sget_simple_extent_type(space);
    int rank = H5Sget_simple_extent_ndims(space);
    if (type < 0 || space < 0 || plist < 0 || kind == H5S_NO_CLASS || rank < 0 ||
        rank > CK_HDF5_MAX_RANK)
        return fail_library(h.path, "read its description");
    const char *other = find_type(object, type, &d, &converted);
    if (kind == H5S_NULL) other = "nothing";
    if (other) return send_skipped(h.path, other);
    if (H5Sget_simple_extent_dims(space, shape, NULL) != rank)
        return fail_library(h.path, "read its shape");
    dataset *datasets = ck_grow(h.datasets, h.count, &h.capacity, sizeof *datasets);
    if (!datasets) return fail_memory();
    h.datasets = datasets;
    d.rank = (size_t)rank;
    d.path = ck_arena_strdup(&h.arena, h.path);
    d.shape = ck_arena_alloc(&h.arena, d.rank * sizeof *d.shape);
    if (!d.path || !d.shape) return fail_memory();
    for (size_t i = 0; i < d.rank; i++) d.shape[i] = shape[i];
    CK_TRY(find_storage(object, plist, &d, converted));
    datasets[h.count++] = d;
    return CK_OK;
}

/* ---- The walk ---- */

static ck_status walk(hid_t group, int depth);

/* A group that is met twice would be walked twice, and so on without end. */
static ck_status enter(hid_t group, int depth) {
    H5O_info_t info;
    if (H5Oget_info(group, &info) < 0) return fail_library(h.path, "open it");
    if (depth > MAX_DEPTH) return fail_at(h.path, "groups nested too deeply");
    for (size_t i = 0; i < h.group_count; i++)
        if (h.groups[i] == info.addr) return fail_at(h.path, "a group that has two names");
    haddr_t *groups = ck_grow(h.groups, h.group_count, &h.group_capacity, sizeof *groups);
    if (!groups) return fail_memory();
    h.groups = groups;
    groups[h.group_count++] = info.addr;
    return walk(group, depth);
}

static ck_status take_object(hid_t object, int depth) {
    H5I_type_t kind = H5Iget_type(object);
    if (kind == H5I_GROUP) return enter(object, depth);
    if (kind != H5I_DATASET) return CK_OK; /* a named type */
    hid_t type = H5Dget_type(object), space = H5Dget_space(object);
    hid_t plist = H5Dget_create_plist(object);
    ck_status status = take_dataset(object, type, space, plist);
    H5Pclose(plist);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

static herr_t take_link(hid_t group, const char *name, const H5L_info_t *link, void *depth) {
    size_t length = strlen(h.path);
    int n = snprintf(h.path + length, sizeof h.path - length, "%s%s", length ? "/" : "", name);
    ck_status status = CK_OK;
    if (n < 0 || (size_t)n >= sizeof h.path - length) {
        status = fail_at(name, "the path to it is too long");
    } else if (link->type != H5L_TYPE_HARD) {
        status = fail_at(h.path, link->type == H5L_TYPE_SOFT
                                     ? "a link by name, which is not followed"
                                     : "a link to another file, which is not followed");
    } else {
        hid_t object = H5Oopen(group, name, H5P_DEFAULT);
        status = object < 0 ? fail_library(h.path, "open it") : take_object(object, *(int *)depth);
        H5Oclose(object);
    }
    h.path[length] = 0;
    return status == CK_OK ? 0 : -1;
}

static ck_status walk(hid_t group, int depth) {
    int below = depth + 1;
    h.err.status = CK_OK;
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, take_link, &below) >= 0) return CK_OK;
    return h.err.status != CK_OK ? h.err.status : fail_library(h.path, "list it");
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const dataset *)a)->path, ((const dataset *)b)->path);
}

static int by_order(const void *a, const void *b) {
    const dataset *x = a, *y = b;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return by_path(a, b);
}

/* ---- The order that Keras gives ---- */

typedef struct names {
    const char **items;
    size_t count, capacity;
} names;

static ck_status add_name(names *list, const char *name, size_t length) {
    const char **items = ck_grow(list->items, list->count, &list->capacity, sizeof *items);
    if (!items) return fail_memory();
    list->items = items;
    items[list->count] = ck_arena_strndup(&h.arena, name, length);
    return items[list->count++] ? CK_OK : fail_memory();
}

/* Adds the strings that values (n of them) are made of: pointers, or fields of a fixed size. */
static ck_status add_names(names *list, hid_t attribute, hid_t type, uint64_t n, const char *what) {
    bool variable = H5Tis_variable_str(type) > 0;
    size_t size = H5Tget_size(type);
    uint64_t bytes;
    /* A list cannot be longer than the file that it is in. */
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > h.file_size)
        return fail_at(what, "is longer than the file");
    char *values = ck_alloc(bytes);
    if (!values) return fail_memory();
    ck_status status = CK_OK;
    if (H5Aread(attribute, type, values) < 0) status = fail_library(what, "read it");
    for (uint64_t i = 0; i < n && status == CK_OK; i++) {
        char *value = values + i * size;
        if (variable) {
            memcpy(&value, values + i * size, sizeof value);
            if (value) status = add_name(list, value, strlen(value));
        } else {
            status = add_name(list, value, strnlen(value, size));
        }
    }
    free(values);
    return status;
}

static ck_status read_names(hid_t object, const char *attribute, names *list) {
    hid_t a = H5Aopen(object, attribute, H5P_DEFAULT);
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    ck_status status = CK_OK;
    if (a < 0 || type < 0 || n < 0)
        status = fail_library(attribute, "read it");
    else if (n > 0 && H5Tget_class(type) != H5T_STRING) /* an empty list may be of any type */
        status = fail_at(attribute, "is not a list of strings");
    else if (n > 0)
        status = add_names(list, a, type, (uint64_t)n, attribute);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    return status;
}

/* A list that was too long for one attribute is in NAME0, NAME1, ... */
static ck_status read_list(hid_t object, const char *attribute, names *list) {
    if (H5Aexists(object, attribute) > 0) return read_names(object, attribute, list);
    for (unsigned part = 0;; part++) {
        char name[32];
        snprintf(name, sizeof name, "%s%u", attribute, part);
        if (H5Aexists(object, name) <= 0) return CK_OK;
        CK_TRY(read_names(object, name, list));
    }
}

static bool has_list(hid_t object, const char *attribute) {
    char first[32];
    snprintf(first, sizeof first, "%s0", attribute);
    return H5Aexists(object, attribute) > 0 || H5Aexists(object, first) > 0;
}

/* Gives the weights of one layer the next numbers; prefix is the path of its group. */
static ck_status order_layer(hid_t weights, const char *prefix, const char *layer,
                             uint64_t *order) {
    names list = {0};
    char path[CK_HDF5_MAX_NAME + 1];
    hid_t group = H5Gopen2(weights, layer, H5P_DEFAULT);
    if (group < 0) return fail_library(layer, "find this layer");
    CK_TRY(read_list(group, "weight_names", &list));
    H5Gclose(group);
    for (size_t i = 0; i < list.count; i++) {
        int n = snprintf(path, sizeof path, "%s%s/%s", prefix, layer, list.items[i]);
        if (n < 0 || (size_t)n >= sizeof path) return fail_at(layer, "weight with too long a path");
        dataset key = {.path = path};
        dataset *d = h.count ? bsearch(&key, h.datasets, h.count, sizeof key, by_path) : NULL;
        if (!d) return fail_at(path, "this weight of the layer is not in the file");
        if (d->order == UINT64_MAX) d->order = (*order)++;
    }
    free(list.items);
    return CK_OK;
}

/* Sorts the datasets: by layer_names and weight_names, if there are such, then by path. Only after
 * the walk, which has seen to it that no name leads out of the file. */
static ck_status order_datasets(void) {
    const char *prefix = "";
    hid_t weights = H5Gopen2(h.file, "/", H5P_DEFAULT);
    uint64_t order = 0;
    names layers = {0};
    if (h.count) qsort(h.datasets, h.count, sizeof *h.datasets, by_path);
    if (!has_list(weights, "layer_names") && H5Lexists(h.file, "model_weights", H5P_DEFAULT) > 0) {
        prefix = "model_weights/";
        weights = H5Oopen(h.file, "model_weights", H5P_DEFAULT);
    }
    CK_TRY(read_list(weights, "layer_names", &layers));
    for (size_t i = 0; i < layers.count; i++)
        CK_TRY(order_layer(weights, prefix, layers.items[i], &order));
    if (h.count) qsort(h.datasets, h.count, sizeof *h.datasets, by_order);
    return CK_OK;
}

/* ---- The list ---- */

/* The root's attributes that are one string. */
static ck_status send_root_text(void) {
    hid_t root = H5Gopen2(h.file, "/", H5P_DEFAULT);
    int n = H5Aget_num_attrs(root);
    for (int i = 0; i < n; i++) {
        hid_t a = H5Aopen_by_idx(root, ".", H5_INDEX_NAME, H5_ITER_INC, (hsize_t)i, H5P_DEFAULT,
                                 H5P_DEFAULT);
        char name[CK_HDF5_MAX_NAME + 1];
        if (a < 0 || H5Aget_name(a, sizeof name, name) < 0)
            return fail_library("/", "list its attributes");
        hid_t type = H5Aget_type(a), space = H5Aget_space(a);
        names list = {0};
        if (H5Tget_class(type) == H5T_STRING && H5Sget_simple_extent_type(space) == H5S_SCALAR)
            CK_TRY(add_names(&list, a, type, 1, name));
        if (list.count) CK_TRY(send_meta(name, list.items[0]));
        free(list.items);
        H5Sclose(space);
        H5Tclose(type);
        H5Aclose(a);
    }
    return CK_OK;
}

static ck_status send_dataset(const dataset *d) {
    char name[CK_HDF5_MAX_NAME + 1];
    dotted(d->path, name);
    ck_hdf5_item item = {.kind = CK_HDF5_TENSOR,
                         .name_size = (uint32_t)strlen(name),
                         .dtype = d->dtype,
                         .rank = (uint32_t)d->rank,
                         .served = d->served,
                         .offset = d->offset};
    for (size_t i = 0; i < d->rank; i++) item.shape[i] = d->shape[i];
    return send_item(&item, name, "");
}

static ck_status list_file(void) {
    struct stat st;
    static ck_hdf5_file file; /* stays open */
    if (fstat(FILE_FD, &st) != 0) return ck_fail_errno(&h.err, "%s", h.name);
    h.file_size = (uint64_t)st.st_size;
    CK_TRY(ck_hdf5_open_on(FILE_FD, h.name, &file, &h.err));
    h.file = file.id;
    make_types();
    CK_TRY(send_root_text());
    CK_TRY(enter(H5Gopen2(h.file, "/", H5P_DEFAULT), 0));
    CK_TRY(order_datasets());
    for (size_t i = 0; i < h.count; i++) CK_TRY(send_dataset(&h.datasets[i]));
    return CK_OK;
}

/* ---- Answering ---- */

/* The dataset that was asked for last stays open, with the chunks that its end came from. */
static struct {
    const dataset *of;
    hid_t object, space, memory_type;
} current;

static ck_status open_dataset(const dataset *d) {
    if (current.of == d) return CK_OK;
    if (current.of) {
        H5Tclose(current.memory_type);
        H5Sclose(current.space);
        H5Dclose(current.object);
    }
    current.of = NULL;
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    H5Pset_chunk_cache(access, H5D_CHUNK_CACHE_NSLOTS_DEFAULT,
                       d->chunk > CHUNK_CACHE ? d->chunk : CHUNK_CACHE, 1.0);
    current.object = H5Dopen2(h.file, d->path, access);
    H5Pclose(access);
    current.space = H5Dget_space(current.object);
    current.memory_type =
        d->memory_type < 0 ? H5Dget_type(current.object) : H5Tcopy(d->memory_type);
    if (current.object < 0 || current.space < 0 || current.memory_type < 0)
        return fail_library(d->path, "open it");
    current.of = d;
    return CK_OK;
}

/* The largest box that holds nothing but elements from at on, at most n of them. Returns how many.
 */
static uint64_t select_box(const dataset *d, uint64_t at, uint64_t n, hsize_t *start,
                           hsize_t *count) {
    uint64_t elements = 1, stride = 1;
    bool growing = true;
    for (size_t i = d->rank; i-- > 0;) {
        uint64_t side = d->shape[i], index = at / stride % side, wanted = n / stride;
        start[i] = index;
        count[i] = 1;
        if (growing) {
            count[i] = wanted < side - index ? wanted : side - index;
            elements = count[i] * stride;
            growing = count[i] == side;
        }
        stride *= side;
    }
    return elements;
}

static ck_status read_box(const dataset *d, uint64_t at, uint64_t *n, void *buffer) {
    hsize_t start[CK_HDF5_MAX_RANK], count[CK_HDF5_MAX_RANK];
    CK_TRY(open_dataset(d));
    *n = select_box(d, at, *n, start, count);
    if (d->rank && H5Sselect_hyperslab(current.space, H5S_SELECT_SET, start, NULL, count, NULL) < 0)
        return fail_library(d->path, "select a part of it");
    /* Of the box's own shape, which the library copies three times as fast as a flat one. */
    hid_t memory = H5Screate_simple((int)d->rank, count, NULL);
    herr_t result =
        H5Dread(current.object, current.memory_type, memory, current.space, H5P_DEFAULT, buffer);
    H5Sclose(memory);
    return result < 0 ? fail_library(d->path, "read it") : CK_OK;
}

static void reply(ck_status status, const void *data, size_t n) {
    ck_hdf5_reply head = {status, (uint32_t)n};
    if (!ck_hdf5__send(PEER_FD, &head, sizeof head) || !ck_hdf5__send(PEER_FD, data, n)) _exit(0);
}

static void answer(const ck_hdf5_request *request) {
    static unsigned char buffer[PIECE];
    const dataset *d = &h.datasets[request->tensor];
    size_t size = ck_dtype_bits(d->dtype) / 8;
    uint64_t at = request->begin, end = at + request->count;
    while (at < end) {
        limit_time();
        uint64_t n = end - at < PIECE / size ? end - at : PIECE / size;
        if (read_box(d, at, &n, buffer) != CK_OK) {
            reply(h.err.status, h.err.message, strlen(h.err.message));
            return;
        }
        reply(CK_OK, buffer, n * size);
        at += n;
    }
}

void ck_hdf5__help(int fd, const char *path, int peer) {
    confine(fd, peer);
    h.name = path;
    H5open();
    /* Only here: plugins are code that is not the library's own. */
    H5PLset_loading_state(0);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    allow_only_reading();
    ck_hdf5_item end = {.kind = CK_HDF5_END};
    if (list_file() != CK_OK)
        end = (ck_hdf5_item){.kind = CK_HDF5_ERROR,
                             .status = h.err.status,
                             .value_size = (uint32_t)strlen(h.err.message)};
    send_item(&end, "", h.err.message);
    ck_hdf5_request request;
    while (end.kind == CK_HDF5_END && ck_hdf5__receive(PEER_FD, &request, sizeof request))
        answer(&request);
    _exit(0);
}

#endif
