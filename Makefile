# ckmerge, cktool, ckdistill: build, test, install. `make help` lists the targets.

# (make has a CC of its own, so ?= would not do.)
ifeq ($(origin CC),default)
CC     := gcc
endif
BUILD  ?= build
PREFIX ?= /usr/local
OPT    ?= -O2
CFLAGS ?= -g
PYTHON ?= python3

# (-Wno-pass-failed: without optimisation clang cannot do as "omp simd" says.)
WARN := -std=c11 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
        -Wpointer-arith -Wwrite-strings -Wundef -Wno-pass-failed
# -ffp-contract=off: multiply and add are fused only where the source says so, or else the bits of a
# merge would depend on the compiler.
ALL_CFLAGS := $(WARN) $(OPT) $(CFLAGS) -fopenmp -ffp-contract=off -D_GNU_SOURCE \
              -D_FILE_OFFSET_BITS=64 -I. -MMD -MP
# (--as-needed: ckmerge does not start slower for libraries that only ckdistill uses.)
LIBS := -Wl,--as-needed -lcjson -lcrypto -lz -lm

# HDF5 is optional: without it, .h5 files are refused with a word. `make HDF5=no` leaves it out.
HDF5 ?= $(shell pkg-config --exists hdf5 2>/dev/null && echo yes)
HDF5 := $(HDF5)
ifeq ($(HDF5),yes)
ALL_CFLAGS += -DCK_HAVE_HDF5 $(shell pkg-config --cflags hdf5)
LIBS += $(shell pkg-config --libs hdf5)
endif

# So are libpng and libjpeg: without them, images of their kind are refused.
PNG ?= $(shell pkg-config --exists libpng 2>/dev/null && echo yes)
PNG := $(PNG)
ifeq ($(PNG),yes)
ALL_CFLAGS += -DCK_HAVE_PNG $(shell pkg-config --cflags libpng)
LIBS += $(shell pkg-config --libs libpng)
endif
JPEG ?= $(shell pkg-config --exists libjpeg 2>/dev/null && echo yes)
JPEG := $(JPEG)
ifeq ($(JPEG),yes)
ALL_CFLAGS += -DCK_HAVE_JPEG $(shell pkg-config --cflags libjpeg)
LIBS += $(shell pkg-config --libs libjpeg)
endif

# And libyaml: without it, mergekit's recipes are refused.
YAML ?= $(shell pkg-config --exists yaml-0.1 2>/dev/null && echo yes)
YAML := $(YAML)
ifeq ($(YAML),yes)
ALL_CFLAGS += -DCK_HAVE_YAML $(shell pkg-config --cflags yaml-0.1)
LIBS += $(shell pkg-config --libs yaml-0.1)
endif

# LAPACK (OpenBLAS, LAPACKE) takes LoRAs out of models. Only its headers are needed here: it is
# loaded when it is used.
LAPACK ?= $(shell pkg-config --exists openblas lapacke 2>/dev/null && echo yes)
LAPACK := $(LAPACK)
ifeq ($(LAPACK),yes)
ALL_CFLAGS += -DCK_HAVE_LAPACK $(shell pkg-config --cflags openblas lapacke)
endif

# oneDNN 3 makes training fast. `make deps` brings it to deps/onednn, Debian's is too old; without
# it the plain kernels do the work. `make ONEDNN=no` leaves it out, as the sanitizers' builds do.
ONEDNN ?= $(shell test -e deps/onednn/lib/libdnnl.so && echo yes)
ONEDNN := $(ONEDNN)
ifeq ($(ONEDNN),yes)
ALL_CFLAGS += -DCK_HAVE_ONEDNN -isystem deps/onednn/include
LIBS += -Ldeps/onednn/lib -ldnnl -Wl,-rpath,$(abspath deps/onednn/lib):'$$ORIGIN/../lib/ckmerge'
endif

PROGRAMS := ckmerge cktool ckdistill
LIB_DIRS := kernels io merge merge/methods distill $(addprefix distill/,engine diffusion models data \
              judge methods run)
