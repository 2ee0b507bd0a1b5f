/* Encoded data in HDF5, see cache.h. */
#include "distill/data/cache_int.h"

#ifdef CK_HAVE_HDF5

#include "io/hdf5_file.h"
#include "io/os.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* CHUNK: bytes with one checksum, about. KEPT: bytes of chunks that are kept of a dataset. */
enum { CHUNK = 16 << 10, KEPT = 8 << 20 };

struct ck_cache {
    const ck_encoding *e;
    ck_hdf5_file file;
    ck_dtype dtype;
    hid_t type;
    hid_t *sets; /* captions, then the buckets' */
    void *raw;   /* a row */
};

/* ---- What is where ---- */

/* The type in the file and in memory: raw bytes are moved, ours are the casts. To be closed. */
static hid_t type_of(ck_dtype dtype) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (dtype == CK_F32) return type;
    H5Tset_fields(type, 15, 10, 5, 0, 10);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 15);
    return type;
}

static size_t set_count(const ck_encoding *e) {
    return 1 + e->buckets->count;
}

static void name_set(const ck_encoding *e, size_t set, char *name, size_t size) {
    if (set == 0)
        snprintf(name, size, "/captions");
    else
        snprintf(name, size, "/images/%zux%zu", e->buckets->buckets[set - 1].width,
                 e->buckets->buckets[set - 1].height);
}

static size_t set_rows(const ck_encoding *e, size_t set) {
    return set == 0 ? e->buckets->caption_count : e->buckets->buckets[set - 1].count;
}

static size_t set_width(const ck_encoding *e, size_t set) {
    return set == 0 ? ck_encoding_text(e) : ck_encoding_latent(e, set - 1);
}

static size_t chunk_rows(const ck_encoding *e, size_t set, ck_dtype dtype) {
    size_t n = CHUNK / (set_width(e, set) * (ck_dtype_bits(dtype) / 8)), rows = set_rows(e, set);
    return n < 1 ? 1 : n > rows ? rows : n;
}

/* The set and row of an item. */
static size_t locate(const ck_encoding *e, size_t item, size_t *row) {
    size_t set = 0;
    for (; item >= set_rows(e, set); set++) item -= set_rows(e, set);
    *row = item;
    return set;
}

/* ---- Writing ---- */

static ck_status write_text(ck_hdf5_file *f, const char *name, const char *text, ck_error *err) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(text));
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    hid_t attribute = H5Acreate2(f->id, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    ck_status s = CK_OK;
    if (attribute < 0 || !ck_hdf5_ok(f, H5Awrite(attribute, type, text)))
        s = ck_hdf5_fail(f, CK_IO, name, err);
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    return s;
}

