#!/usr/bin/env python3
"""Writes the checkpoints in tests/data/ckpt/: small ones made by hand, most of them hostile. Some go
to tests/fuzz/corpus/ as well, as seeds.

    python3 tests/make_ckpt.py          from the root of the tree; needs nothing but Python

Pickles are put together opcode by opcode and archives header by header, so that every rule can be
broken alone. Nothing here is executed, and what the files would execute in Python is harmless: the
commands are `true`. What each file is to be answered with stands in tests/test_ckpt.c and
tests/test_scan.c.
"""
import os
import struct
import zlib

FOLDER = "tests/data/ckpt/"
ZIP_SEEDS = "tests/fuzz/corpus/zip/"
PICKLE_SEEDS = "tests/fuzz/corpus/pickle/"
VALUES = struct.pack("<4f", 1, 2, 3, 4)  # of every storage '0'


def save(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def write(name, data):
    save(FOLDER + name + ".ckpt", data)
    if len(data) < 1000 and name.startswith(("good", "old_good", "old_view", "zip_inflate")):
        save(ZIP_SEEDS + name, data)


# ---- Pickles ----


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return b"X" + struct.pack("<I", len(s)) + s


def short(s):
    return b"\x8c" + bytes([len(s)]) + s.encode()


def number(n):
    if 0 <= n < 256:
        return b"K" + bytes([n])
    if -(2**31) <= n < 2**31:
        return b"J" + struct.pack("<i", n)
    size = n.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + n.to_bytes(size, "little", signed=True)


def named(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def group(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(items):
    return group(*map(number, items))


def mapping(**items):
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def call(module, name, *arguments):
    return named(module, name) + group(*arguments) + b"R"


def storage(kind="FloatStorage", key="0", count=4, module="torch", extra=b""):
    return group(text("storage"), named(module, kind), text(key), text("cpu"), number(count),
                 extra) + b"Q"


def tensor(stored=None, offset=0, size=(2, 2), stride=(2, 1), maker="_rebuild_tensor_v2"):
    rest = [] if maker == "_rebuild_tensor" else [b"\x89", call("collections", "OrderedDict")]
    return call("torch._utils", maker, storage() if stored is None else stored, number(offset),
                numbers(size), numbers(stride), *rest)


def pickled(body):
    return b"\x80\x02" + body + b"."


RUN = call("os", "system", text("true"))
MODEL = pickled(mapping(w=tensor()))


# ---- Archives ----


class Zip:
    """Headers with every field open to lies. The entries are stored unless said otherwise."""

    def __init__(self):
        self.data, self.directory, self.count = b"", b"", 0

    def add(self, name, content, local_name=None, method=0, local_method=None, flags=0, size=None,
            packed=None, crc=None, at=None, zip64=False):
        local_name = name if local_name is None else local_name
        body = content
        if method == 8:
            deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
            body = deflate.compress(content) + deflate.flush()
        size = len(content) if size is None else size
        packed = len(body) if packed is None else packed
        crc = zlib.crc32(content) if crc is None else crc
        at = len(self.data) if at is None else at
        local_method = method if local_method is None else local_method
        self.data += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, flags, local_method, 0, 0, crc,
                                 packed & 0xFFFFFFFF, size & 0xFFFFFFFF, len(local_name), 0)
        self.data += local_name.encode() + body
        extra = b""
        if zip64:
            extra = struct.pack("<HHQQQ", 1, 24, size, packed, at)
            size = packed = at = 0xFFFFFFFF
        self.directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 0, 0, flags, method, 0, 0,
                                      crc, packed, size, len(name), len(extra), 0, 0, 0, 0, at)
        self.directory += name.encode() + extra
        self.count += 1
        return self

    def end(self, count=None, size=None, at=None, zip64=False, gap=b"", behind=b""):
        count = self.count if count is None else count
        size = len(self.directory) if size is None else size
        at = len(self.data) if at is None else at
        out = self.data + self.directory + gap
        if zip64:
            record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, count, count, size, at)
            out += record + struct.pack("<4sIQI", b"PK\6\7", 0, len(out), 1)
            count, size, at = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
        out += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, size, at, 0)
        return out + behind


