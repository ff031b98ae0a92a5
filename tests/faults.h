/* Stands before the C library's malloc and free (LD_PRELOAD), for tests/test_faults.py: of the
   blocks that one module asks for while it is watched, refuses the n-th and counts those held. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

enum { MOST = 4096 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char module[64]; /* a part of its file's name; empty: nothing is watched */
static size_t least;       /* bytes of the smallest block that counts */
static long refused, asked, held;
static void *blocks[MOST];

void watch(const char *name, size_t bytes, long nth) {
    least = bytes, refused = nth, asked = 0, held = 0;
    memset(blocks, 0, sizeof blocks);
    strncpy(module, name, sizeof module - 1);
}

long blocks_asked(void) { return asked; }
long blocks_held(void) { return held; }

static int counts(size_t bytes, void *caller) {
    Dl_info info;
    if (!module[0] || bytes < least || !dladdr(caller, &info)) return 0;
    const char *path = strstr(info.dli_fname, module);
    return path && !strstr(path, "/../"); /* slidedot/_kernels/../../slidedot.libs/libgomp */
}

static int refuses(void) { return __atomic_add_fetch(&asked, 1, __ATOMIC_SEQ_CST) == refused; }

static void *keep(void *block) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST && block; i++)
        if (!blocks[i]) {
            blocks[i] = block, held++;
            break;
        }
    pthread_mutex_unlock(&lock);
    return block;
}

static void forget(void *block) {
    if (!module[0] || !held || !block) return;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; i++)
        if (blocks[i] == block) {
            blocks[i] = NULL, held--;
            break;
        }
    pthread_mutex_unlock(&lock);
}

void *malloc(size_t bytes) {
    if (!counts(bytes, __builtin_return_address(0))) return __libc_malloc(bytes);
    return refuses() ? NULL : keep(__libc_malloc(bytes));
}

void *calloc(size_t n, size_t bytes) {
    if (!counts(n * bytes, __builtin_return_address(0))) return __libc_calloc(n, bytes);
    return refuses() ? NULL : keep(__libc_calloc(n, bytes));
}

void *realloc(void *block, size_t bytes) {
    if (!counts(bytes, __builtin_return_address(0))) {
        forget(block);
        return __libc_realloc(block, bytes);
    }
    if (refuses()) return NULL;
    forget(block);
    return keep(__libc_realloc(block, bytes));
}

void free(void *block) {
    forget(block);
    __libc_free(block);
}