/* Without times: the same data give the same bytes. */
static ck_status create_group(ck_hdf5_file *f, const char *name, ck_error *err) {
    hid_t how = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(how, 0);
    hid_t group = H5Gcreate2(f->id, name, H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    return group < 0 ? ck_hdf5_fail(f, CK_IO, name, err) : CK_OK;
}

static hid_t create_set(ck_hdf5_file *f, const ck_encoding *e, size_t set, ck_dtype dtype,
                        hid_t type) {
    char name[80];
    name_set(e, set, name, sizeof name);
    const hsize_t shape[] = {set_rows(e, set), set_width(e, set)};
    const hsize_t chunk[] = {chunk_rows(e, set, dtype), shape[1]};
    hid_t space = H5Screate_simple(2, shape, NULL);
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(how, 0);
    H5Pset_chunk(how, 2, chunk);
    H5Pset_fletcher32(how);
    H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    hid_t id = H5Dcreate2(f->id, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    H5Sclose(space);
    return id;
}

/* Rows from memory to a set or back. */
static herr_t move_rows(hid_t set, hid_t type, size_t first, size_t n, size_t width, void *raw,
                        bool write) {
    const hsize_t start[] = {first, 0}, count[] = {n, width};
    hid_t file = H5Dget_space(set), memory = H5Screate_simple(2, count, NULL);
    herr_t result = H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL);
    if (result >= 0)
        result = write ? H5Dwrite(set, type, memory, file, H5P_DEFAULT, raw)
                       : H5Dread(set, type, memory, file, H5P_DEFAULT, raw);
    H5Sclose(memory);
    H5Sclose(file);
    return result;
}

/* A chunk after the other, from the part's records. */
static ck_status copy_rows(ck_hdf5_file *f, ck_cache_part *p, size_t set, size_t item, hid_t id,
                           hid_t type, ck_error *err) {
    size_t rows = set_rows(p->e, set), step = chunk_rows(p->e, set, p->dtype);
    size_t width = set_width(p->e, set), bytes = width * (ck_dtype_bits(p->dtype) / 8);
    char *raw = ck_alloc_array(step, bytes);
    ck_status s = raw ? CK_OK : ck_fail_memory(err, f->path);
    for (size_t i = 0; i < rows && s == CK_OK; i += step) {
        size_t n = rows - i < step ? rows - i : step;
        for (size_t k = 0; k < n && s == CK_OK; k++) {
            s = ck_cache_part__read(p, item + i + k, err);
            if (s == CK_OK) memcpy(raw + k * bytes, p->raw, bytes);
        }
        if (s == CK_OK && !ck_hdf5_ok(f, move_rows(id, type, i, n, width, raw, true)))
            s = ck_hdf5_fail(f, CK_IO, "data", err);
    }
    free(raw);
    return s;
}

static ck_status write_sets(ck_hdf5_file *f, ck_cache_part *p, ck_error *err) {
    hid_t type = type_of(p->dtype);
    ck_status s = CK_OK;
    ck_cache_part__rewind(p);
    for (size_t set = 0, item = 0; set < set_count(p->e) && s == CK_OK; set++) {
        hid_t id = create_set(f, p->e, set, p->dtype, type);
        s = id < 0 ? ck_hdf5_fail(f, CK_IO, "data", err)
                   : copy_rows(f, p, set, item, id, type, err);
        if (id >= 0 && !ck_hdf5_ok(f, H5Dclose(id)) && s == CK_OK)
            s = ck_hdf5_fail(f, CK_IO, "data", err);
        item += set_rows(p->e, set);
    }
    H5Tclose(type);
    return s;
}

static ck_status write_file(ck_cache_part *p, const ck_cache_key *key, const char *path,
                            ck_error *err) {
    ck_hdf5_file f;
    CK_TRY(ck_hdf5_create(path, &f, err));
    ck_status s = write_text(&f, "format", "ckdistill cache 1", err);
    for (int i = 0; i < CK_CACHE_KEYS && s == CK_OK; i++)
        s = write_text(&f, ck_cache__names[i], key->hex[i], err);
    if (s == CK_OK) s = create_group(&f, "images", err);
    if (s == CK_OK) s = write_sets(&f, p, err);
    ck_error closing;
    ck_status closed = ck_hdf5_close(&f, &closing);
    if (s == CK_OK && closed != CK_OK) *err = closing;
    return s == CK_OK ? closed : s;
}

static ck_status write_cache(ck_cache_part *p, const ck_cache_key *key, const char *path,
                             ck_error *err) {
    char *temporary = ck_sprintf("%s.new", path);
    if (!temporary) return ck_fail_memory(err, path);
    ck_hdf5_lock();
    ck_status s = write_file(p, key, temporary, err);
    ck_hdf5_unlock();
    if (s == CK_OK && ck_os.rename(temporary, path, 0) != 0) s = ck_fail_errno(err, "%s", path);
    if (s != CK_OK) unlink(temporary);
    free(temporary);
    return s;
}

ck_status ck_cache_make(const ck_encoding *e, const char *path, ck_dtype dtype, ck_error *err) {
    ck_cache *there;
    ck_error other;
    if (ck_cache_open(e, path, &there, &other) == CK_OK) {
        bool same = there->dtype == dtype;
        ck_cache_close(there);
        if (same) return CK_OK;
    }
    ck_cache_key key;
    ck_cache_part part;
    CK_TRY(ck_cache__key(e, &key, err));
    CK_TRY(ck_cache_part__open(&part, e, path, &key, dtype, err));
    ck_status s = ck_cache_part__fill(&part, err);
    if (s == CK_OK) s = write_cache(&part, &key, path, err);
    ck_cache_part__close(&part, s == CK_OK);
    return s;
}

/* ---- Reading ---- */

static ck_status check_key(ck_cache *c, const ck_cache_key *key, int i, ck_error *err) {
    char hex[CK_SHA256_HEX] = "";
    hid_t attribute = H5Aopen(c->file.id, ck_cache__names[i], H5P_DEFAULT);
    if (attribute < 0) return ck_hdf5_fail(&c->file, CK_INPUT, ck_cache__names[i], err);
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, CK_SHA256_HEX);
    bool ok = ck_hdf5_ok(&c->file, H5Aread(attribute, type, hex));
    H5Tclose(type);
    H5Aclose(attribute);
    if (!ok) return ck_hdf5_fail(&c->file, CK_INPUT, ck_cache__names[i], err);
    if (strncmp(hex, key->hex[i], CK_SHA256_HEX) == 0) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: was made %s; `ckdistill cache` makes it anew", c->file.path,
                   ck_cache__meanings[i]);
}

