/* Errors in completions: an LD_PRELOAD library that stands between a program and io_uring.
 *
 * Programs reach a ring through `syscall`. This one maps each ring a second time when it is set
 * up, counts the operations as they are handed over, and lets the chosen ones fail:
 *
 *   FAULT_FROM   number of the first one, from 1, among the operations of FAULT_ONLY
 *   FAULT_ONLY   read, write or sync; all three without it
 *   FAULT_STICKY 1: that one and all later ones
 *   FAULT_HOW    refused:  is not executed, and completes with FAULT_RESULT
 *                executed: is executed, and completes with FAULT_RESULT all the same
 *                short:    is executed with FAULT_RESULT bytes, and completes with their number
 *   FAULT_RESULT a negative error number, or a number of bytes
 *   FAULT_REPORT a file: gets a line for each operation that was struck
 *
 * The caller waits until what was struck has completed, so that no completion passes by unseen.
 * x86-64 and other machines where `syscall` takes its arguments in registers. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RINGS = 4096 };

struct ring {
  struct io_uring_params params;
  char *queues;
  char *completions;
  struct io_uring_sqe *entries;
};

static struct ring rings[RINGS];
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;
static long counted;
static long (*real)(long, ...);

static long number(const char *name) {
  const char *text = getenv(name);
  return text ? atol(text) : 0;
}

static int is(const char *name, const char *value) {
  const char *text = getenv(name);
  return text && !strcmp(text, value);
}

static void know(int fd, const struct io_uring_params *params) {
  struct ring *ring = &rings[fd];
  size_t queues = params->sq_off.array + params->sq_entries * sizeof(unsigned);
  size_t completions = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
  size_t entries = params->sq_entries * sizeof(struct io_uring_sqe);
  int protection = PROT_READ | PROT_WRITE;
  ring->params = *params;
  ring->queues = mmap(0, queues, protection, MAP_SHARED, fd, IORING_OFF_SQ_RING);
  ring->completions = mmap(0, completions, protection, MAP_SHARED, fd, IORING_OFF_CQ_RING);
  ring->entries = mmap(0, entries, protection, MAP_SHARED, fd, IORING_OFF_SQES);
}

static int counts(unsigned char opcode) {
  switch (opcode) {
  case IORING_OP_READ:
    return !getenv("FAULT_ONLY") || is("FAULT_ONLY", "read");
  case IORING_OP_WRITE:
    return !getenv("FAULT_ONLY") || is("FAULT_ONLY", "write");
  case IORING_OP_FSYNC:
    return !getenv("FAULT_ONLY") || is("FAULT_ONLY", "sync");
  default:
    return 0;
  }
}

/* Whether the next operation is one of those that fail. */
static int strikes(void) {
  long from = number("FAULT_FROM");
  pthread_mutex_lock(&counting);
  long this = ++counted;
  pthread_mutex_unlock(&counting);
  return from > 0 && (this == from || (this > from && is("FAULT_STICKY", "1")));
}

static void report(unsigned char opcode) {
  const char *path = getenv("FAULT_REPORT");
  const char *line = opcode == IORING_OP_READ    ? "read\n"
                     : opcode == IORING_OP_WRITE ? "write\n"
                                                 : "sync\n";
  int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
  if (fd >= 0) {
    if (write(fd, line, strlen(line)) < 0)
      abort();
    close(fd);
  }
}

/* Whether the operation has completed; then its completion says `result`, if that is to be. */
static int completed(struct ring *ring, uint64_t name, const long *result) {
  struct io_cqring_offsets *at = &ring->params.cq_off;
  unsigned head = __atomic_load_n((unsigned *)(ring->completions + at->head), __ATOMIC_ACQUIRE);
  unsigned tail = __atomic_load_n((unsigned *)(ring->completions + at->tail), __ATOMIC_ACQUIRE);
  struct io_uring_cqe *all = (struct io_uring_cqe *)(ring->completions + at->cqes);
  for (; head != tail; head++) {
    struct io_uring_cqe *one = &all[head & (ring->params.cq_entries - 1)];
    if (one->user_data == name) {
      if (result)
        one->res = (int)*result;
      return 1;
    }
  }
  return 0;
}

static long enter(int fd, long submit, long wait, long flags, long a4, long a5) {
  struct ring *ring = &rings[fd];
  struct io_sqring_offsets *at = &ring->params.sq_off;
  unsigned head = __atomic_load_n((unsigned *)(ring->queues + at->head), __ATOMIC_ACQUIRE);
  uint64_t names[64];
  int struck = 0;
  long result = number("FAULT_RESULT");
  for (long nth = 0; nth < submit && struck < 64; nth++) {
    unsigned place = (head + (unsigned)nth) & (ring->params.sq_entries - 1);
    unsigned index = ((unsigned *)(ring->queues + at->array))[place];
    struct io_uring_sqe *entry = &ring->entries[index];
    if (!counts(entry->opcode) || !strikes())
      continue;
    if (is("FAULT_HOW", "refused"))
      entry->fd = -1;
    else if (is("FAULT_HOW", "short") && entry->len > (unsigned)result)
      entry->len = (unsigned)result;
    report(entry->opcode);
    names[struck++] = entry->user_data;
  }
  long entered = real(SYS_io_uring_enter, (long)fd, submit, wait, flags, a4, a5);
  for (int nth = 0; nth < struck && entered == submit; nth++)
    while (!completed(ring, names[nth], is("FAULT_HOW", "short") ? NULL : &result))
      real(SYS_io_uring_enter, (long)fd, 0L, 0L, (long)IORING_ENTER_GETEVENTS, 0L, 0L);
  return entered;
}

long syscall(long call, ...) {
  __builtin_va_list list;
  long a[6];
  __builtin_va_start(list, call);
  for (int nth = 0; nth < 6; nth++)
    a[nth] = __builtin_va_arg(list, long);
  __builtin_va_end(list);
  if (!real)
    real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  if (call == SYS_io_uring_enter && a[0] >= 0 && a[0] < RINGS && rings[a[0]].queues)
    return enter((int)a[0], a[1], a[2], a[3], a[4], a[5]);
  long answer = real(call, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (call == SYS_io_uring_setup && answer >= 0 && answer < RINGS)
    know((int)answer, (const struct io_uring_params *)a[1]);
  return answer;
}
