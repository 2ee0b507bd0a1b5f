# ckmerge, cktool: build, test, install.
#   make           the programs, in build/
#   make test      everything is built and every test runs (installs what is missing)
#   make demo      merges real, tiny models and shows what happened
#   make help      the other targets

# (make has a CC of its own, so ?= would not do.)
ifeq ($(origin CC),default)
CC     := gcc
endif
BUILD  ?= build
PREFIX ?= /usr/local
OPT    ?= -O2
WARN   := -std=c11 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
          -Wpointer-arith -Wwrite-strings -Wundef
# -ffp-contract=off: a multiply and an add are fused only where the source says so, or else the
# bits would depend on the compiler.
CFLAGS ?= -g
ALL_CFLAGS := $(WARN) $(OPT) $(CFLAGS) -fopenmp -ffp-contract=off -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 \
              -I. -MMD -MP
LIBS   := -lcjson -lcrypto -lm

LIB_SRC  := $(wildcard kernels/*.c io/*.c merge/methods/*.c) \
            $(filter-out merge/ckmerge.c merge/cktool.c,$(wildcard merge/*.c))
PROGRAMS := ckmerge cktool
TESTS    := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))

LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)

.PHONY: all
all: $(PROGRAMS:%=$(BUILD)/%)

$(BUILD)/libck.a: $(LIB_OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/ckmerge: $(BUILD)/merge/ckmerge.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/cktool: $(BUILD)/merge/cktool.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libck.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(LIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
