/* State of a run in HDF5, see state.h. */
#include "distill/run/state.h"

#ifdef CK_HAVE_HDF5

#include "io/hdf5_file.h"

enum { CHUNK = 128 * 1024 }; /* elements with one checksum */

/* ---- Writing ---- */

static ck_status write_scalar(ck_hdf5_file *f, hid_t place, const char *name, hid_t type,
                              hid_t memory_type, const void *value, ck_error *err) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(place, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    ck_status status = CK_OK;
    if (attribute < 0 || !ck_hdf5_ok(f, H5Awrite(attribute, memory_type, value)))
        status = ck_hdf5_fail(f, CK_IO, name, err);
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    return status;
}

/* An empty dataset for an array, or a negative number. */
static hid_t create_set(hid_t group, const ck_state_array *a) {
    hsize_t n = a->n, chunk = a->n < CHUNK ? a->n : CHUNK;
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(how, 0);
    if (n > 0) {
        H5Pset_chunk(how, 1, &chunk);
        H5Pset_fletcher32(how);
        H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    }
    hid_t set = H5Dcreate2(group, a->name, H5T_IEEE_F32LE, space, H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    H5Sclose(space);
    return set;
}

static ck_status write_array(ck_hdf5_file *f, hid_t group, const ck_state_array *a, ck_error *err) {
    hid_t set = create_set(group, a);
    if (set < 0) return ck_hdf5_fail(f, CK_IO, a->name, err);
    herr_t result =
        a->n ? H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, a->data) : 0;
    /* The last chunks are written by closing it. */
    if (result >= 0) result = H5Dclose(set);
    return ck_hdf5_ok(f, result) ? CK_OK : ck_hdf5_fail(f, CK_IO, a->name, err);
}

static ck_status write_all(ck_hdf5_file *f, const ck_state *s, ck_error *err) {
    static const char *const names[] = {"arrays", "counts", "numbers"};
    hid_t group[3], how = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(how, 0); /* the same state gives the same bytes */
    for (int i = 0; i < 3; i++)
        group[i] = H5Gcreate2(f->id, names[i], H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    for (int i = 0; i < 3; i++) {
        if (group[i] < 0) return ck_hdf5_fail(f, CK_IO, names[i], err);
    }
    /* How many there are, so that who reads knows whether it asked for all. */
    const uint64_t total = s->array_count + s->count_count + s->number_count;
    CK_TRY(write_scalar(f, f->id, "values", H5T_STD_U64LE, H5T_NATIVE_UINT64, &total, err));
    for (size_t i = 0; i < s->array_count; i++)
        CK_TRY(write_array(f, group[0], &s->arrays[i], err));
    for (size_t i = 0; i < s->count_count; i++)
        CK_TRY(write_scalar(f, group[1], s->counts[i].name, H5T_STD_U64LE, H5T_NATIVE_UINT64,
                            s->counts[i].value, err));
    for (size_t i = 0; i < s->number_count; i++)
        CK_TRY(write_scalar(f, group[2], s->numbers[i].name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE,
                            s->numbers[i].value, err));
    return CK_OK;
}

/* ---- Reading ---- */

static ck_status read_scalar(ck_hdf5_file *f, const char *place, const char *name, hid_t type,
                             hid_t memory_type, void *value, ck_error *err) {
    hid_t attribute = H5Aopen_by_name(f->id, place, name, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0) return ck_hdf5_fail(f, CK_INPUT, name, err);
    hid_t has = H5Aget_type(attribute), space = H5Aget_space(attribute);
    ck_status status = CK_OK;
    if (H5Tequal(has, type) <= 0 || H5Sget_simple_extent_type(space) != H5S_SCALAR)
        status = ck_fail(err, CK_INPUT, "%s: '%s' is not of the type that it should have", f->path,
                         name);
    else if (!ck_hdf5_ok(f, H5Aread(attribute, memory_type, value)))
        status = ck_hdf5_fail(f, CK_INPUT, name, err);
    H5Sclose(space);
    H5Tclose(has);
    H5Aclose(attribute);
    return status;
}

static ck_status check_size(const ck_hdf5_file *f, hid_t set, const ck_state_array *a,
                            ck_error *err) {
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    hsize_t n = 0;
    bool fits = H5Tequal(type, H5T_IEEE_F32LE) > 0 && H5Sget_simple_extent_ndims(space) == 1 &&
                H5Sget_simple_extent_dims(space, &n, NULL) == 1 && n == a->n;
    H5Sclose(space);
    H5Tclose(type);
    if (fits) return CK_OK;
    return ck_fail(err, CK_INPUT,
                   "%s: array '%s' has %llu elements, this run's has %zu: it is of another run",
                   f->path, a->name, (unsigned long long)n, a->n);
}

static ck_status read_array(ck_hdf5_file *f, hid_t arrays, const ck_state_array *a, ck_error *err) {
    hid_t set = H5Dopen2(arrays, a->name, H5P_DEFAULT);
    if (set < 0) return ck_hdf5_fail(f, CK_INPUT, a->name, err);
    ck_status status = check_size(f, set, a, err);
    if (status == CK_OK && a->n &&
        !ck_hdf5_ok(f, H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, a->data)))
        status = ck_hdf5_fail(f, CK_INPUT, a->name, err);
    H5Dclose(set);
    return status;
}