def archive(pickle=MODEL, values=VALUES, **options):
    """An archive as PyTorch makes it; options go to the pickle's entry."""
    return (Zip().add("a/data.pkl", pickle, **options).add("a/byteorder", b"little")
            .add("a/data/0", values).add("a/version", b"3\n"))


def model(name, body, **options):
    """A file whose pickle has this body."""
    if name.startswith(("good", "run", "tensor_v3")) and len(body) < 1000:
        save(PICKLE_SEEDS + name, pickled(body))
    write(name, archive(pickled(body), **options).end())


# Good ones.
write("good", archive().end())
write("good_zip64", Zip().add("a/data.pkl", MODEL, zip64=True).add("a/data/0", VALUES, zip64=True)
      .end(zip64=True))
write("good_deflated", Zip().add("a/data.pkl", MODEL, method=8).add("a/data/0", VALUES, method=8)
      .end())
write("good_wrong_crc", archive(crc=12345).end())
write("good_trailing", archive().end(behind=b"trailing bytes"))
write("good_folder_entry", Zip().add("a/", b"").add("a/data.pkl", MODEL).add("a/data/0", VALUES)
      .end())
model("good_memo", b"}(" + text("w") + tensor() + b"r\xff\xff\xff\xff" + text("v")
      + b"j\xff\xff\xff\xff" + b"u")
model("good_python2", call("collections", "OrderedDict", b"](" + b"]U\x01w" + b"a" + tensor()
                           + b"ae"))
model("good_first_generation", mapping(w=tensor(storage("FloatStorage", module="torch.cuda"),
                                                maker="_rebuild_tensor")))
model("good_full", b"}(" + named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
      + mapping(best=call("numpy.core.multiarray", "scalar", named("numpy", "dtype"), b"N"))
      + text("state_dict") + mapping(w=tensor(), step=number(3)) + text("epoch") + number(1) + b"u")
model("good_frames", b"\x95" + struct.pack("<Q", 2**63) + mapping(w=tensor()))
model("good_after_stop", mapping(w=tensor()) + b"." + b"\x80\x02" + RUN)
# Each tuple holds the one before it twice, 2^60 in all: shared, not copied.
laughs = b"]q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
model("good_laughs", mapping(w=tensor(), laughs=laughs + b"0" * 60))
model("good_cycle", mapping(w=tensor(), loop=b"]q\x01h\x01a"))
expand = {"pad%d" % i: number(i) for i in range(3)}
model("good_expanded", mapping(w=tensor(size=(2**20, 2**20), stride=(0, 0)), **expand))

# Archives that break a rule.
write("zip_cut", archive().end()[:-30])
write("zip_cut_data", archive().end()[:200])
write("zip_encrypted", archive(pickled(RUN), flags=0x1).end())
write("zip_patched", archive(pickled(RUN), flags=0x20).end())
write("zip_strong_encryption", archive(pickled(RUN), flags=0x40).end())
write("zip_run_wrong_crc", archive(pickled(RUN), crc=12345).end())
write("zip_local_name", archive(pickled(RUN), local_name="a/datap.kl").end())
write("zip_local_method", archive(pickled(RUN), local_method=99).end())
write("zip_method", archive(method=12).end())
write("zip_duplicate", archive().add("a/data.pkl", pickled(RUN)).end())
first = Zip().add("a/data.pkl", pickled(RUN), size=200, packed=200)
write("zip_appended", archive().end(behind=archive(pickled(RUN)).end()))
write("zip_prepended", archive(pickled(RUN)).end(behind=archive().end()))
write("zip_overlap", first.add("a/data/0", VALUES + bytes(200)).end())
write("zip_climbs", archive().add("a/../../b", b"x").end())
write("zip_absolute", archive().add("/etc/x", b"x").end())
write("zip_nul", archive().add("a/data.pkl\0.txt", b"x").end())
write("zip_elsewhere", archive().end(gap=b"gap"))
write("zip_count", archive().end(count=3))
write("zip_count_large", archive().end(count=60000))
write("zip_beyond", archive(packed=10**6, size=10**6).end())
write("zip_size_lie", Zip().add("a/data.pkl", MODEL, method=8, size=10**9).end())
write("zip_bomb", Zip().add("a/data.pkl", b"N" * (3 << 20), method=8).end())
write("zip_inflate_short", Zip().add("a/data.pkl", MODEL, method=8, size=len(MODEL) + 1).end())
write("zip_inflate_long", Zip().add("a/data.pkl", MODEL, method=8, size=len(MODEL) - 1).end())
damaged = bytearray(Zip().add("a/data.pkl", MODEL, method=8).end())
damaged[42] ^= 0xFF
write("zip_inflate_damaged", bytes(damaged))
write("zip_no_pickle", Zip().add("a/data/0", VALUES).end())
write("zip_empty", Zip().add("a/", b"").end())
write("zip_no_folder", Zip().add("data.pkl", MODEL).end())
write("zip_no_storage", Zip().add("a/data.pkl", MODEL).end())
write("zip_storage_short", archive(values=VALUES[:12]).end())
write("zip_storage_long", archive(values=VALUES + b"more").end())
write("zip_byteorder", Zip().add("a/data.pkl", MODEL).add("a/byteorder", b"middle")
      .add("a/data/0", VALUES).end())
