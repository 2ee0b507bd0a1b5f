/* Heads of HDF5 files, see head.h. libhdf5 makes the whole file in memory, a sparse one in which no
 * tensor's data are ever written: what it has written then are its own records, which were made to
 * lie in front, and it says where it would put the data. */
#include "io/head.h"

#include <string.h>

#ifdef CK_HAVE_HDF5

#include "io/hdf5_file.h"
#include "io/hdf5_int.h"
#include "io/os.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct head_maker {
    const ck_tensor *const *tensors;
    const ck_tensor **by_name; /* sorted */
    size_t n;
    const ck_meta *meta;
    size_t meta_count;
    uint64_t *offsets;
    ck_hdf5_file file;
    hid_t links, groups, sets; /* how they are made */
} head_maker;

enum { MAX_GROUPS = 32 }; /* one in another; the reader takes twice as many */

/* ---- Types ---- */

/* h5py's bool. */
static hid_t bool_type(void) {
    hid_t type = H5Tenum_create(H5T_STD_I8LE);
    signed char no = 0, yes = 1;
    H5Tenum_insert(type, "FALSE", &no);
    H5Tenum_insert(type, "TRUE", &yes);
    return type;
}

static hid_t half_type(void) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(type, 15, 10, 5, 0, 10);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 15);
    return type;
}

/* Of the elements in the file, to be closed; negative: HDF5 has none. */
static hid_t make_type(ck_dtype dtype) {
    switch (dtype) {
    case CK_BOOL:
        return bool_type();
    case CK_F16:
        return half_type();
    case CK_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case CK_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case CK_I8:
        return H5Tcopy(H5T_STD_I8LE);
    case CK_I16:
        return H5Tcopy(H5T_STD_I16LE);
    case CK_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case CK_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case CK_U16:
    case CK_BF16:
        return H5Tcopy(H5T_STD_U16LE);
    case CK_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case CK_U64:
        return H5Tcopy(H5T_STD_U64LE);
    default: /* bytes, whatever they are called */
        return dtype == CK_U8 || ck_hdf5__type_name(dtype) ? H5Tcopy(H5T_STD_U8LE) : -1;
    }
}

/* ---- Names ---- */

