/* Tables of names, and how to look names up in them; see globals.h. */
#include "io/globals.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define NO CK_DTYPE_COUNT

static const ck_global globals[] = {
    {"collections.OrderedDict", CK_GLOBAL_DICT, NO, 0},
    {"collections.Counter", CK_GLOBAL_DICT, NO, 0},
    {"collections.defaultdict", CK_GLOBAL_DICT, NO, 0},
    {"builtins.dict", CK_GLOBAL_DICT, NO, 0},
    {"torch.Size", CK_GLOBAL_SIZE, NO, 0},

    {"torch._utils._rebuild_tensor", CK_GLOBAL_TENSOR, NO, 0},
    {"torch._utils._rebuild_tensor_v2", CK_GLOBAL_TENSOR, NO, 0},
    {"torch._utils._rebuild_tensor_v3", CK_GLOBAL_TENSOR_V3, NO, 0},
    {"torch._utils._rebuild_parameter", CK_GLOBAL_PARAMETER, NO, 0},
    {"torch._utils._rebuild_parameter_with_state", CK_GLOBAL_PARAMETER, NO, 0},
    {"torch.nn.parameter.Parameter", CK_GLOBAL_PARAMETER, NO, 0},
    {"torch._tensor._rebuild_from_type_v2", CK_GLOBAL_FROM_TYPE, NO, 0},
    {"torch._utils._rebuild_qtensor", CK_GLOBAL_UNREADABLE, NO, 0},
    {"torch._utils._rebuild_sparse_tensor", CK_GLOBAL_UNREADABLE, NO, 0},
    {"torch._utils._rebuild_meta_tensor_no_storage", CK_GLOBAL_UNREADABLE, NO, 0},
    {"torch._utils._rebuild_wrapper_subclass", CK_GLOBAL_UNREADABLE, NO, 0},
    {"torch._utils._rebuild_device_tensor_from_numpy", CK_GLOBAL_UNREADABLE, NO, 0},
    {"torch._utils._rebuild_device_tensor_from_cpu_tensor", CK_GLOBAL_UNREADABLE, NO, 0},

    {"torch.DoubleStorage", CK_GLOBAL_STORAGE, CK_F64, 8},
    {"torch.FloatStorage", CK_GLOBAL_STORAGE, CK_F32, 4},
    {"torch.HalfStorage", CK_GLOBAL_STORAGE, CK_F16, 2},
    {"torch.BFloat16Storage", CK_GLOBAL_STORAGE, CK_BF16, 2},
    {"torch.LongStorage", CK_GLOBAL_STORAGE, CK_I64, 8},
    {"torch.IntStorage", CK_GLOBAL_STORAGE, CK_I32, 4},
    {"torch.ShortStorage", CK_GLOBAL_STORAGE, CK_I16, 2},
    {"torch.CharStorage", CK_GLOBAL_STORAGE, CK_I8, 1},
    {"torch.ByteStorage", CK_GLOBAL_STORAGE, CK_U8, 1},
    {"torch.BoolStorage", CK_GLOBAL_STORAGE, CK_BOOL, 1},
    {"torch.ComplexFloatStorage", CK_GLOBAL_STORAGE, CK_C64, 8},
    {"torch.ComplexDoubleStorage", CK_GLOBAL_STORAGE, NO, 16},
    {"torch.QInt8Storage", CK_GLOBAL_STORAGE, NO, 1},
    {"torch.QUInt8Storage", CK_GLOBAL_STORAGE, NO, 1},
    {"torch.QInt32Storage", CK_GLOBAL_STORAGE, NO, 4},
    {"torch.QUInt4x2Storage", CK_GLOBAL_STORAGE, NO, 1},
    {"torch.QUInt2x4Storage", CK_GLOBAL_STORAGE, NO, 1},
    {"torch.storage.UntypedStorage", CK_GLOBAL_STORAGE, CK_U8, 1},

    {"torch.float64", CK_GLOBAL_DTYPE, CK_F64, 8},
    {"torch.float32", CK_GLOBAL_DTYPE, CK_F32, 4},
    {"torch.float16", CK_GLOBAL_DTYPE, CK_F16, 2},
    {"torch.bfloat16", CK_GLOBAL_DTYPE, CK_BF16, 2},
    {"torch.float8_e4m3fn", CK_GLOBAL_DTYPE, CK_F8_E4M3, 1},
    {"torch.float8_e5m2", CK_GLOBAL_DTYPE, CK_F8_E5M2, 1},
    {"torch.float8_e4m3fnuz", CK_GLOBAL_DTYPE, CK_F8_E4M3FNUZ, 1},
    {"torch.float8_e5m2fnuz", CK_GLOBAL_DTYPE, CK_F8_E5M2FNUZ, 1},
    {"torch.float8_e8m0fnu", CK_GLOBAL_DTYPE, CK_F8_E8M0, 1},
    {"torch.int64", CK_GLOBAL_DTYPE, CK_I64, 8},
    {"torch.int32", CK_GLOBAL_DTYPE, CK_I32, 4},
    {"torch.int16", CK_GLOBAL_DTYPE, CK_I16, 2},
    {"torch.int8", CK_GLOBAL_DTYPE, CK_I8, 1},
    {"torch.uint64", CK_GLOBAL_DTYPE, CK_U64, 8},
    {"torch.uint32", CK_GLOBAL_DTYPE, CK_U32, 4},
    {"torch.uint16", CK_GLOBAL_DTYPE, CK_U16, 2},
    {"torch.uint8", CK_GLOBAL_DTYPE, CK_U8, 1},
    {"torch.bool", CK_GLOBAL_DTYPE, CK_BOOL, 1},
    {"torch.complex64", CK_GLOBAL_DTYPE, CK_C64, 8},
    {"torch.complex128", CK_GLOBAL_DTYPE, NO, 16},
    {"torch.complex32", CK_GLOBAL_DTYPE, NO, 4},
    {"torch.bcomplex32", CK_GLOBAL_DTYPE, NO, 4},
    {"torch.float4_e2m1fn_x2", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.bits8", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.bits16", CK_GLOBAL_DTYPE, NO, 2},
    {"torch.bits1x8", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.bits2x4", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.bits4x2", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.qint8", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.quint8", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.qint32", CK_GLOBAL_DTYPE, NO, 4},
    {"torch.quint4x2", CK_GLOBAL_DTYPE, NO, 1},
    {"torch.quint2x4", CK_GLOBAL_DTYPE, NO, 1},

    {"torch.Tensor", CK_GLOBAL_INERT, NO, 0},
    {"torch.device", CK_GLOBAL_INERT, NO, 0},
    {"torch.serialization._get_layout", CK_GLOBAL_INERT, NO, 0},
    {"torch.per_tensor_affine", CK_GLOBAL_INERT, NO, 0},
    {"torch.per_tensor_symmetric", CK_GLOBAL_INERT, NO, 0},
    {"torch.per_channel_affine", CK_GLOBAL_INERT, NO, 0},
    {"torch.per_channel_symmetric", CK_GLOBAL_INERT, NO, 0},
    {"torch.per_channel_affine_float_qparams", CK_GLOBAL_INERT, NO, 0},
    {"_codecs.encode", CK_GLOBAL_INERT, NO, 0},
    {"argparse.Namespace", CK_GLOBAL_INERT, NO, 0},
    {"builtins.bool", CK_GLOBAL_INERT, NO, 0},
    {"builtins.bytearray", CK_GLOBAL_INERT, NO, 0},
    {"builtins.bytes", CK_GLOBAL_INERT, NO, 0},
    {"builtins.complex", CK_GLOBAL_INERT, NO, 0},
    {"builtins.float", CK_GLOBAL_INERT, NO, 0},
    {"builtins.frozenset", CK_GLOBAL_INERT, NO, 0},
    {"builtins.int", CK_GLOBAL_INERT, NO, 0},
    {"builtins.list", CK_GLOBAL_INERT, NO, 0},
    {"builtins.object", CK_GLOBAL_INERT, NO, 0},
    {"builtins.set", CK_GLOBAL_INERT, NO, 0},
    {"builtins.slice", CK_GLOBAL_INERT, NO, 0},
    {"builtins.str", CK_GLOBAL_INERT, NO, 0},
    {"builtins.tuple", CK_GLOBAL_INERT, NO, 0},
    {"collections.deque", CK_GLOBAL_INERT, NO, 0},
    {"copyreg._reconstructor", CK_GLOBAL_INERT, NO, 0},
    {"datetime.datetime", CK_GLOBAL_INERT, NO, 0},
    {"datetime.timedelta", CK_GLOBAL_INERT, NO, 0},
    {"pathlib.Path", CK_GLOBAL_INERT, NO, 0},
    {"pathlib.PosixPath", CK_GLOBAL_INERT, NO, 0},
    {"pathlib.PurePosixPath", CK_GLOBAL_INERT, NO, 0},
    {"pathlib.WindowsPath", CK_GLOBAL_INERT, NO, 0},
    {"typing.Any", CK_GLOBAL_INERT, NO, 0},
    {"numpy.dtype", CK_GLOBAL_INERT, NO, 0},
    {"numpy.ndarray", CK_GLOBAL_INERT, NO, 0},
    {"numpy.core.multiarray.scalar", CK_GLOBAL_INERT, NO, 0},
    {"numpy.core.multiarray._reconstruct", CK_GLOBAL_INERT, NO, 0},
    {"numpy.core.numeric._frombuffer", CK_GLOBAL_INERT, NO, 0},
    {"numpy._core.multiarray.scalar", CK_GLOBAL_INERT, NO, 0},
    {"numpy._core.multiarray._reconstruct", CK_GLOBAL_INERT, NO, 0},
    {"numpy._core.numeric._frombuffer", CK_GLOBAL_INERT, NO, 0},
    {"omegaconf.base.ContainerMetadata", CK_GLOBAL_INERT, NO, 0},
    {"omegaconf.base.Metadata", CK_GLOBAL_INERT, NO, 0},
    {"omegaconf.dictconfig.DictConfig", CK_GLOBAL_INERT, NO, 0},
    {"omegaconf.listconfig.ListConfig", CK_GLOBAL_INERT, NO, 0},
    {"omegaconf.nodes.AnyNode", CK_GLOBAL_INERT, NO, 0},
    {"pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", CK_GLOBAL_INERT, NO, 0},
    {"pytorch_lightning.utilities.parsing.AttributeDict", CK_GLOBAL_INERT, NO, 0},

    /* What training frameworks leave in checkpoints. A reader need not mind, but these packages
     * have functions that load files, so that finding them is not a reason to trust. */
    {"omegaconf.", CK_GLOBAL_INERT, NO, 0},
    {"pytorch_lightning.utilities.", CK_GLOBAL_INERT, NO, 0},
};

enum { GLOBALS = sizeof globals / sizeof *globals };

const ck_global *ck_global_find(const char *name) {
    /* The types of storages on a GPU, in old files. */
    char plain[64];
    size_t n = strlen(name);
    if (strncmp(name, "torch.cuda.", 11) == 0 && n > 18 && n < sizeof plain &&
        strcmp(name + n - 7, "Storage") == 0) {
        snprintf(plain, sizeof plain, "torch.%s", name + 11);
        name = plain;
    }
    if (strncmp(name, "__builtin__.", 12) == 0 && n < sizeof plain) {
        snprintf(plain, sizeof plain, "builtins.%s", name + 12);
        name = plain;
    }
    if (strcmp(name, "copy_reg._reconstructor") == 0) name = "copyreg._reconstructor";
    for (size_t i = 0; i < GLOBALS; i++) {
        size_t length = strlen(globals[i].name);
        if (globals[i].name[length - 1] == '.' ? strncmp(name, globals[i].name, length) == 0
                                               : strcmp(name, globals[i].name) == 0)
            return &globals[i];
    }
    return NULL;
}

/* ---- Verdicts ---- */

/* Top-level modules of Python's standard library, of version 2 too, whose names are translated when
 * a pickle is loaded. Those whose name starts with an underscore are known by that. */
static const char standard_library[] =
    "BaseHTTPServer Bastion CGIHTTPServer ConfigParser Cookie Dialog DocXMLRPCServer FileDialog "
    "HTMLParser Queue ScrolledText SimpleDialog SimpleHTTPServer SimpleXMLRPCServer SocketServer "
    "StringIO Tix Tkconstants Tkdnd Tkinter UserDict UserList UserString anydbm cStringIO "
    "cookielib "
    "copy_reg dbhash dumbdbm gdbm htmlentitydefs markupbase repr robotparser tkColorChooser "
    "tkCommonDialog tkFileDialog tkFont tkMessageBox tkSimpleDialog ttk urlparse whichdb abc aifc "
    "annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit audioop "
    "base64 bdb binascii bisect builtins bz2 cPickle cProfile calendar cgi cgitb chunk cmath "
    "cmd code codecs codeop collections colorsys commands compileall compiler compression "
    "concurrent configparser contextlib contextvars copy copyreg crypt csv ctypes curses "
    "dataclasses datetime dbm decimal difflib dis distutils doctest dummy_thread email "
    "encodings ensurepip enum errno exceptions faulthandler fcntl filecmp fileinput fnmatch "
    "fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib grp gzip "
    "hashlib heapq hmac html http httplib idlelib ihooks imaplib imghdr imp importlib imputil "
    "inspect io ipaddress itertools json keyword lib2to3 linecache locale logging lzma "
    "mailbox mailcap marshal math mimetypes mmap modulefinder msilib msvcrt multiprocessing "
    "netrc new nis nntplib nt ntpath nturl2path numbers opcode operator optparse os "
    "ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform plistlib popen2 poplib "
    "posix posixfile posixpath pprint profile pstats pty pwd py_compile pyclbr pydoc "
    "pydoc_data pyexpat queue quopri random re readline reprlib resource rexec rlcompleter "
    "runpy sched secrets select selectors shelve shlex shutil signal site smtpd smtplib "
    "sndhdr socket socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat "
    "statistics string stringprep struct subprocess sunau symtable sys sysconfig syslog "
    "tabnanny tarfile telnetlib tempfile termios test textwrap this thread threading time "
    "timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo "
    "types typing unicodedata unittest urllib urllib2 user uu uuid venv warnings wave weakref "
    "webbrowser winreg winsound wsgiref xdrlib xml xmlrpc xmlrpclib zipapp zipfile zipimport "
    "zlib zoneinfo";

/* Packages and modules beside it that run, load or fetch what they are told to. */
static const char dangerous_prefixes[] =
    "IPython. aiohttp. cloudpickle. dill. fabric. fsspec. invoke. jinja2. joblib. keras. "
    "mako. numpy.ctypeslib. numpy.distutils. numpy.f2py. numpy.lib. numpy.load numpy.testing. "
    "pandas. paramiko. pip. pkg_resources. plumbum. psutil. requests. setuptools. sh. sympy. "
    "tensorflow. torch. torchvision. transformers. urllib3. wheel. yaml.";

/* Exceptions to them: classes that models saved whole consist of. */
static const char unknown_prefixes[] =
    "torch.nn. torch.optim. torch.torch_version. torch._C._nn. torchvision.models. "
    "transformers.models. keras.layers.";

/* Whether a list of words has this one of n characters. */
static bool listed(const char *word, size_t n, const char *list) {
    for (size_t length; *list; list += length + (list[length] == ' ')) {
        length = strcspn(list, " ");
        if (length == n && strncmp(word, list, n) == 0) return true;
    }
    return false;
}

/* Whether a name begins with one of the words of a list. */
static bool begins(const char *name, const char *list) {
    for (size_t length; *list; list += length + (list[length] == ' ')) {
        length = strcspn(list, " ");
        if (strncmp(name, list, length) == 0) return true;
    }
    return false;
}

/* A name with dots walks from member to member, so that any module leads to any other: to os, say,
 * or to what every class and function has. */
static bool walks_away(const char *name) {
    for (;;) {
        size_t n = strcspn(name, ".");
        if (listed(name, n, standard_library) || strncmp(name, "__", 2) == 0) return true;
        if (!name[n]) return false;
        name += n + 1;
    }
}

ck_verdict ck_global_verdict(const char *module, const char *name) {
    char full[256];
    int n = snprintf(full, sizeof full, "%s.%s", module, name);
    if (n < 0 || (size_t)n >= sizeof full) return CK_DANGEROUS; /* no such name exists */
    const ck_global *g = ck_global_find(full);
    if (g && strcmp(g->name + strlen(g->name) - 1, ".") != 0) return CK_HARMLESS;
    size_t top = strcspn(module, ".");
    bool own = listed(module, top, "__main__ __torch__");
    if (listed(module, top, standard_library) || (module[0] == '_' && !own) || walks_away(name))
        return CK_DANGEROUS;
    if (begins(full, dangerous_prefixes) && !begins(full, unknown_prefixes)) return CK_DANGEROUS;
    return CK_UNKNOWN;
}

const char *ck_verdict_name(ck_verdict v) {
    static const char *const names[] = {"harmless", "unknown", "dangerous"};
    return names[v];
}
