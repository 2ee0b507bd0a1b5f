/* What names mean, and what is thought of them. */
#include "tests/check.h"

#include "io/globals.h"

#include <string.h>

static void test_meanings(void **state) {
    (void)state;
    static const struct {
        const char *name;
        ck_global_meaning meaning;
        ck_dtype dtype;
        unsigned bytes;
    } known[] = {
        {"torch.HalfStorage", CK_GLOBAL_STORAGE, CK_F16, 2},
        {"torch.cuda.BFloat16Storage", CK_GLOBAL_STORAGE, CK_BF16, 2},
        {"torch.storage.UntypedStorage", CK_GLOBAL_STORAGE, CK_U8, 1},
        {"torch.ComplexDoubleStorage", CK_GLOBAL_STORAGE, CK_DTYPE_COUNT, 16},
        {"torch.float8_e4m3fn", CK_GLOBAL_DTYPE, CK_F8_E4M3, 1},
        {"torch.uint16", CK_GLOBAL_DTYPE, CK_U16, 2},
        {"collections.OrderedDict", CK_GLOBAL_DICT, CK_DTYPE_COUNT, 0},
        {"__builtin__.dict", CK_GLOBAL_DICT, CK_DTYPE_COUNT, 0},
        {"torch._utils._rebuild_tensor_v3", CK_GLOBAL_TENSOR_V3, CK_DTYPE_COUNT, 0},
        {"omegaconf.listconfig.ListConfig", CK_GLOBAL_INERT, CK_DTYPE_COUNT, 0},
        {"pytorch_lightning.utilities.anything.at_all", CK_GLOBAL_INERT, CK_DTYPE_COUNT, 0},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const ck_global *g = ck_global_find(known[i].name);
        assert_non_null(g);
        assert_int_equal(g->meaning, known[i].meaning);
        assert_int_equal(g->dtype, known[i].dtype);
        assert_int_equal(g->bytes, known[i].bytes);
    }
    static const char *const unknown[] = {"",
                                          "torch",
                                          "torch.load",
                                          "torch.HalfStorag",
                                          "torch.HalfStorage2",
                                          "omegaco",
                                          "torch.cuda.load",
                                          "os.system",
                                          "builtins.eval",
                                          "torch.cuda.Storage",
                                          "xtorch.HalfStorage",
                                          "__builtin__.eval"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        assert_null(ck_global_find(unknown[i]));
}

/* A storage's and an element type's size must be that of the dtype. */
static void test_sizes_agree(void **state) {
    (void)state;
    static const char *const names[] = {"DoubleStorage",
                                        "FloatStorage",
                                        "HalfStorage",
                                        "BFloat16Storage",
                                        "LongStorage",
                                        "IntStorage",
                                        "ShortStorage",
                                        "CharStorage",
                                        "ByteStorage",
                                        "BoolStorage",
                                        "ComplexFloatStorage",
                                        "float64",
                                        "float32",
                                        "float16",
                                        "bfloat16",
                                        "float8_e5m2",
                                        "float8_e4m3fnuz",
                                        "float8_e5m2fnuz",
                                        "float8_e8m0fnu",
                                        "int64",
                                        "int32",
                                        "int16",
                                        "int8",
                                        "uint64",
                                        "uint32",
                                        "uint8",
                                        "bool",
                                        "complex64"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64] = "torch.";
        const ck_global *g = ck_global_find(strcat(name, names[i]));
        assert_non_null(g);
        assert_int_equal(g->bytes * 8, ck_dtype_bits(g->dtype));
    }
}

static void test_verdicts(void **state) {
    (void)state;
    static const struct {
        const char *module, *name;
        ck_verdict verdict;
    } cases[] = {
        {"collections", "OrderedDict", CK_HARMLESS},
        {"torch._utils", "_rebuild_tensor_v2", CK_HARMLESS},
        {"__builtin__", "set", CK_HARMLESS},
        {"copy_reg", "_reconstructor", CK_HARMLESS},
        {"numpy.core.multiarray", "scalar", CK_HARMLESS},
        {"omegaconf.dictconfig", "DictConfig", CK_HARMLESS},
        {"omegaconf", "OmegaConf.load", CK_UNKNOWN},
        {"pytorch_lightning.utilities.cloud_io", "load", CK_UNKNOWN},
        {"mypackage.models", "Model", CK_UNKNOWN},
        {"__main__", "Model", CK_UNKNOWN},
        {"torch.nn.modules.linear", "Linear", CK_UNKNOWN},
        {"torch.optim.adam", "Adam", CK_UNKNOWN},
        {"os", "system", CK_DANGEROUS},
        {"builtins", "eval", CK_DANGEROUS},
        {"__builtin__", "getattr", CK_DANGEROUS},
        {"collections", "namedtuple", CK_DANGEROUS},
        {"_codecs", "decode", CK_DANGEROUS},
        {"_io", "FileIO", CK_DANGEROUS},
        {"os.path", "join", CK_DANGEROUS},
        {"torch", "load", CK_DANGEROUS},
        {"torch.nn", "os.system", CK_DANGEROUS},
        {"torch.nn.modules", "linear.__builtins__.eval", CK_DANGEROUS},
        {"mypackage", "subprocess.Popen", CK_DANGEROUS},
        {"mypackage", "Model.__init__", CK_DANGEROUS},
        {"omegaconf.listconfig", "os.system", CK_DANGEROUS},
        {"pip", "main", CK_DANGEROUS},
        {"copy_reg", "add_extension", CK_DANGEROUS},
        {"UserDict", "namedtuple", CK_DANGEROUS},
        {"numpy.f2py.crackfortran", "getlincoef", CK_DANGEROUS},
        {"ostrich", "Bird", CK_UNKNOWN},
        {"pipeline", "Step", CK_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (ck_global_verdict(cases[i].module, cases[i].name) != cases[i].verdict)
            fail_msg("%s.%s is %s", cases[i].module, cases[i].name,
                     ck_verdict_name(ck_global_verdict(cases[i].module, cases[i].name)));
    char longest[400];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = 0;
    assert_int_equal(ck_global_verdict(longest, "b"), CK_DANGEROUS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meanings),
        cmocka_unit_test(test_sizes_agree),
        cmocka_unit_test(test_verdicts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