LIB_SRC  := $(filter-out $(PROGRAMS:%=merge/%.c) distill/ckdistill.c,$(wildcard $(LIB_DIRS:%=%/*.c)))
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o)
TESTS    := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
# What tests share: fixtures, fault injection, reference implementations; the kernels for GPUs, which
# here run on the processor.
TEST_OBJ := $(patsubst %.c,$(BUILD)/%.o,\
              $(filter-out tests/test_%.c tests/gpu_host.c tests/nccl_host.c tests/plugin_old.c,$(wildcard tests/*.c)) \
              $(wildcard kernels/cuda/*.c) distill/engine/cuda/updates.c)
FUZZERS  := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: all
all: found $(PROGRAMS:%=$(BUILD)/%)

# Objects depend on the flags they were compiled with.
FLAGS_NOW := $(CC) $(ALL_CFLAGS) $(LDFLAGS)
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@
.PHONY: FORCE

# Nobody looks at floating-point flags, or at errno after a root: so that loops with comparisons and
# roots become vectors.
$(BUILD)/kernels/nn_%.o $(BUILD)/kernels/cuda/%.o $(BUILD)/distill/%.o $(BUILD)/merge/methods/%.o \
    $(BUILD)/pic/%.o: ALL_CFLAGS += -fno-math-errno -fno-trapping-math

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/libck.a: $(LIB_OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/ckmerge $(BUILD)/cktool: $(BUILD)/%: $(BUILD)/merge/%.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/ckdistill: $(BUILD)/%: $(BUILD)/distill/%.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(TESTS:%=$(BUILD)/tests/%): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_OBJ) $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(LIBS)

# ---- The plugin that computes on a card (distill/engine/plugin.h) ----

$(BUILD)/pic/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIC -fvisibility=hidden -c -o $@ $<

# What it has of its own of the program's.
PLUGIN_SRC := io/error.c io/os.c io/utf8.c $(addprefix distill/engine/,shape.c full.c) $(addprefix distill/engine/cuda/,choices.c nccl.c operations.c updates.c)
PLUGIN_LD = $(CC) $(ALL_CFLAGS) $(LDFLAGS) -shared -o $@ $(filter %.o,$^)

# Made where NVIDIA's compiler, cuBLAS and cuDNN are (`make cuda`); programs need none of it.
NVCC := $(shell command -v nvcc 2>/dev/null)
CUDA_HOME ?= $(if $(NVCC),$(abspath $(dir $(realpath $(NVCC)))/..))
CUDA_CFLAGS := -isystem $(CUDA_HOME)/include
CUDA ?= $(shell test -n "$(NVCC)" && echo '\#include <cudnn.h>' | $(CC) $(CUDA_CFLAGS) -E - >/dev/null 2>&1 && \
    echo yes)
CUDA := $(CUDA)
# Cards of compute capability 8 and 9, and newer ones by way of the driver.
CUDA_ARCH := -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90]
CUDA_LIBS := $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib
CUDA_SRC := $(PLUGIN_SRC) $(addprefix distill/engine/cuda/,card.c convolutions.c plugin.c products.c)
CUDA_KERNELS := $(patsubst %.c,$(BUILD)/nv/%.o,$(wildcard kernels/cuda/*.c))
# (-fmad=false: nothing is fused there either, see kernels/cuda/gpu.h.)
$(BUILD)/nv/%.o: %.c kernels/cuda/gpu.h kernels/cuda/kernels.h
	@mkdir -p $(@D)
	$(NVCC) -x cu -std=c++20 -O3 -fmad=false -I. $(CUDA_ARCH) -Xcompiler -fPIC,-fvisibility=hidden -c -o $@ $<
$(CUDA_SRC:%.c=$(BUILD)/pic/%.o): ALL_CFLAGS += $(if $(filter yes,$(CUDA)),$(CUDA_CFLAGS))
$(BUILD)/libck-cuda.so: $(CUDA_SRC:%.c=$(BUILD)/pic/%.o) $(CUDA_KERNELS)
	$(PLUGIN_LD) -Wl,-z,defs $(addprefix -L,$(CUDA_LIBS)) $(addprefix -Wl$(comma)-rpath$(comma),$(CUDA_LIBS)) \
	    -lcublasLt -lcudnn -lcudart_static -lstdc++ -lrt -ldl -lpthread -lm
comma := ,

.PHONY: cuda
ifeq ($(CUDA),yes)
cuda: $(BUILD)/libck-cuda.so
else
cuda:
	@echo 'No plugin for cards: it needs nvcc (CUDA 13) on the PATH, and cudnn.h. All else works without it.' >&2
	@exit 1
endif

# What cuDNN says of convolutions, which it does without a card.
ifeq ($(CUDA),yes)
TESTS += test_cudnn
$(BUILD)/tests/gpu/test_cudnn.o: ALL_CFLAGS += $(CUDA_CFLAGS)
$(BUILD)/tests/test_cudnn: $(BUILD)/tests/gpu/test_cudnn.o $(BUILD)/pic/distill/engine/cuda/convolutions.o \
    $(BUILD)/pic/distill/engine/cuda/choices.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(LIBS) \
	    $(addprefix -L,$(CUDA_LIBS)) $(addprefix -Wl$(comma)-rpath$(comma),$(CUDA_LIBS)) \
	    -lcudnn -lcudart_static -ldl -lrt -lpthread
endif

# The one of the tests, which needs no card; and one of another version.
GPU_HOST_SRC := $(PLUGIN_SRC) $(wildcard kernels/cuda/*.c) distill/engine/reference_f32.c tests/gpu_host.c
$(BUILD)/tests/libck-cuda.so: $(GPU_HOST_SRC:%.c=$(BUILD)/pic/%.o) $(BUILD)/tests/libnccl.so.2
	$(PLUGIN_LD) -lm -ldl
$(BUILD)/tests/libnccl.so.2: $(BUILD)/pic/tests/nccl_host.o
	@mkdir -p $(@D)
	$(PLUGIN_LD) -Wl,-soname,libnccl.so.2 -ldl
$(BUILD)/tests/old/libck-cuda.so: $(BUILD)/pic/tests/plugin_old.o
	@mkdir -p $(@D)
	$(PLUGIN_LD)

# What the programs are made with.
version = $(shell pkg-config --modversion $(1) 2>/dev/null)
needed = $(or $(call version,$(1)),MISSING: `make deps` installs it)
.PHONY: found
found:
	@echo '  compiler   $(CC) $(shell $(CC) -dumpversion 2>/dev/null), $(OPT)'
	@echo '  cJSON      $(call needed,libcjson)'
	@echo '  OpenSSL    $(call needed,libcrypto)'
	@echo '  zlib       $(call needed,zlib)'
	@echo '  HDF5       $(if $(filter yes,$(HDF5)),$(call version,hdf5),without it: .h5 files cannot be read)'
	@echo '  libpng     $(if $(filter yes,$(PNG)),$(call version,libpng),without it: no PNG images)'
	@echo '  libjpeg    $(if $(filter yes,$(JPEG)),$(call version,libjpeg),without it: no JPEG images)'
	@echo '  libyaml    $(if $(filter yes,$(YAML)),$(call version,yaml-0.1),without it: no recipes of mergekit)'
	@echo '  LAPACK     $(if $(filter yes,$(LAPACK)),OpenBLAS $(call version,openblas),without it: no LoRAs are extracted)'
	@echo '  oneDNN     $(if $(filter yes,$(ONEDNN)),deps/onednn,without it: training is slower; `make deps` brings it)'
	@echo '  CUDA       $(if $(filter yes,$(CUDA)),$(NVCC): `make cuda` makes the plugin for cards,without it: no plugin for cards)'
	@echo '  build in   $(BUILD)/'

# ---- Packages ----

.PHONY: deps deps-mpi deps-clang deps-valgrind
deps:
	@tests/deps.sh
	@tests/onednn.sh
# (Only tests need it: programs load it when mpirun starts them.)
deps-mpi:
	@tests/deps.sh openmpi-bin
deps-clang:
	@tests/deps.sh clang libclang-rt-dev libomp-dev
deps-valgrind:
	@tests/deps.sh valgrind

# ---- Tests ----

# (What only other targets run is compiled, so that it keeps up.)
.PHONY: programs-and-tests test check
programs-and-tests: $(PROGRAMS:%=$(BUILD)/%) $(TESTS:%=$(BUILD)/tests/%) \
    $(BUILD)/tests/libck-cuda.so $(BUILD)/tests/old/libck-cuda.so \
    $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/bench/*.c tests/interop/*.c)) \
    $(if $(filter yes,$(CUDA)),$(BUILD)/libck-cuda.so)

test: deps deps-mpi
	@$(MAKE) --no-print-directory check

# `test` without the installation of packages.
check: programs-and-tests
	@CK_BUILD=$(BUILD) CK_PRESETS=$(abspath recipes/presets) tests/run.sh $(TESTS:%=$(BUILD)/tests/%)

# Every distillation method, on points in the plane: forty seconds.
.PHONY: checkerboard
checkerboard: $(BUILD)/ckdistill
	@tests/checkerboard.sh $(BUILD)

# The same, and the README's table of methods.
.PHONY: table
table: $(BUILD)/ckdistill
	@tests/checkerboard.sh $(BUILD) --table

# The same tests under sanitizers and valgrind, each in a build folder of its own. (Without oneDNN:
# they cannot see into it.)
SANITIZE := -g -fno-omit-frame-pointer -fno-sanitize-recover=all
.PHONY: asan tsan valgrind
asan: deps
	@ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 $(MAKE) --no-print-directory check \
	    BUILD=$(BUILD)/asan ONEDNN=no CUDA=no OPT=-O1 CFLAGS="$(SANITIZE) -fsanitize=address,undefined"

# gcc's OpenMP runtime synchronises in ways that ThreadSanitizer cannot see, and every parallel
# region would look like a race. clang's tells it (through libarcher, which loads itself) and is
# otherwise to be ignored.
tsan: deps deps-clang
	@TSAN_OPTIONS=ignore_noninstrumented_modules=1 $(MAKE) --no-print-directory check CC=clang \
	    BUILD=$(BUILD)/tsan ONEDNN=no CUDA=no OPT=-O1 CFLAGS="$(SANITIZE) -fsanitize=thread"

# valgrind knows no AVX-512; the threads that OpenMP keeps for later are leaks to it, though
# "possible" ones; and the HDF5 helper forbids itself the system calls that valgrind would make in it.
valgrind: deps deps-valgrind
	@CK_RUNNER="valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
	    --suppressions=tests/valgrind.supp --errors-for-leak-kinds=definite" \
	    CK_TEST_SECONDS=7200 CK_ISA=avx2 $(MAKE) --no-print-directory check \
	    BUILD=$(BUILD)/valgrind ONEDNN=no CUDA=no TESTS="$(filter-out test_hdf5 test_head,$(TESTS))"

# libFuzzer targets, each for a while on its corpus; a crash is a failure.
FUZZ_SECONDS ?= 20
.PHONY: fuzz
fuzz: deps deps-clang
	@$(MAKE) --no-print-directory fuzzers CC=clang BUILD=$(BUILD)/fuzz ONEDNN=no CUDA=no OPT=-O1 \
	    CFLAGS="$(SANITIZE) -fsanitize=address,undefined,fuzzer-no-link"
	@BUILD=$(BUILD)/fuzz SECONDS_EACH=$(FUZZ_SECONDS) tests/fuzz/run.sh $(FUZZERS)

.PHONY: fuzzers
fuzzers: $(FUZZERS:%=$(BUILD)/%)
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

# On a card. gpu-pack makes the folder that both need, $(BUILD)/gpu; it can be carried to a machine
# that has a card and little else. (Without oneDNN, which is large.) gpu-dry runs the same without a
# card, by the card that is none and a small network: whether the script is right.
.PHONY: gpu-pack test-gpu bench-gpu gpu-dry
gpu-pack:
	@$(MAKE) --no-print-directory gpu-pack-here BUILD=$(BUILD)/plain ONEDNN=no
	@rm -rf $(BUILD)/gpu $(BUILD)/gpu-results && mv $(BUILD)/plain/gpu $(BUILD)/plain/gpu.tar.gz $(BUILD)
.PHONY: gpu-pack-here
gpu-pack-here: cuda $(BUILD)/ckdistill $(BUILD)/step $(BUILD)/pass $(addprefix $(BUILD)/tests/,test_ops test_unet test_run test_world)
	@BUILD=$(BUILD) PYTHON=$(PYTHON) tests/gpu/pack.sh
test-gpu: gpu-pack
	@BUILD=$(BUILD) PYTHON=$(PYTHON) SECONDS_IN_ALL=3600 tests/gpu/card.sh tests
bench-gpu: gpu-pack
	@BUILD=$(BUILD) PYTHON=$(PYTHON) SECONDS_IN_ALL=3600 tests/gpu/card.sh bench
gpu-dry: programs-and-tests $(BUILD)/step $(BUILD)/pass
	@BUILD=$(BUILD) PYTHON=$(PYTHON) tests/gpu/dry.sh

# ---- Speed and other tools ----

.PHONY: bench interop demo
bench: all bench-train $(BUILD)/tests/test_kernels $(BUILD)/make_layout $(BUILD)/limits \
    $(BUILD)/measure
	@BUILD=$(BUILD) PYTHON=$(PYTHON) tests/bench/run.sh

# The training part alone, which needs no disk.
.PHONY: bench-train
bench-train: $(BUILD)/train
	@BUILD=$(BUILD) PYTHON=$(PYTHON) tests/bench/train.sh

# Sampling at SD1.5's and SDXL's sizes.
.PHONY: bench-sizes
bench-sizes: all $(BUILD)/make_layout $(BUILD)/measure
	@BUILD=$(BUILD) tests/bench/sizes.sh

$(BUILD)/make_layout $(BUILD)/limits $(BUILD)/measure $(BUILD)/train $(BUILD)/step $(BUILD)/pass: $(BUILD)/%: $(BUILD)/tests/bench/%.o \
    $(TEST_OBJ) $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(LIBS)

$(BUILD)/run_model: $(BUILD)/tests/interop/run_model.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/print_configs: $(BUILD)/tests/interop/print_configs.o $(TEST_OBJ) $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(LIBS)

# Against the Python libraries, those that $(PYTHON) has.
interop: all $(BUILD)/run_model $(BUILD)/print_configs
	@BUILD=$(BUILD) PYTHON=$(PYTHON) tests/interop/run.sh

demo: deps
	@tests/deps.sh dataset-fashion-mnist
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/demo.sh

# ---- Installation ----

.PHONY: install uninstall
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	for p in $(PROGRAMS); do \
	    install -m 755 $(BUILD)/$$p $(DESTDIR)$(PREFIX)/bin/$$p && \
	    $(BUILD)/$$p --man > $(DESTDIR)$(PREFIX)/share/man/man1/$$p.1 && \
	    $(BUILD)/$$p --completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$p && \
	    $(BUILD)/$$p --completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_$$p && \
	    $(BUILD)/$$p --completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$p.fish \
	    || exit 1; done
	test ! -e deps/onednn/lib/libdnnl.so.3 || install -D -m 755 deps/onednn/lib/libdnnl.so.3 \
	    $(DESTDIR)$(PREFIX)/lib/ckmerge/libdnnl.so.3
	test ! -e $(BUILD)/libck-cuda.so || install -D -m 755 $(BUILD)/libck-cuda.so \
	    $(DESTDIR)$(PREFIX)/lib/ckmerge/libck-cuda.so
	cd recipes && find . -type f -exec install -D -m 644 {} \
	    $(abspath $(DESTDIR)$(PREFIX))/share/ckmerge/recipes/{} \;

uninstall:
	for p in $(PROGRAMS); do rm -f $(DESTDIR)$(PREFIX)/bin/$$p \
	    $(DESTDIR)$(PREFIX)/share/man/man1/$$p.1 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$p \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_$$p \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$p.fish; done
	rm -rf $(DESTDIR)$(PREFIX)/share/ckmerge $(DESTDIR)$(PREFIX)/lib/ckmerge

.PHONY: format clean help
format:
	clang-format -i $(shell git ls-files '*.c' '*.h')

clean:
	rm -rf $(BUILD)

help:
	@echo "make            the programs, in $(BUILD)/"
	@echo "make deps       install the packages that are missing (Debian)"
	@echo "make cuda       the plugin that computes on NVIDIA's cards"
	@echo "make test       deps, build and run every test"
	@echo "make check      the same without installing anything"
	@echo "make demo       merge real, tiny models and show what happened"
	@echo "make bench-train  training steps beside torch's (PYTHON=... has it)"
	@echo "make test-gpu bench-gpu   the tests and the speed of the plugin, on a card"
	@echo "make gpu-dry    the same without a card, by the one that is none"
	@echo "make bench      measure against cp, torch and others (PARTS=..., see tests/bench/run.sh; 15 GB of disk)"
	@echo "make checkerboard  every distillation method on points in the plane (90 s)"
	@echo "make table      the same, and the README's table of them"
	@echo "make asan tsan valgrind   the tests under sanitizers and valgrind"
	@echo "make fuzz       fuzz every parser for FUZZ_SECONDS ($(FUZZ_SECONDS)) each"
	@echo "make interop    against the Python libraries (PYTHON=...)"
	@echo "make install    programs, manual pages, completion; PREFIX=$(PREFIX) DESTDIR="
	@echo "make uninstall clean format"
	@echo "Variables: BUILD=$(BUILD) CC=$(CC) OPT=$(OPT) CFLAGS=$(CFLAGS) HDF5=$(HDF5)"
	@echo "           PNG=$(PNG) JPEG=$(JPEG) LAPACK=$(LAPACK) YAML=$(YAML)"

.SECONDARY:
FOLDERS := $(LIB_DIRS) kernels/cuda distill/engine/cuda
-include $(wildcard $(addsuffix /*.d,$(addprefix $(BUILD)/,$(FOLDERS) $(FOLDERS:%=pic/%) pic/tests \
                                                           tests tests/bench tests/fuzz tests/interop)))