static ck_status read_all(ck_hdf5_file *f, const ck_state *s, ck_error *err) {
    const uint64_t wanted = s->array_count + s->count_count + s->number_count;
    uint64_t total = 0;
    CK_TRY(read_scalar(f, ".", "values", H5T_STD_U64LE, H5T_NATIVE_UINT64, &total, err));
    hid_t arrays = H5Gopen2(f->id, "arrays", H5P_DEFAULT);
    if (arrays < 0) return ck_hdf5_fail(f, CK_INPUT, "arrays", err);
    for (size_t i = 0; i < s->array_count; i++) CK_TRY(read_array(f, arrays, &s->arrays[i], err));
    for (size_t i = 0; i < s->count_count; i++)
        CK_TRY(read_scalar(f, "counts", s->counts[i].name, H5T_STD_U64LE, H5T_NATIVE_UINT64,
                           s->counts[i].value, err));
    for (size_t i = 0; i < s->number_count; i++)
        CK_TRY(read_scalar(f, "numbers", s->numbers[i].name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE,
                           s->numbers[i].value, err));
    if (total == wanted) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: has %llu values, this run has %llu: it is of another run",
                   f->path, (unsigned long long)total, (unsigned long long)wanted);
}

/* ---- Both ---- */

/* Closes f after status, of which err tells. */
static ck_status finish(ck_hdf5_file *f, ck_status status, ck_error *err) {
    ck_error closing;
    ck_status closed = ck_hdf5_close(f, &closing);
    if (status != CK_OK || closed == CK_OK) return status;
    *err = closing;
    return closed;
}

ck_status ck_state_write(const char *path, const ck_state *s, ck_error *err) {
    ck_hdf5_file f;
    ck_hdf5_lock();
    ck_status status = ck_hdf5_create(path, &f, err);
    if (status == CK_OK) status = finish(&f, write_all(&f, s, err), err);
    ck_hdf5_unlock();
    return status;
}

ck_status ck_state_read(const char *path, const ck_state *s, ck_error *err) {
    ck_hdf5_file f;
    ck_hdf5_lock();
    ck_status status = ck_hdf5_open(path, &f, err);
    if (status == CK_OK) status = finish(&f, read_all(&f, s, err), err);
    ck_hdf5_unlock();
    return status;
}

#else

static ck_status refuse(const char *path, ck_error *err) {
    return ck_fail(err, CK_USAGE,
                   "%s: this program was built without HDF5, which checkpoints need; install "
                   "libhdf5-dev and build again",
                   path);
}

ck_status ck_state_write(const char *path, const ck_state *s, ck_error *err) {
    (void)s;
    return refuse(path, err);
}

ck_status ck_state_read(const char *path, const ck_state *s, ck_error *err) {
    (void)s;
    return refuse(path, err);
}

#endif