static ck_status open_set(ck_cache *c, size_t set, ck_error *err) {
    char name[80];
    name_set(c->e, set, name, sizeof name);
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    H5Pset_chunk_cache(access, 10007, KEPT, 1);
    c->sets[set] = H5Dopen2(c->file.id, name, access);
    H5Pclose(access);
    if (c->sets[set] < 0) return ck_hdf5_fail(&c->file, CK_INPUT, name, err);
    hid_t type = H5Dget_type(c->sets[set]), space = H5Dget_space(c->sets[set]);
    hsize_t shape[2] = {0};
    bool fits = H5Sget_simple_extent_ndims(space) == 2 &&
                H5Sget_simple_extent_dims(space, shape, NULL) == 2 &&
                shape[0] == set_rows(c->e, set) && shape[1] == set_width(c->e, set);
    c->dtype = H5Tget_size(type) == 2 ? CK_F16 : CK_F32;
    if (set == 0) c->type = type_of(c->dtype);
    fits = fits && H5Tequal(type, c->type) > 0;
    H5Sclose(space);
    H5Tclose(type);
    if (fits) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: %s is not of the shape and type that it should have",
                   c->file.path, name);
}

static ck_status open_all(ck_cache *c, const ck_cache_key *key, ck_error *err) {
    for (int i = 0; i < CK_CACHE_KEYS; i++) CK_TRY(check_key(c, key, i, err));
    size_t widest = 0;
    for (size_t set = 0; set < set_count(c->e); set++) {
        CK_TRY(open_set(c, set, err));
        if (set_width(c->e, set) > widest) widest = set_width(c->e, set);
    }
    c->raw = ck_alloc_array(widest, sizeof(float));
    return c->raw ? CK_OK : ck_fail_memory(err, c->file.path);
}

ck_status ck_cache_open(const ck_encoding *e, const char *path, ck_cache **out, ck_error *err) {
    if (access(path, F_OK) != 0) return ck_fail_errno(err, "%s (`ckdistill cache` makes it)", path);
    ck_cache_key key;
    CK_TRY(ck_cache__key(e, &key, err));
    ck_cache *c = ck_alloc(sizeof *c);
    if (c) c->sets = ck_alloc_array(set_count(e), sizeof *c->sets);
    if (!c || !c->sets) {
        free(c);
        return ck_fail_memory(err, path);
    }
    c->e = e;
    ck_hdf5_lock();
    ck_status s = ck_hdf5_open(path, &c->file, err);
    if (s == CK_OK) {
        s = open_all(c, &key, err);
        ck_error closing;
        if (s != CK_OK) ck_hdf5_close(&c->file, &closing);
    }
    ck_hdf5_unlock();
    if (s == CK_OK) {
        *out = c;
    } else {
        free(c->raw), free(c->sets);
        free(c);
    }
    return s;
}

void ck_cache_close(ck_cache *c) {
    if (!c) return;
    ck_error ignored; /* nothing was written */
    ck_hdf5_lock();
    ck_hdf5_close(&c->file, &ignored); /* with all that is open in it */
    H5Tclose(c->type);
    ck_hdf5_unlock();
    free(c->raw), free(c->sets);
    free(c);
}

ck_status ck_cache_read(ck_cache *c, size_t item, float *values, ck_error *err) {
    size_t row, set = locate(c->e, item, &row), width = set_width(c->e, set);
    ck_status s = CK_OK;
    ck_hdf5_lock();
    if (!ck_hdf5_ok(&c->file, move_rows(c->sets[set], c->type, row, 1, width, c->raw, false))) {
        char name[80];
        name_set(c->e, set, name, sizeof name);
        s = ck_hdf5_fail(&c->file, CK_INPUT, name, err);
    }
    if (s == CK_OK) ck_kernels_best()->decode[c->dtype](values, c->raw, width);
    ck_hdf5_unlock();
    return s;
}

#else

static ck_status refuse(const char *path, ck_error *err) {
    return ck_fail(err, CK_USAGE,
                   "%s: this program was built without HDF5, which caches need; install "
                   "libhdf5-dev and build again",
                   path);
}

ck_status ck_cache_make(const ck_encoding *e, const char *path, ck_dtype dtype, ck_error *err) {
    (void)e, (void)dtype;
    return refuse(path, err);
}

ck_status ck_cache_open(const ck_encoding *e, const char *path, ck_cache **c, ck_error *err) {
    (void)e, (void)c;
    return refuse(path, err);
}

void ck_cache_close(ck_cache *c) {
    (void)c;
}

ck_status ck_cache_read(ck_cache *c, size_t item, float *values, ck_error *err) {
    (void)c, (void)item, (void)values;
    return refuse("a cache", err);
}

#endif
