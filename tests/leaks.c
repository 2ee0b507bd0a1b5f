/* What leak checkers are not to report; valgrind.supp is the same for valgrind. */

/* libhdf5 1.10 loses some bytes when it cannot read all of an object's header. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}