static int by_name(const void *a, const void *b) {
    const ck_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static bool is_tensor(const head_maker *m, const char *name) {
    const ck_tensor key = {.name = name}, *wanted = &key;
    return bsearch(&wanted, m->by_name, m->n, sizeof wanted, by_name) != NULL;
}

/* The path of a name's dataset, in place of the name. */
static ck_status make_path(const head_maker *m, char *name, ck_error *err) {
    if (!*name || strcmp(name, ".") == 0 || strchr(name, '/'))
        return ck_fail(err, CK_USAGE, "%s: tensor '%s': HDF5 cannot have such a name", m->file.path,
                       name);
    int groups = 0;
    for (char *dot = strchr(name, '.'); dot && groups < MAX_GROUPS; dot = strchr(dot + 1, '.')) {
        /* No group has an empty name. */
        if (dot == name || dot[-1] == '.' || dot[-1] == '/' || dot[1] == '.' || !dot[1]) continue;
        *dot = 0;
        bool taken = false;
        /* Tensors' names have their dots still. */
        char *plain = ck_strdup(name);
        if (!plain) return ck_fail_memory(err, m->file.path);
        for (char *slash = plain; (slash = strchr(slash, '/'));) *slash = '.';
        taken = is_tensor(m, plain);
        free(plain);
        *dot = taken ? '.' : '/';
        groups += !taken;
    }
    return CK_OK;
}

/* ---- Datasets and attributes ---- */

static ck_status write_text(head_maker *m, hid_t object, const char *name, const char *text,
                            ck_error *err) {
    size_t size = strlen(text);
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, size ? size : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    ck_status status = CK_OK;
    if (attribute < 0 || !ck_hdf5_ok(&m->file, H5Awrite(attribute, type, text)))
        status = ck_hdf5_fail(&m->file, CK_USAGE, name, err);
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

static ck_status write_set(head_maker *m, size_t i, const char *path, hid_t type, ck_error *err) {
    const ck_tensor *t = m->tensors[i];
    const char *type_name = ck_hdf5__type_name(t->dtype);
    hsize_t shape[CK_HDF5_MAX_RANK];
    for (size_t d = 0; d < t->rank; d++) shape[d] = t->shape[d];
    hid_t space = t->rank ? H5Screate_simple((int)t->rank, shape, NULL) : H5Screate(H5S_SCALAR);
    hid_t set = H5Dcreate2(m->file.id, path, type, space, m->links, m->sets, H5P_DEFAULT);
    ck_status status = CK_OK;
    if (set < 0) status = ck_hdf5_fail(&m->file, CK_USAGE, t->name, err);
    if (status == CK_OK && type_name) status = write_text(m, set, "dtype", type_name, err);
    if (status == CK_OK) m->offsets[i] = t->nbytes ? H5Dget_offset(set) : 0;
    if (set >= 0) H5Dclose(set);
    H5Sclose(space);
    return status;
}

/* Groups that the library makes by itself would have the time in them. */
static ck_status make_groups(head_maker *m, char *path, ck_error *err) {
    for (char *slash = path; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        ck_status status = CK_OK;
        if (H5Lexists(m->file.id, path, H5P_DEFAULT) <= 0) {
            hid_t group = H5Gcreate2(m->file.id, path, m->links, m->groups, H5P_DEFAULT);
            if (group < 0) status = ck_hdf5_fail(&m->file, CK_USAGE, path, err);
            if (group >= 0) H5Gclose(group);
        }
        *slash = '/';
        CK_TRY(status);
    }
    return CK_OK;
}

static ck_status write_tensor(head_maker *m, size_t i, ck_error *err) {
    const ck_tensor *t = m->tensors[i];
    hid_t type = t->rank > CK_HDF5_MAX_RANK ? -1 : make_type(t->dtype);
    if (type < 0)
        return ck_fail(err, CK_USAGE,
                       "%s: tensor '%s': HDF5 has no room for type %s with %zu dimensions",
                       m->file.path, t->name, ck_dtype_name(t->dtype), t->rank);
    char *path = ck_strdup(t->name);
    ck_status status = path ? make_path(m, path, err) : ck_fail_memory(err, m->file.path);
    if (status == CK_OK) status = make_groups(m, path, err);
    if (status == CK_OK) status = write_set(m, i, path, type, err);
    free(path);
    H5Tclose(type);
    return status;
}

static ck_status write_all(head_maker *m, ck_error *err) {
    m->links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_char_encoding(m->links, H5T_CSET_UTF8);
    m->groups = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(m->groups, 0);
    m->sets = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(m->sets, 0);
    H5Pset_alloc_time(m->sets, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(m->sets, H5D_FILL_TIME_NEVER);
    ck_status status = CK_OK;
    for (size_t i = 0; i < m->meta_count && status == CK_OK; i++)
        status = write_text(m, m->file.id, m->meta[i].key, m->meta[i].value, err);
    for (size_t i = 0; i < m->n && status == CK_OK; i++) status = write_tensor(m, i, err);
    H5Pclose(m->sets);
    H5Pclose(m->groups);
    H5Pclose(m->links);
    return status;
}

/* ---- The file ---- */

/* Where the data begin and end; false when they are not packed, or records lie behind them. */
static bool is_packed(const head_maker *m, uint64_t *begin, uint64_t *end) {
    *begin = *end = m->file.written;
    bool first = true;
    for (size_t i = 0; i < m->n; i++) {
        if (!m->tensors[i]->nbytes) continue;
        if (first) *begin = *end = m->offsets[i];
        if (m->offsets[i] != *end) return false;
        *end += m->tensors[i]->nbytes;
        first = false;
    }
    return m->file.written <= *begin;
}

/* Tries with this much room for records. *packed: it was enough. */
static ck_status try_head(head_maker *m, int fd, size_t room, const char *label, char **head,
                          size_t *head_size, uint64_t *file_size, bool *packed, ck_error *err) {
    CK_TRY(ck_hdf5_create_on(fd, label, room, &m->file, err));
    ck_status status = write_all(m, err);
    ck_error other;
    ck_status closed = ck_hdf5_close(&m->file, status == CK_OK ? err : &other);
    if (status == CK_OK) status = closed;
    if (status != CK_OK) return status;
    uint64_t begin;
    if (!(*packed = is_packed(m, &begin, file_size))) return CK_OK;
    for (size_t i = 0; i < m->n; i++)
        if (!m->tensors[i]->nbytes) m->offsets[i] = begin;
    if (!(*head = ck_alloc(begin))) return ck_fail_memory(err, label);
    *head_size = begin;
    return ck_pread_all(fd, *head, begin, 0, label, err);
}

ck_status ck_hdf5_head(const ck_tensor *const *tensors, size_t n, const ck_meta *meta,
                       size_t meta_count, char **head, size_t *head_size, uint64_t *offsets,
                       uint64_t *file_size, ck_error *err) {
    head_maker m = {
        .tensors = tensors, .n = n, .meta = meta, .meta_count = meta_count, .offsets = offsets};
    m.by_name = ck_alloc_array(n, sizeof *m.by_name);
    if (!m.by_name) return ck_fail_memory(err, "HDF5");
    for (size_t i = 0; i < n; i++) m.by_name[i] = tensors[i];
    if (n) qsort(m.by_name, n, sizeof *m.by_name, by_name);
    *head = NULL;
    ck_status status = CK_OK;
    bool packed = false;
    for (size_t room = 4096 + 512 * n; status == CK_OK && !packed; room *= 2) {
        int fd = memfd_create("hdf5", MFD_CLOEXEC);
        if (fd < 0) {
            status = ck_fail_errno(err, "HDF5: memfd_create");
            break;
        }
        status = try_head(&m, fd, room, "HDF5", head, head_size, file_size, &packed, err);
        close(fd);
    }
    free(m.by_name);
    if (status != CK_OK) {
        free(*head);
        *head = NULL;
    }
    return status;
}

#else

ck_status ck_hdf5_head(const ck_tensor *const *tensors, size_t n, const ck_meta *meta,
                       size_t meta_count, char **head, size_t *head_size, uint64_t *offsets,
                       uint64_t *file_size, ck_error *err) {
    (void)tensors, (void)n, (void)meta, (void)meta_count;
    (void)head, (void)head_size, (void)offsets, (void)file_size;
    return ck_fail(err, CK_USAGE,
                   "this program was built without HDF5; install libhdf5-dev and build again");
}

#endif
