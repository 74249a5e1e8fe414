/* Lets Debian's User Mode Linux 6.1 start on CPUs with a large XSAVE area (AMX).
 *
 * UML saves and restores its processes' floating point state through a buffer of fixed size, which
 * the host's kernel refuses when its own state is larger. So reads go through a buffer that is large
 * enough, of which UML gets the part it asked for; writes are filled up with zeros, without the AMX
 * components, which UML does not know. Everything else goes to the kernel as it is.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { AREA = 1 << 16, XSTATE_BV = 512 };
static const uint64_t amx = 3ull << 17;

static char area[AREA]; /* UML's monitor is one thread */

static long get_xstate(pid_t pid, struct iovec *wanted)
{
    struct iovec all = {area, AREA};
    long done = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all);
    if (done == 0) {
        if (all.iov_len < wanted->iov_len)
            wanted->iov_len = all.iov_len;
        memcpy(wanted->iov_base, area, wanted->iov_len);
    }
    return done;
}

static long set_xstate(pid_t pid, const struct iovec *given)
{
    struct iovec all = {area, AREA};
    uint64_t components;
    long done = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all); /* its full length */
    if (done != 0)
        return done;
    size_t length = given->iov_len < all.iov_len ? given->iov_len : all.iov_len;
    memset(area, 0, AREA);
    memcpy(area, given->iov_base, length);
    memcpy(&components, area + XSTATE_BV, sizeof components);
    components &= ~amx;
    memcpy(area + XSTATE_BV, &components, sizeof components);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_GETREGSET && (uintptr_t)address == NT_X86_XSTATE)
        return get_xstate(pid, data);
    if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE)
        return set_xstate(pid, data);
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word; /* the system call stores the word, the C function returns it */
        long done = syscall(SYS_ptrace, request, pid, address, &word);
        if (done == 0)
            errno = 0;
        return done == 0 ? word : done;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