write("zip_storage_inflates_short", Zip().add("a/data.pkl", MODEL)
      .add("a/data/0", VALUES[:8], method=8, size=16).end())
z64 = Zip().add("a/data.pkl", MODEL, zip64=True).end(zip64=True)
write("zip_zip64_lies", z64.replace(b"PK\6\6" + struct.pack("<QHHIIQ", 44, 0, 0, 0, 0, 1),
                                    b"PK\6\6" + struct.pack("<QHHIIQ", 44, 0, 0, 0, 0, 2)))
# Pickles where nobody looks.
write("hidden_text", archive().add("a/notes.txt", pickled(RUN)).end())
write("hidden_storage", archive(pickled(mapping(w=tensor())), pickled(RUN)).end())
write("hidden_deflated", archive().add("a/notes.txt", pickled(RUN), method=8).end())
write("hidden_behind_pickle", b"\x80\x02}." + archive(pickled(RUN)).end())
write("other_7z", b"7z\xbc\xaf\x27\x1c" + bytes(40))
write("other_tar", b"storages".ljust(100, b"\0") + bytes(157) + b"ustar\x0000" + bytes(300))


def old_tar(name, data, checksum):
    """A tar archive of one file, without the signature that came later."""
    head = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + b"%011o\0" % len(data) + b"0" * 12)
    head += b" " * 8 + bytes(356)
    head[148:156] = checksum(sum(head)).ljust(8, b"\0")
    return bytes(head) + data.ljust(512, b"\0") + bytes(1024)


write("other_tar_unsigned", old_tar(b"pickle", pickled(RUN), lambda n: b"%06o" % n))
write("other_tar_binary", old_tar(b"pickle", pickled(RUN), lambda n: n.to_bytes(8, "big")[1:]
                                  .rjust(8, b"\x80")))
write("other_tar_signed", old_tar(b"pickle\xe9", pickled(RUN), lambda n: b"%06o" % (n - 256)))

# Pickles that run something, each in its way. The commands are harmless.
model("run_reduce", RUN)
model("run_in_model", mapping(w=tensor(), x=RUN))
model("run_popped", RUN + b"0" + mapping(w=tensor()))
model("run_exec", b"cbuiltins\nexec\n(" + text("pass") + b"tR")
model("run_python2", named("__builtin__", "eval") + group(text("0")) + b"R")
model("run_inst", b"(" + text("true") + b"ios\nsystem\n")
model("run_obj", b"(" + named("os", "system") + text("true") + b"o")
model("run_stack_global", short("os") + short("system") + b"\x93" + group(text("true")) + b"R")
model("run_put_pop_get", short("os") + b"q\x000" + short("system") + b"q\x010h\x00h\x01\x93"
      + group(text("true")) + b"R")
model("run_strings", b"S'\\x6fs'\nS'sys\\164em'\n\x93(S'true'\ntR")
model("run_unicode", b"V\\u006fs\nVsystem\n\x93(Vtrue\ntR")
model("run_text_memo", short("os") + b"p+1_0\n0" + short("system") + b"p 2\n0g10\ng2\n\x93)R")
MEMO = b"S'os'\np0\n0S'system'\np1\n0%s\ng1\n\x93(S'true'\ntR."
write("run_memo_minus", MEMO % b"g-0")
write("run_memo_nul", MEMO % b"g0\0not a number")
model("run_memo_again", number(3) + b"q\x000" + short("os") + b"q\x000" + short("system")
      + b"q\x010h\x00h\x01\x93" + group(text("true")) + b"R")
# MEMOIZE counts what is stored: the first one is number 1, although number 200 exists.
model("run_memo_counted", number(3) + b"q\xc80" + short("os") + b"\x940" + short("system")
      + b"\x940h\x01h\x02\x93" + group(text("true")) + b"R")
model("run_protocols", b"\x80\x04" + RUN + b"\x80\x020" + b"\x80\x05N")
model("run_missing_memo", RUN + b"0h\x63")
model("run_number_as_name", number(3) + short("system") + b"\x93)R")
model("run_made_name", call("_codecs", "encode", text("bf"), text("rot13")) + short("system")
      + b"\x93" + group(text("true")) + b"R")
model("run_dotted", short("torch") + short("serialization.os.system") + b"\x93"
      + group(text("true")) + b"R")
model("run_nested", call("torch.storage", "_load_from_bytes", b"C\x03abc"))
model("run_newobj", named("subprocess", "Popen") + group(text("true")) + b"\x81")
model("run_newobj_ex", named("subprocess", "Popen") + b")}\x92")
model("run_build", call("collections", "OrderedDict") + mapping(x=named("os", "system")) + b"b")
model("run_frame", b"\x95\x03" + bytes(7) + RUN)
# What is left of a frame is forgotten: Python imports os, and not what is written.
model("run_frame_lost", b"\x95" + struct.pack("<Q", 11) + b"cmypackage_" + RUN[1:])
model("run_frame_nested", b"\x95" + struct.pack("<Q", 10) + b"\x95" + struct.pack("<Q", 30) + b"N"
      + RUN)
model("run_nameless", short("antigravity") + short("") + b"\x93")
model("run_persistent", b"P" + b"0\n" + RUN)
model("run_long_line", b"S'" + b"a" * 70000 + b"'\n0" + RUN, method=8)
model("run_ext", b"\x82\x01" + RUN)
model("run_buffer", b"\x97" + RUN)
write("run_broken", archive(b"\x80\x02" + RUN + b"\xff\xff").end())
write("run_cut", archive(b"\x80\x02" + RUN).end())
write("run_second", pickled(b"}") + pickled(RUN))
write("run_bare", pickled(RUN))
write("run_bare_text", b"cos\nsystem\n(S'true'\ntR.")
write("run_eval_magic", pickled(call("builtins", "eval", text("0x1950a86a20f9469cfc6c")))
      + pickled(number(1001)) + pickled(b"}") + pickled(RUN))
GAPS = """builtins exec|builtins compile|builtins open|builtins breakpoint|builtins __import__|os popen
|subprocess run|pickle loads|_pickle loads|httplib HTTPConnection|urllib.request urlopen|requests.api
get|copy_reg add_extension|Queue Queue|SimpleXMLRPCServer resolve_dotted_attribute|asyncio.unix_events _UnixSubprocessTransport._start|bdb Bdb.run|cProfile run|code
InteractiveInterpreter.runcode|codecs open|ctypes CDLL|distutils.file_util write_file|doctest
debug_script|ensurepip _run_pip|functools partial|idlelib.autocomplete AutoComplete.fetch_completions
|imaplib IMAP4_stream|importlib import_module|io FileIO|lib2to3.pgen2.grammar Grammar.loads|linecache
updatecache|logging FileHandler|marshal loads|nt system|numpy.f2py.crackfortran getlincoef
|numpy.testing._private.utils runstring|operator attrgetter|pdb run|pip main|pkgutil resolve_name
|posix system|profile Profile.run|pty spawn|pydoc pipepager|runpy _run_code|shutil rmtree|smtplib SMTP
|socket create_connection|ssl SSLSocket|sys exit|timeit timeit|torch load|torch.hub load
|torch._dynamo.guards GuardBuilder.get|torch._inductor.codecache compile_file
|torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression
|torch.jit.unsupported_tensor_ops execWrapper|torch.serialization load
|torch.utils._config_module ConfigModule.load_config|torch.utils.bottleneck.__main__ run_cprofile
|torch.utils.collect_env run|torch.utils.data.datapipes.utils.decoder basichandlers
|trace Trace.run|types CodeType|uuid _get_command_stdout|venv main|webbrowser open
|_aix_support _read_cmd_output|_io FileIO|_osx_support _read_output|_pyrepl.pager pipe_pager
|__builtin__ getattr|commands getoutput|aiohttp.client ClientSession|cloudpickle.cloudpickle loads
|test.support.script_helper assert_python_ok""".replace("\n", " ").split("|")
write("run_no_proto", archive(b"(dp0\ng5\n" + RUN).end())
write("run_gaps", pickled(b"".join(named(*g.split()) + b"0" for g in GAPS) + b"N"))

# Pickles that are wrong.
model("pickle_unknown_global", call("mypackage.models", "Model"))
model("pickle_unknown_opcode", b"\xc3")
model("pickle_protocol", b"\x80\x06N")
model("pickle_text_opcode", b"I1\n")
model("pickle_long_text", b"X\xff\xff\xff\xff" + b"short")
model("pickle_long_text8", b"\x8d" + b"\xff" * 8 + b"short")
model("pickle_memo", b"h\x05")
model("pickle_underflow", b"}\x86")
model("pickle_below_mark", b"N(\x85")
model("pickle_no_mark", b"t")
model("pickle_odd", b"}(Nu")
model("pickle_append", b"}Na")
model("pickle_setitem", b"]NNs")
model("pickle_build", b"]Nb")
model("pickle_call_text", text("os.system") + b")R")
model("pickle_name_space", b"cos \nsystem\n)R")
model("pickle_empty", b"")
write("pickle_no_stop", archive(b"\x80\x02}").end())
model("pickle_marks", b"(" * 1000000, method=8)
model("pickle_list", b"](" + tensor() + b"e")
model("pickle_no_tensors", mapping(epoch=number(1)))
model("pickle_wrapped_cycle", b"}q\x01(" + text("state_dict") + b"h\x01u")

# Tensors that are wrong.
model("tensor_twice", b"}(" + text("w") + tensor() + text("w") + tensor() + b"u")
model("tensor_name_nul", b"}(" + text("w\0x") + tensor() + b"u")
model("tensor_name_bytes", b"}(" + text(b"w\xff") + tensor() + b"u")
model("tensor_negative_count", mapping(w=tensor(storage(count=-4))))
model("tensor_huge_count", mapping(w=tensor(storage(count=2**62))))
model("tensor_negative_size", mapping(w=tensor(size=(2, -2))))
model("tensor_negative_stride", mapping(w=tensor(stride=(-2, 1))))
model("tensor_negative_offset", mapping(w=tensor(offset=-1)))
model("tensor_offset", mapping(w=tensor(offset=1)))
model("tensor_offset_huge", mapping(w=tensor(offset=2**63 - 1)))
model("tensor_stride", mapping(w=tensor(stride=(3, 1))))
model("tensor_stride_overflow", mapping(w=tensor(size=(2**40, 2), stride=(2**40, 1))))
model("tensor_shape_overflow", mapping(w=tensor(size=(2**40, 2**40), stride=(0, 0))))
model("tensor_ranks_differ", mapping(w=tensor(stride=(1,))))
model("tensor_rank", mapping(w=tensor(size=(1,) * 65, stride=(1,) * 65)))
model("tensor_shape_text", mapping(w=call("torch._utils", "_rebuild_tensor_v2", storage(), number(0),
                                          text("x"), numbers((1,)))))
model("tensor_shape_texts", mapping(w=call("torch._utils", "_rebuild_tensor_v2", storage(),
                                           number(0), group(text("2")), numbers((1,)))))
model("tensor_few_arguments", mapping(w=call("torch._utils", "_rebuild_tensor_v2", storage())))
model("tensor_no_storage", mapping(w=call("torch._utils", "_rebuild_tensor_v2", number(0), number(0),
                                          numbers((1,)), numbers((1,)))))
model("tensor_storage_id", mapping(w=tensor(text("0") + b"Q")))
model("tensor_storage_type", mapping(w=tensor(storage("Size"))))
model("tensor_quantized", mapping(w=tensor(storage("QInt8Storage", count=16))))
model("tensor_complex", mapping(w=tensor(storage("ComplexDoubleStorage", count=1), size=(1,),
                                         stride=(1,))))
model("tensor_v3_no_type", mapping(w=tensor(storage("UntypedStorage", count=16,
                                                    module="torch.storage"),
                                            maker="_rebuild_tensor_v3")))
v3 = call("torch._utils", "_rebuild_tensor_v3",
          storage("UntypedStorage", count=16, module="torch.storage"), number(0), numbers((2,)),
          numbers((1,)), b"\x89", call("collections", "OrderedDict"),
          named("torch", "float4_e2m1fn_x2"))
model("tensor_v3_type", mapping(w=v3))
model("tensor_parameter_nest", mapping(w=b"".join([named("torch.nn.parameter", "Parameter") + b"("]
                                                  * 1000) + tensor() + b"tR" * 1000))
model("tensor_deep", b"}" + b"".join(text("state_dict") + b"}" for _ in range(20))
      + mapping(w=tensor())[1:] + b"s" * 20)

# The layout of before PyTorch 1.6.
MAGIC = pickled(number(0x1950A86A20F9469CFC6C))
FACTS = {"protocol_version": number(1001), "little_endian": b"\x88"}


def old(name, storages=(("0", VALUES),), body=mapping(w=tensor(storage(extra=b"N"))), keys=None,
        magic=MAGIC, protocol=1001, facts=mapping(**FACTS), cut=None):
    keys = [k for k, _ in storages] if keys is None else keys
    data = magic + pickled(number(protocol)) + pickled(facts) + pickled(body)
    data += pickled(b"](" + b"".join(map(text, keys)) + b"e")
    for _, values in storages:
        data += struct.pack("<q", len(values) // 4) + values
    write(name, data[:cut])


old("old_good")
old("old_view", body=mapping(w=tensor(storage(extra=group(text("1"), number(2), number(2))),
                                      size=(2,), stride=(1,))))
old("old_module", body=mapping(w=tensor(storage(extra=b"N")), m=group(
    text("module"), named("collections", "OrderedDict"), text("f.py"), text("source")) + b"Q"))
old("old_run", body=RUN)
old("old_import_in_magic", magic=pickled(number(0x1950A86A20F9469CFC6C) + b"0" + RUN))
old("old_view_beyond", body=mapping(w=tensor(storage(extra=group(text("1"), number(3), number(2))),
                                             size=(2,), stride=(1,))))
old("old_big_endian", facts=mapping(little_endian=b"\x89"))
old("old_no_facts", facts=b"N")
old("old_protocol", protocol=1000)
old("old_cut", cut=-1)
old("old_cut_pickle", cut=40)
old("old_count", storages=(("0", VALUES[:12]),))
old("old_count_negative", storages=(("0", VALUES),), body=mapping(w=tensor(storage(count=2**62))))
old("old_unknown_key", storages=(("7", VALUES),))
old("old_key_twice", keys=["0", "0"])
old("old_key_missing", storages=())
old("old_two_sizes", body=mapping(w=tensor(storage()), v=tensor(storage("HalfStorage"))))
